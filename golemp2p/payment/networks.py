"""What a node must know of a chain to pay on it."""

from __future__ import annotations

from dataclasses import dataclass

from golemp2p.core.ids import Address

GWEI = 10**9


@dataclass(frozen=True)
class PaymentNetwork:
    """One chain and one token. ``name`` is what clients put in (YAGNA_)PAYMENT_NETWORK."""

    name: str
    chain_id: int
    token: Address
    symbol: str  # as in platform names, lower case: "glm", "tglm"
    rpc_url: str
    confirmations: int = 1  # blocks including the transaction's own until it is final for us
    driver: str = "erc20"
    max_fee_wei: int = 500 * GWEI  # never bid more per gas
    min_tip_wei: int = 1
    poll_s: float = 0.25  # how often to look while a payment is under way; about half a block time
    rebroadcast_s: float = 30.0  # the same bytes again when not mined after this long

    @property
    def platform(self) -> str:
        """ "<driver>-<network>-<token>", e.g. "erc20-local-tglm": the name in agreements and in clients."""
        return f"{self.driver}-{self.name}-{self.symbol.lower()}"
