"""Messages about voucher channels, of ``/golemp2p/payment/1`` (protocols/payment.md, "Channels")."""

from __future__ import annotations

from typing import Annotated, Final

from pydantic import Field

from golemp2p.wire.p2p.payment import Address, AmountText, Id, Message, Signature, TransactionHash

ANNOUNCE: Final = "channel.announce"
VOUCHER: Final = "channel.voucher"
CLAIMED: Final = "channel.claimed"

ChannelId = Annotated[str, Field(pattern=r"^0x[0-9a-f]{64}$")]


class AnnounceMessage(Message):
    """Payer to payee: this is the channel that our agreements are paid through."""

    platform: Id
    contract: Address
    payer: Address
    payee: Address
    signer: Address
    grace_s: Annotated[int, Field(ge=0, lt=2**63, strict=True)]
    salt: Annotated[bytes, Field(min_length=32, max_length=32, strict=True)]


class VoucherMessage(Message):
    """Payer to payee. ``total``: what of the channel's vouchers belongs to this agreement, in all."""

    channel_id: ChannelId
    cumulative: AmountText
    agreement_id: Id
    total: AmountText
    signature: Signature


class ClaimedMessage(Message):
    """Payee to payer: look at the chain. Nothing is believed of it."""

    channel_id: ChannelId
    transaction: TransactionHash
