"""JSON of /golemp2p/v1/payment/channels and of what an agreement's channel is good for. Amounts are decimal strings."""

from __future__ import annotations

from golemp2p.wire.rest.base import RestModel, Timestamp


class Channel(RestModel):
    """``side``: "payer" or "payee"; ``state``: live, retired (being closed), done. ``unclaimed``: vouched for and
    locked; ``closes``: from when on the rest goes back to the payer."""

    id: str
    side: str
    state: str
    platform: str
    peer: str
    payer: str
    payee: str
    signer: str
    grace_s: int
    deposit: str
    vouched: str
    claimed: str
    unclaimed: str
    created: Timestamp
    closes: Timestamp | None = None
    order: str | None = None


class ChannelVerdict(RestModel):
    """Whether a provider may work under an agreement; ``refusal`` says why not."""

    refusal: str = ""


class ChannelCover(RestModel):
    """What is vouched for under an agreement, and what of it the deposit covers."""

    vouched: str
    secured: str
