"""The schema of a payment network, in golemp2p/networks/*.toml and in ``[[payment.networks]]`` of the settings.

Strict: unknown keys, mistyped addresses and plain-text URLs are errors. Golem's own file has an Amoy block whose keys
begin with a stray minus and a list without commas, and nobody noticed.
"""

from __future__ import annotations

import re
from ipaddress import ip_address
from typing import Annotated, Final, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from golemp2p.core.eip712 import keccak256
from golemp2p.core.money import parse_amount
from golemp2p.errors import UsageError

ENV_PREFIX: Final = "env:"
_ADDRESS: Final = re.compile(r"0x[0-9a-fA-F]{40}")
_VARIABLE: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,100}")


def check_address(text: str) -> str:
    """Lower case; one with capitals must have those of EIP-55, which find typing mistakes. Raises ValueError."""
    if not _ADDRESS.fullmatch(text):
        raise ValueError("an address is 0x and 40 hex digits")
    if text[2:] != text[2:].lower() and text != checksummed(text):
        raise ValueError(f"the capitals of this address are not its checksum: a digit may be wrong in {text}")
    return text.lower()


def checksummed(address: str) -> str:
    """With the capitals of EIP-55."""
    plain = address[2:].lower()
    digest = keccak256(plain.encode()).hex()
    return "0x" + "".join(c.upper() if int(d, 16) >= 8 else c for c, d in zip(plain, digest, strict=False))


def check_url(text: str) -> str:
    """https, or http on loopback; or "env:NAME", the variable that has it (its keys are secrets). Raises ValueError."""
    if text.startswith(ENV_PREFIX):
        if not _VARIABLE.fullmatch(text.removeprefix(ENV_PREFIX)):
            raise ValueError('it is "env:" and the name of a variable, e.g. "env:POLYGON_RPC"')
        return text
    try:  # never the URL in an error: it may hold a key
        parts = urlsplit(text)
        host, _ = parts.hostname, parts.port
    except ValueError:
        raise ValueError("this is no URL") from None
    if not host or parts.scheme not in ("http", "https"):
        raise ValueError("this is no URL of http or https")
    if parts.scheme == "http" and not is_loopback(host):
        raise ValueError(f"http to {host} can be read and changed on its way: https, or a host on loopback")
    return text


def is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def _check_amount(text: str) -> str:
    try:
        parse_amount(text)
    except UsageError as exc:
        raise ValueError(exc.message) from exc
    return text


AddressText = Annotated[str, AfterValidator(check_address)]
UrlText = Annotated[str, Field(max_length=2_000), AfterValidator(check_url)]
AmountText = Annotated[str, AfterValidator(_check_amount)]  # decimal text in the token
Gwei = Annotated[float, Field(ge=0, le=1e6, allow_inf_nan=False)]
Seconds = Annotated[float, Field(ge=0, le=1e7, allow_inf_nan=False)]
Blocks = Annotated[int, Field(ge=1, le=100_000)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


class CycleEntry(_Strict):
    """As payment.networks.Cycle. Amounts are decimal text."""

    interval_s: Seconds | None = None
    max_payees: Annotated[int, Field(ge=1, le=10_000)] | None = None
    max_total: AmountText | None = None
    due_margin_s: Seconds | None = None
    fee_parts: Annotated[int, Field(ge=0, le=1_000_000)] | None = None
    coin_price: Annotated[float, Field(ge=0, le=1e12, allow_inf_nan=False)] | None = None
    min_payout: AmountText | None = None


class NetworkEntry(_Strict):
    """What a person may set; all but the name is optional, for a network that is known by name.

    ``rpc_url`` is one more of ``rpc_urls``. Fields are those of payment.networks.PaymentNetwork.
    """

    name: Annotated[str, Field(pattern=r"^[a-z0-9-]{1,40}$")]
    chain_id: Annotated[int, Field(ge=1, lt=2**53)] | None = None
    token: AddressText | None = None
    symbol: Annotated[str, Field(pattern=r"^[A-Za-z0-9]{1,20}$")] | None = None
    token_symbol: Annotated[str, Field(max_length=40)] | None = None
    decimals: Literal[18] | None = None  # amounts are counted in 18 everywhere; no other token can be used
    coin: Annotated[str, Field(pattern=r"^[A-Za-z0-9]{1,10}$")] | None = None
    rpc_url: UrlText | None = Field(None, repr=False)  # they may hold keys
    rpc_urls: Annotated[list[UrlText], Field(min_length=1, max_length=16)] | None = Field(None, repr=False)
    quorum: Annotated[int, Field(ge=1, le=16)] | None = None
    confirmations: Blocks | None = None
    finality: Literal["depth", "finalized"] | None = None
    deep_confirmations: Blocks | None = None
    max_head_age_s: Seconds | None = None
    max_fee_gwei: Gwei | None = None
    min_tip_gwei: Gwei | None = None
    poll_s: Annotated[float, Field(ge=0.05, le=600)] | None = None
    rebroadcast_s: Annotated[float, Field(ge=1, le=86_400)] | None = None
    bump_after_s: Annotated[float, Field(ge=1, le=86_400)] | None = None
    batch: AddressText | None = None
    multi: AddressText | None = None
    max_legs: Annotated[int, Field(ge=1, le=200)] | None = None
    channels: AddressText | None = None
    lock: AddressText | None = None
    mint: AddressText | None = None
    mint_kind: Literal["", "token", "faucet"] | None = None
    faucet_hint: Annotated[str, Field(max_length=500)] | None = None
    explorer: UrlText | Literal[""] | None = None
    cycle: CycleEntry | None = None

    @model_validator(mode="after")
    def _mint_says_how(self) -> NetworkEntry:
        if self.mint is not None and self.mint_kind == "":
            raise ValueError('mint needs a mint_kind, "token" or "faucet"')
        return self

    def urls(self) -> list[str]:
        """``rpc_url`` first; each once."""
        return list(dict.fromkeys([*([self.rpc_url] if self.rpc_url else []), *(self.rpc_urls or [])]))


class Profile(NetworkEntry):
    """A whole network: what must be known is."""

    chain_id: Annotated[int, Field(ge=1, lt=2**53)]
    token: AddressText
    symbol: Annotated[str, Field(pattern=r"^[A-Za-z0-9]{1,20}$")] = "glm"

    @model_validator(mode="after")
    def _reachable(self) -> Profile:
        if not self.urls():
            raise ValueError("rpc_urls is missing")
        return self
