"""How two nodes agree on a lane on a data stream, and go on without one when there is no way."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import structlog
import trio

from golemp2p import limits
from golemp2p.errors import GolemError, NetworkError, RemoteError, RemoteProtocolError
from golemp2p.net.datawire import Wire, encode_header
from golemp2p.net.lane import LaneStream
from golemp2p.net.laneoffer import Offer
from golemp2p.net.lanes import Lanes

log = structlog.get_logger(__name__)
Serve = Callable[[LaneStream], Awaitable[None]]


class NoLaneError(Exception):
    """The peer knows nothing of lanes; the stream that it was asked on is over."""


async def upgrade(wire: Wire, lanes: Lanes, alg: str = "", digest: str = "") -> Wire:
    """A lane to ``wire``'s peer, or ``wire`` itself when there is none or the named file is too small for one.

    We dial the peer; if that fails it dials us. Raises NoLaneError, NotFoundError (no such file), NetworkError.
    """
    peer = wire.stream.peer
    await wire.send(encode_header(["lane", await lanes.certificate(), alg, digest]))
    try:
        answer = await wire.answer()
    except (RemoteProtocolError, RemoteError) as exc:
        raise NoLaneError(str(exc)) from exc
    match answer:
        case [int(), None]:
            return wire
        case [int(), [*fields]]:
            offer = Offer.unpack(fields)
        case other:
            raise RemoteProtocolError(f"a data answer says {str(other)[:100]} for a lane")
    try:
        lane = await lanes.dial(peer, offer)
    except NetworkError as exc:
        log.debug("lane_asked_for", peer=peer, error=str(exc))
    else:
        await wire.stream.aclose()
        return Wire(lane)
    called = await _be_called(wire, lanes, offer)
    if called is None:
        log.info("no_lane", peer=peer)
        lanes.remember_unreachable(peer)
        return wire
    await wire.stream.aclose()
    return Wire(called)


async def _be_called(wire: Wire, lanes: Lanes, theirs: Offer) -> LaneStream | None:
    """Have the peer dial us."""
    send, receive = trio.open_memory_channel[LaneStream](1)

    async def deliver(lane: LaneStream) -> None:
        try:
            send.send_nowait(lane)
        except (trio.WouldBlock, trio.BrokenResourceError):
            await lane.reset()

    mine = await lanes.offer(wire.stream.peer, theirs.cert, deliver)
    if not mine.places:
        return None
    lane = None
    try:
        await wire.send(encode_header(["back", mine.pack()]))
        match await wire.answer():
            case [True]:
                with trio.move_on_after(limits.LANE_HANDSHAKE_S):
                    lane = await receive.receive()
                if lane is None:
                    raise NetworkError(f"{wire.stream.peer} says that it opened a lane, and none is here")
            case [False]:
                pass
            case other:
                raise RemoteProtocolError(f"a data answer says {str(other)[:100]} for a lane back")
    finally:
        lanes.withdraw(mine)
        with suppress(trio.WouldBlock):  # it came, and we were cancelled
            await receive.receive_nowait().reset()
        receive.close()
    return lane


async def grant(wire: Wire, lanes: Lanes | None, cert: bytes, size: int | None, serve: Serve) -> list[Any] | None:
    """Answer ``["lane", …]``; the next request on this stream, None when there is none. A lane is served meanwhile.

    ``size`` of the file that the lane is for, None for any.
    """
    peer = wire.stream.peer
    worth = lanes is not None and wire.lane is None and (size is None or size >= limits.LANE_MIN_BYTES)
    if lanes is None or not worth or not lanes.has_room(peer):
        await wire.send(encode_header(["ok", size or 0, None]))
        return await wire.next_header()
    mine = await lanes.offer(peer, cert, serve)
    await wire.send(encode_header(["ok", size or 0, mine.pack()]))
    header = await wire.next_header()
    if header is None:
        return None
    lanes.withdraw(mine)
    match header:
        case ["back", [*fields]]:
            offer = Offer.unpack(fields)
            try:
                lane = await lanes.dial(peer, offer)
            except GolemError as exc:
                log.debug("no_lane_back", peer=peer, error=str(exc))
                await wire.send(encode_header(["ok", False]))
                return await wire.next_header()
            try:
                await wire.send(encode_header(["ok", True]))
            except BaseException:
                await lane.reset()
                raise
            await serve(lane)
            return None
    return header
