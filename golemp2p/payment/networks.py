"""What a node must know of a chain to pay on it. Profiles are data: golemp2p/networks/*.toml."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from pydantic import BaseModel

from golemp2p.core.ids import Address
from golemp2p.core.money import parse_amount
from golemp2p.core.payment.batching import Cycle
from golemp2p.errors import UsageError
from golemp2p.networks import Profile
from golemp2p.networks.schema import ENV_PREFIX, check_url

__all__ = ["GWEI", "Cycle", "PaymentNetwork", "of_profile"]

GWEI = 10**9
_AMOUNTS: Final = ("max_total", "min_payout")


@dataclass(frozen=True)
class PaymentNetwork:
    """One chain and one token. ``name`` is what clients put in (YAGNA_)PAYMENT_NETWORK."""

    name: str
    chain_id: int
    token: Address
    symbol: str  # as in platform names, lower case: "glm", "tglm"
    rpc_urls: tuple[str, ...] = field(repr=False)  # they may hold keys
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
    coin: str = "ETH"  # the chain's own coin, for people
    faucet_hint: str = ""  # where a person gets the chain's own coin
    explorer: str = ""  # URL prefix of a transaction's page, for messages
    cycle: Cycle = field(default_factory=Cycle)

    @property
    def platform(self) -> str:
        """ "<driver>-<network>-<token>", e.g. "erc20-local-tglm": the name in agreements and in clients."""
        return f"{self.driver}-{self.name}-{self.symbol.lower()}"


def of_profile(profile: Profile, environment: Mapping[str, str]) -> PaymentNetwork:
    """The network of a complete profile. ``environment``: where ``env:`` URLs are. Raises UsageError."""
    urls = _urls(profile, environment)
    cycle = {k: parse_amount(v) if k in _AMOUNTS else v for k, v in _set(profile.cycle).items()}
    values = _set(profile)
    for name in ("rpc_url", "cycle", "decimals"):
        values.pop(name, None)
    for gwei, wei in (("max_fee_gwei", "max_fee_wei"), ("min_tip_gwei", "min_tip_wei")):
        if gwei in values:
            values[wei] = round(values.pop(gwei) * GWEI)
    mint = profile.mint or (profile.token if profile.mint_kind == "token" else None)
    values |= {"rpc_urls": urls, "cycle": Cycle(**cycle), "mint": mint, "quorum": min(profile.quorum or 1, len(urls))}
    return PaymentNetwork(**values)


def _set(model: BaseModel | None) -> dict[str, Any]:
    return {} if model is None else model.model_dump(exclude_none=True)


def _urls(profile: Profile, environment: Mapping[str, str]) -> tuple[str, ...]:
    urls: list[str] = []
    for url in profile.urls():
        name = url.removeprefix(ENV_PREFIX)
        if name == url:
            urls.append(url)
            continue
        found = environment.get(name, "").replace(",", " ").split()
        if not found:
            raise UsageError(
                f"payment network {profile.name}: the environment variable {name} is not set",
                hint="it holds the URL of an RPC endpoint, or several with commas between",
            )
        for one in found:
            try:
                urls.append(check_url(one))
            except ValueError as exc:
                raise UsageError(f"payment network {profile.name}: the URL in {name}: {exc}") from exc
    return tuple(dict.fromkeys(urls))
