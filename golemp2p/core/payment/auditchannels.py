"""Vouchers and claims of a journal: signed by whom the channel names, growing, and never more claimed than vouched."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from golemp2p.core.ids import Address
from golemp2p.core.money import ZERO, Amount, format_amount
from golemp2p.core.payment.auditbooks import require
from golemp2p.core.payment.machines import Side
from golemp2p.core.payment.vouchers import ChannelConfig, Voucher, VoucherDomain, check_voucher
from golemp2p.errors import RemoteProtocolError

VOUCHER_FIELDS: Final = (
    "side", "chainId", "contract", "payer", "payee", "signer", "grace", "salt", "channelId", "cumulative",
    "agreementTotal", "signature",
)  # fmt: skip
CLAIM_FIELDS: Final = (
    "side", "channelId", "chainId", "transaction", "blockNumber", "blockHash", "paid", "claimed", "agreements",
)  # fmt: skip
CLOSED_FIELDS: Final = ("side", "channelId", "chainId", "agreements")
_ADDRESS: Final = re.compile("0x[0-9a-f]{40}", re.ASCII)
_WORD: Final = re.compile("0x[0-9a-f]{64}", re.ASCII)
_SIGNATURE: Final = re.compile("[0-9a-f]{130}", re.ASCII)
_AMOUNT: Final = re.compile("0|[1-9][0-9]{0,38}", re.ASCII)


@dataclass
class _Channel:
    """As the vouchers of one side's journal prove it."""

    chain_id: int
    cumulative: Amount = ZERO
    claimed: Amount = ZERO
    totals: dict[str, Amount] = field(default_factory=dict)  # vouched, by agreement
    credited: dict[str, Amount] = field(default_factory=dict)
    closed: bool = False


class ChannelChecker:
    def __init__(self) -> None:
        self._channels: dict[tuple[str, Side], _Channel] = {}

    def voucher(self, side: Side, body: Mapping[str, Any], agreement_id: str, payer: Address, payee: Address) -> Amount:
        """How much more is vouched for the agreement. Raises RemoteProtocolError."""
        config, domain, voucher = _parse(body)
        if (config.payer, config.payee) != (payer, payee):
            raise RemoteProtocolError("the voucher's payer or payee is not the agreement's")
        check_voucher(domain, config, voucher)
        channel = self._channels.setdefault((body["channelId"], side), _Channel(domain.chain_id))
        require(not channel.closed, "the voucher is of a channel that was closed before")
        if voucher.cumulative < channel.cumulative:
            raise RemoteProtocolError(
                f"the voucher is over {format_amount(voucher.cumulative)} in all, less than the one before it"
                f" ({format_amount(channel.cumulative)})"
            )
        before, total = channel.totals.get(agreement_id, ZERO), _amount(body["agreementTotal"])
        if total < before:
            raise RemoteProtocolError("what is vouched for an agreement went down")
        totals = {**channel.totals, agreement_id: total}
        if sum(totals.values()) > voucher.cumulative:
            raise RemoteProtocolError("what is vouched for the agreements is more than the voucher")
        channel.totals, channel.cumulative = totals, voucher.cumulative
        return Amount(total - before)

    def claim(self, side: Side, body: Mapping[str, Any], narrowed: str = "") -> dict[str, Amount]:
        """What each agreement is paid by it. ``narrowed``: a file about this agreement alone. Raises."""
        channel = self._channels.get((str(body["channelId"]), side))
        if channel is None:
            raise RemoteProtocolError("the claim is of a channel without a voucher before it")
        require(not channel.closed, "the claim is of a channel that was closed before")
        if body["chainId"] != channel.chain_id or not _matches(_WORD, body["transaction"]):
            raise RemoteProtocolError("the claim's chain or transaction is malformed or another")
        claimed, paid = _amount(body["claimed"]), _amount(body["paid"])
        shares = _shares(body["agreements"])
        if sum(shares.values()) > paid:
            raise RemoteProtocolError("the agreements are paid more than was claimed")
        if narrowed == "" and claimed > channel.cumulative:
            raise RemoteProtocolError(
                f"{format_amount(claimed)} was claimed, {format_amount(channel.cumulative)} was vouched for"
            )
        if claimed - paid < channel.claimed:
            raise RemoteProtocolError("the claim was counted before")
        shares = {agreement: amount for agreement, amount in shares.items() if narrowed in ("", agreement)}
        for agreement, amount in shares.items():
            credited = Amount(channel.credited.get(agreement, ZERO) + amount)
            if credited > channel.totals.get(agreement, ZERO):
                raise RemoteProtocolError(f"agreement {agreement} is paid more than was vouched for it")
            channel.credited[agreement] = credited
        channel.claimed = claimed
        return shares

    def closed(self, side: Side, body: Mapping[str, Any], narrowed: str = "") -> dict[str, Amount]:
        """What of each agreement's vouchers can never be claimed. The node's own word, so it is bounded by what was
        vouched for and not claimed, and no claim may come after it. ``narrowed``: as for :meth:`claim`. Raises."""
        channel = self._channels.get((str(body["channelId"]), side))
        if channel is None:
            raise RemoteProtocolError("the channel that was closed is one without a voucher before it")
        require(side is Side.PAYER, "only a payer owes what a closed channel did not cover")
        require(body["chainId"] == channel.chain_id, "the closed channel's chain is another")
        require(not channel.closed, "the channel was closed before")
        shares = _shares(body["agreements"])
        if narrowed == "" and sum(shares.values()) > channel.cumulative - channel.claimed:
            raise RemoteProtocolError("the closed channel leaves more unclaimed than was vouched for and not claimed")
        shares = {agreement: amount for agreement, amount in shares.items() if narrowed in ("", agreement)}
        for agreement, amount in shares.items():
            if amount > channel.totals.get(agreement, ZERO) - channel.credited.get(agreement, ZERO):
                raise RemoteProtocolError(
                    f"the closed channel leaves more of agreement {agreement} unclaimed than was vouched for and not"
                    " claimed"
                )
        channel.closed = True
        return shares


