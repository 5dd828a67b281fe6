"""Voucher channels, the pure part: what a channel is, what is signed, what a voucher is worth.

A channel is named by the hash of its configuration; the chain stores how much is locked in it, how much was claimed and
whether it is closing. A voucher is the signer's word that the payee may claim so much *in all*: the newest one replaces
the others, and what it adds is always a difference. See protocols/payment.md, "Channels".

Digests are made by hand (10 us; eth-account's generic encoder takes 190). A test proves that both are the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Final

from golemp2p.core.eip712 import keccak256
from golemp2p.core.ids import Address
from golemp2p.core.money import ZERO, Amount, format_amount
from golemp2p.core.peer import recover_address
from golemp2p.core.properties import Properties, number
from golemp2p.errors import RemoteProtocolError, UsageError

CLOSED: Final = 2**64 - 1  # close time of a channel that is closed for good
MAX_DEPOSIT: Final = 2**96 - 1  # what fits the contract's word
MODES: Final = "golem.!exp.golemp2p.payment.modes"  # of the offer
MODE: Final = "golem.!exp.golemp2p.payment.mode"  # of the demand
EXPOSURE: Final = "golem.!exp.golemp2p.payment.exposure"  # GLM; what may be unvouched; of both, the demand's counts
BATCH: Final = "batch"
CHANNEL: Final = "channel"

_DOMAIN_TYPE: Final = keccak256(b"EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)")
_NAME: Final = keccak256(b"golemp2p channels")
_VERSION: Final = keccak256(b"1")
_VOUCHER_TYPE: Final = keccak256(b"Voucher(bytes32 channelId,uint128 cumulative)")


@dataclass(frozen=True)
class ChannelConfig:
    """What the contract hashes to a channel's id. ``grace_s``: from the payer's wish to close until it may."""

    payer: Address
    payee: Address
    signer: Address  # whose vouchers count; may be a hot key of the payer's
    grace_s: int
    salt: bytes  # 32

    @cached_property
    def encoded(self) -> bytes:
        """As the contract's ABI has it: five words."""
        addresses = b"".join(bytes(12) + bytes.fromhex(a[2:]) for a in (self.payer, self.payee, self.signer))
        return addresses + self.grace_s.to_bytes(32, "big") + self.salt

    @cached_property
    def id(self) -> bytes:
        return keccak256(self.encoded)


@dataclass(frozen=True)
class ChannelState:
    """What the chain says of a channel. ``close_at``: 0 open, CLOSED, else seconds since the epoch."""

    deposit: Amount = ZERO
    claimed: Amount = ZERO
    close_at: int = 0

    @property
    def is_open(self) -> bool:
        return self.close_at == 0

    @property
    def left(self) -> Amount:
        """Not claimed yet."""
        return Amount(self.deposit - self.claimed)


@dataclass(frozen=True)
class VoucherDomain:
    """What vouchers are valid for: one contract on one chain."""

    chain_id: int
    contract: Address

    @cached_property
    def separator(self) -> bytes:
        words = self.chain_id.to_bytes(32, "big") + bytes(12) + bytes.fromhex(self.contract[2:])
        return keccak256(_DOMAIN_TYPE + _NAME + _VERSION + words)

    def digest(self, channel_id: bytes, cumulative: int) -> bytes:
        """The 32 bytes that the signer signs."""
        struct = keccak256(_VOUCHER_TYPE + channel_id + cumulative.to_bytes(32, "big"))
        return keccak256(b"\x19\x01" + self.separator + struct)


@dataclass(frozen=True)
class Voucher:
    """``cumulative``: of the channel, over all agreements of the pair."""

    channel_id: bytes
    cumulative: Amount
    signature: bytes


def check_voucher(domain: VoucherDomain, config: ChannelConfig, voucher: Voucher) -> None:
    """Raises RemoteProtocolError when the contract would not take it."""
    if voucher.channel_id != config.id:
        raise RemoteProtocolError("the voucher is of another channel")
    if recover_address(domain.digest(voucher.channel_id, voucher.cumulative), voucher.signature) != config.signer:
        raise RemoteProtocolError(f"the voucher's signature is not that of {config.signer}")


