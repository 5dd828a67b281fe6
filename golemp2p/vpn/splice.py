"""Two byte streams joined into one: what one side sends the other gets, each direction to its own end.

After the tunnel's end the other direction goes on, but a silence of VPN_LINGER_S ends it: most who close are gone.
"""

from __future__ import annotations

import trio

from golemp2p import limits
from golemp2p.errors import NetworkError
from golemp2p.net.port import ByteStream


async def splice(tunnel: ByteStream, inner: trio.abc.HalfCloseableStream) -> None:
    """Until both directions have ended, or one broke, which breaks the other. Closes neither.

    Raises NetworkError when the tunnel broke; an inner stream that broke resets the tunnel.
    """
    failure: list[NetworkError] = []
    half_closed = False

    def linger() -> None:
        if half_closed:
            nursery.cancel_scope.deadline = trio.current_time() + limits.VPN_LINGER_S

    async def outwards() -> None:
        try:
            while data := await inner.receive_some(limits.VPN_READ_BYTES):
                await tunnel.write(bytes(data))
                linger()
            await tunnel.close_write()
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            await tunnel.reset()
            nursery.cancel_scope.cancel()
        except NetworkError as exc:
            failure.append(exc)
            nursery.cancel_scope.cancel()

    async def inwards() -> None:
        nonlocal half_closed
        try:
            while data := await tunnel.read(limits.VPN_READ_BYTES):
                await inner.send_all(data)
            half_closed = True
            linger()
            await inner.send_eof()
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass  # the other side may have something to say still; the reader notices a real end
        except NetworkError as exc:
            failure.append(exc)
            nursery.cancel_scope.cancel()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(outwards)
        nursery.start_soon(inwards)
    if failure:
        raise failure[0]
