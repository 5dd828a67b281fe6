"""/golemp2p/v1/payment/channels: voucher channels of this node, and what those of its agreements are good for."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path
from starlette.responses import JSONResponse

from golemp2p.api.longpoll import Timeout
from golemp2p.api.moments import moment_of
from golemp2p.api.openapi import NULL, answers
from golemp2p.api.shapes import Me, listed
from golemp2p.api.wallet import require_owner
from golemp2p.core.ids import AgreementId
from golemp2p.core.money import format_amount
from golemp2p.core.payment.vouchers import CLOSED
from golemp2p.payment.service import PaymentService
from golemp2p.storage.channels import Channel
from golemp2p.wire.rest import channels as rest

ChannelId = Annotated[str, Path(max_length=80)]


def make_router(service: PaymentService) -> APIRouter:
    router = APIRouter(prefix="/golemp2p/v1/payment", tags=["payment"])
    channels = service.channels

    @router.get("/channels", response_model=list[rest.Channel])
    async def list_channels(_: Me, closed: bool = False) -> JSONResponse:
        """As last seen on the chain. ``closed``: with those that are closed for good."""
        return listed([_channel(c) for c in await channels.list_channels(closed=closed)])

    @router.post("/channels/{channel_id}/close", response_model=None, responses=answers(404, ok={200: NULL}))
    async def close(channel_id: ChannelId, me: Me) -> JSONResponse:
        """Ask for the rest back; it comes after the time of grace."""
        require_owner(me)
        await channels.close(channel_id.lower())
        return JSONResponse(None)

    @router.post("/channels/{channel_id}/claim", response_model=None, responses=answers(404, 408, ok={200: NULL}))
    async def claim(channel_id: ChannelId, me: Me) -> JSONResponse:
        """Turn the newest voucher into tokens now."""
        require_owner(me)
        await channels.claim(channel_id.lower())
        return JSONResponse(None)

    @router.get(
        "/agreements/{agreement_id}/channel", response_model=rest.ChannelVerdict, responses=answers(404, 408, 409)
    )
    async def verdict(agreement_id: str, _: Me, timeout: Timeout = 0.0) -> JSONResponse:
        """For the provider: whether the agreement's channel is good enough; waits for a deposit to become final."""
        refusal = await service.channel_refusal(AgreementId(agreement_id), timeout_s=timeout)
        return JSONResponse(rest.ChannelVerdict(refusal=refusal).to_json())

    @router.get("/agreements/{agreement_id}/cover", response_model=rest.ChannelCover)
    async def cover(agreement_id: str, _: Me) -> JSONResponse:
        found = await channels.cover(AgreementId(agreement_id))
        return JSONResponse(
            rest.ChannelCover(vouched=format_amount(found.vouched), secured=format_amount(found.secured)).to_json()
        )

    return router


def _channel(c: Channel) -> rest.Channel:
    return rest.Channel(
        id=c.id,
        side=c.side.value,
        state=c.state.value,
        platform=c.platform,
        peer=c.peer,
        payer=c.payer,
        payee=c.payee,
        signer=c.signer,
        grace_s=c.grace_s,
        deposit=format_amount(c.deposit),
        vouched=format_amount(c.cumulative),
        claimed=format_amount(c.claimed),
        unclaimed=format_amount(c.unclaimed),
        created=moment_of(c.created_at),
        closes=moment_of(c.close_at) if 0 < c.close_at < min(CLOSED, 2**40) else None,
        order=c.order or c.fund_order,
    )