@dataclass(frozen=True)
class Share:
    """What of a channel's cumulative belongs to one agreement, in the order in which it was vouched for."""

    agreement_id: str
    amount: Amount
    credited: Amount = ZERO


def credit_shares(shares: Sequence[Share], amount: Amount) -> list[tuple[Share, Amount]]:
    """``amount`` more of the channel is claimed: it pays the oldest shares first. Those that it pays, with how much."""
    result = []
    for share in shares:
        given = Amount(min(amount, share.amount - share.credited))
        amount = Amount(amount - given)
        if given:
            result.append((replace(share, credited=Amount(share.credited + given)), given))
    return result


def cut_shares(shares: Sequence[Share], amount: Amount) -> list[tuple[Share, Amount]]:
    """``amount`` of the channel can never be claimed: claims pay the oldest first, so it is missing in the newest.
    Those that it is cut off, with how much; never more than what is not credited yet."""
    result = []
    for share in reversed(shares):
        cut = Amount(min(amount, share.amount - share.credited))
        amount = Amount(amount - cut)
        if cut:
            result.append((replace(share, amount=Amount(share.amount - cut)), cut))
    return result


# --- terms ----------------------------------------------------------------------------------------------------------


def mode_of(demand: Properties) -> str:
    """The payment mode that a demand asks for; "batch" when it says nothing."""
    mode = demand.get(MODE)
    return mode if isinstance(mode, str) else BATCH


def exposure_of(demand: Properties, offer: Properties) -> float | None:
    """The agreed cap of what may be unvouched, in GLM: the demand's, else the offer's."""
    asked = number(demand.get(EXPOSURE))
    return asked if asked is not None else number(offer.get(EXPOSURE))


@dataclass(frozen=True)
class ChannelRules:
    """What a payee demands of a channel before it works for it."""

    payee: Address
    min_grace_s: int
    min_left: Amount  # not claimed and not vouched for yet

    def refusal_of_config(self, config: ChannelConfig, payer: Address) -> str:
        """Why such a channel will never do; "" when it may."""
        if config.payee != self.payee:
            return f"the channel's payee is {config.payee}, not {self.payee}"
        if config.payer != payer:
            return f"the channel's payer is {config.payer}, not the requestor ({payer})"
        if config.grace_s < self.min_grace_s:
            return f"the channel's time of grace is {config.grace_s} s; at least {self.min_grace_s} s is wanted"
        return ""

    def refusal_of_state(self, state: ChannelState, vouched: Amount) -> str:
        """Why it does not do now, by a final look at the chain; "" when it does."""
        if not state.is_open:
            return "the channel is closed" if state.close_at == CLOSED else "the channel is being closed"
        if state.deposit == 0:
            return "the channel has no deposit that is final"
        free = state.deposit - max(state.claimed, vouched)
        if free < self.min_left:
            return (
                f"the channel has {format_amount(max(0, free))} left; at least {format_amount(self.min_left)} is wanted"
            )
        return ""


@dataclass(frozen=True)
class Cover:
    """How sure the payee of an agreement is of its money. ``secured``: of ``vouched`` what the deposit covers."""

    vouched: Amount = ZERO
    secured: Amount = ZERO


def cover_of(state: ChannelState, cumulative: Amount, vouched: Amount) -> Cover:
    """``vouched``: under one agreement, of the channel's ``cumulative``. What exceeds the deposit is no one's yet; in a
    channel that is being closed only what was claimed is sure: the rest is a race, and a claim for each voucher."""
    beyond = max(0, cumulative - (state.deposit if state.is_open else state.claimed))
    return Cover(vouched, Amount(max(0, vouched - beyond)))


def check_top_up(state: ChannelState, amount: Amount) -> None:
    """Raises UsageError when the contract would refuse it."""
    if not state.is_open:
        raise UsageError("a channel that is closing or closed takes no more tokens")
    if state.deposit + amount > MAX_DEPOSIT:
        raise UsageError(f"a channel holds {format_amount(MAX_DEPOSIT)} at most")