def _parse(body: Mapping[str, Any]) -> tuple[ChannelConfig, VoucherDomain, Voucher]:
    for name in ("contract", "payer", "payee", "signer"):
        require(_matches(_ADDRESS, body[name]), f"{name} is no address")
    for name in ("salt", "channelId"):
        require(_matches(_WORD, body[name]), f"{name} is no hash")
    for name in ("chainId", "grace"):
        require(type(body[name]) is int and 0 <= body[name] < 2**53, f"{name} is no number")
    require(_matches(_SIGNATURE, body["signature"]), "the signature is malformed")
    config = ChannelConfig(
        Address(body["payer"]),
        Address(body["payee"]),
        Address(body["signer"]),
        body["grace"],
        bytes.fromhex(body["salt"][2:]),
    )
    voucher = Voucher(
        bytes.fromhex(body["channelId"][2:]), _amount(body["cumulative"]), bytes.fromhex(body["signature"])
    )
    return config, VoucherDomain(body["chainId"], Address(body["contract"])), voucher


def _shares(found: object) -> dict[str, Amount]:
    if not isinstance(found, list) or not all(
        isinstance(pair, list) and len(pair) == 2 and isinstance(pair[0], str) for pair in found
    ):
        raise RemoteProtocolError("the agreements are no pairs")
    shares = {str(agreement): _amount(amount) for agreement, amount in found}
    require(len(shares) == len(found), "an agreement is named twice")
    return shares


def _amount(text: object) -> Amount:
    require(isinstance(text, str) and _AMOUNT.fullmatch(text) is not None, "an amount is malformed")
    return Amount(int(str(text)))


def _matches(pattern: re.Pattern[str], found: object) -> bool:
    return isinstance(found, str) and pattern.fullmatch(found) is not None
