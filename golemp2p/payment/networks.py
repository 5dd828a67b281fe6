"""What a node must know of a chain to pay on it. Profiles are data: golemp2p/networks/*.toml."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from golemp2p.core.ids import Address
from golemp2p.core.money import ZERO, Amount

GWEI = 10**9


@dataclass(frozen=True)
class Cycle:
    """When debts are gathered into a transaction. Whichever comes first; all zero: at once.

    ``fee_parts``: before its due date a batch waits while its fee is more than one part in so many of its sum, at
    ``coin_price`` tokens for one of the chain's own coins (0: the fee is not looked at).
    ``min_payout``: what one payee is owed stays owed, and rolls over, while it is less.
    """

    interval_s: float = 0.0  # since the oldest debt
    max_payees: int = 1  # so many payees wait
    max_total: Amount = ZERO  # so much is owed in all; 0: any sum
    due_margin_s: float = 60.0  # before the earliest due date
    fee_parts: int = 0
    coin_price: float = 0.0
    min_payout: Amount = ZERO


@dataclass(frozen=True)
class PaymentNetwork:
    """One chain and one token. ``name`` is what clients put in (YAGNA_)PAYMENT_NETWORK."""

    name: str
    chain_id: int
    token: Address
    symbol: str  # as in platform names, lower case: "glm", "tglm"
    rpc_urls: tuple[str, ...]
    token_symbol: str = ""  # as the token's contract has it; "" is not checked
    quorum: int = 1  # endpoints that must agree on reads that move money; never more than there are
    confirmations: int = 1  # blocks including the transaction's own until it counts as mined for good
    finality: Literal["depth", "finalized"] = "depth"  # "finalized": the chain's tag must have passed it too
    deep_confirmations: int = 256  # enough without the tag, when the tag stands still
    max_head_age_s: float = 0.0  # an endpoint whose head is older is not asked; 0: blocks come only when needed
    driver: str = "erc20"
    max_fee_wei: int = 500 * GWEI  # never bid more per gas
    min_tip_wei: int = 1
    poll_s: float = 0.25  # how often to look while a payment is under way; about half a block time
    rebroadcast_s: float = 30.0  # the same bytes again when not mined after this long
    bump_after_s: float = 30.0  # a higher bid when not mined after this long
    batch: Address | None = None  # BatchPayer (protocols/contracts)
    multi: Address | None = None  # Golem's deployed multi-transfer
    max_legs: int = 100  # payees in one transaction
    channels: Address | None = None  # VoucherChannels (protocols/contracts)
    lock: Address | None = None  # Golem's LockPayment (deposits)
    mint: Address | None = None  # tokens for nothing, on test networks
    mint_kind: Literal["", "token", "faucet"] = ""  # "token": mint(address,uint256); "faucet": Golem's create()
    faucet_hint: str = ""  # where a person gets the chain's own coin
    explorer: str = ""  # URL prefix of a transaction's page, for messages
    cycle: Cycle = field(default_factory=Cycle)

    @property
    def platform(self) -> str:
        """ "<driver>-<network>-<token>", e.g. "erc20-local-tglm": the name in agreements and in clients."""
        return f"{self.driver}-{self.name}-{self.symbol.lower()}"
