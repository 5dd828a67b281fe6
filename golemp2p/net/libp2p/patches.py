"""Every change that golemp2p makes to libp2p at run time, each with its reason. Nothing else patches libp2p.

The names (a, b, c, s, u, w) are those of the measurements in tests/integration/net/test_patches.py and
scripts/bench/net.py. :func:`apply` refuses any other version than 0.8.1 and any patched function whose source is not
the one that was read: a patch over unknown code is a fault that shows months later.
"""

from __future__ import annotations

import hashlib
import inspect
import logging
import struct
import time
from collections import OrderedDict
from collections.abc import Callable
from importlib.metadata import version
from typing import Any, Final
from weakref import WeakKeyDictionary

import structlog
import trio

from golemp2p import limits
from golemp2p.errors import InternalError
from golemp2p.net.libp2p import lean_import

lean_import.install()

import libp2p.io.trio as tcp_io  # noqa: E402 - lean_import must come first
import libp2p.kad_dht.kad_dht as kad  # noqa: E402
import libp2p.kad_dht.peer_routing as kad_routing  # noqa: E402
import libp2p.kad_dht.provider_store as kad_providers  # noqa: E402
import libp2p.kad_dht.value_store as kad_values  # noqa: E402
import libp2p.network.connection.swarm_connection as swarm_connection  # noqa: E402
import libp2p.network.swarm as swarm  # noqa: E402
import libp2p.peer.peerstore as peerstore  # noqa: E402
import libp2p.pubsub.gossipsub as gossipsub  # noqa: E402
import libp2p.pubsub.pubsub as pubsub  # noqa: E402
import libp2p.pubsub.rpc_queue as rpc_queue  # noqa: E402
import libp2p.pubsub.utils as pubsub_utils  # noqa: E402
import libp2p.stream_muxer.yamux.yamux as yamux  # noqa: E402
import libp2p.utils.varint as varint  # noqa: E402
from libp2p.kad_dht import common as kad_common  # noqa: E402
from libp2p.network.connection.exceptions import RawConnError  # noqa: E402
from libp2p.stream_muxer.exceptions import MuxedStreamError  # noqa: E402

from golemp2p.net.libp2p.pnet import protect  # noqa: E402

log = structlog.get_logger(__name__)
VERSION: Final = "0.8.1"
KAD_PROTOCOL: Final = "/golemp2p/kad/1"
ALL: Final = frozenset("abcdhklmpqsuvw")
# sha-256 (first 16 digits) of the source of what is replaced.
SOURCES: Final = {
    "YamuxStream.write": "d87f74dfb53ab194",
    "YamuxStream.__init__": "ab24c0709285d573",
    "YamuxStream._auto_tune_and_send_window_update": "6ebcbd822fe7f996",
    "Yamux._write_frame": "16ff969cdd0d2b1b",
    "Yamux.handle_incoming": "ad15ff6943feac20",
    "TrioTCPStream.read": "c606ac89ec9d0eae",
    "maybe_consume_signed_record": "11b2181c27d75df4",
    "RpcQueue.__init__": "29b912ed933ac51f",
    "Pubsub._is_subscribed_to_msg": "fb0271117bb6936e",
    "Pubsub.push_msg": "1531483ab4d77674",
    "read_varint_prefixed_bytes_limited": "75623a1c5c4e2c39",
    "env_to_send_in_RPC": "9fea9d702c187d22",
}
applied: frozenset[str] | None = None


def _patched() -> dict[str, Callable[..., Any]]:
    return {
        "YamuxStream.write": yamux.YamuxStream.write,
        "YamuxStream.__init__": yamux.YamuxStream.__init__,
        "YamuxStream._auto_tune_and_send_window_update": yamux.YamuxStream._auto_tune_and_send_window_update,
        "Yamux._write_frame": yamux.Yamux._write_frame,
        "Yamux.handle_incoming": yamux.Yamux.handle_incoming,
        "TrioTCPStream.read": tcp_io.TrioTCPStream.read,
        "maybe_consume_signed_record": pubsub_utils.maybe_consume_signed_record,
        "env_to_send_in_RPC": peerstore.env_to_send_in_RPC,
        "RpcQueue.__init__": rpc_queue.RpcQueue.__init__,
        "Pubsub._is_subscribed_to_msg": pubsub.Pubsub._is_subscribed_to_msg,
        "Pubsub.push_msg": pubsub.Pubsub.push_msg,
        "read_varint_prefixed_bytes_limited": varint.read_varint_prefixed_bytes_limited,
    }


def source_hashes() -> dict[str, str]:
    """Of the functions as installed; call before :func:`apply`."""
    return {
        name: hashlib.sha256(inspect.getsource(function).encode()).hexdigest()[:16]
        for name, function in _patched().items()
    }


def apply(only: frozenset[str] = ALL) -> None:
    """Patch once per process. ``only`` is for measurements. Raises InternalError on an unknown libp2p."""
    global applied
    if applied is not None:
        return
    found = version("libp2p")
    if found != VERSION:
        raise InternalError(
            f"libp2p {found} is installed, golemp2p knows {VERSION}", hint=f"pip install libp2p=={VERSION}"
        )
    wrong = [name for name, digest in source_hashes().items() if SOURCES[name] != digest]
    if wrong:
        raise InternalError(f"libp2p {VERSION} is not the released one: {', '.join(wrong)} differ", hint="reinstall it")
    for name in sorted(only):
        _APPLY[name]()
    applied = only


# u: libp2p sends a WINDOW_UPDATE frame for nearly every read, which is most of its frames. We add up what was read and
#    send one when half the window is consumed, growing the window once to 1 MiB (libp2p: up to 16 MiB that a peer can
#    make us hold). Shielded: the bytes have left the buffer, a cancellation here would lose them.
async def _window_update(self: Any, *, bytes_read: int = 0) -> None:
    self._pending_recv_release += bytes_read
    if self._pending_recv_release < self.target_recv_window // 2 or self.recv_closed:
        return
    increment = self._pending_recv_release
    self._pending_recv_release = 0
    if self.target_recv_window < limits.STREAM_WINDOW_BYTES:
        increment += limits.STREAM_WINDOW_BYTES - self.target_recv_window
        self.target_recv_window = limits.STREAM_WINDOW_BYTES
    self.recv_window += increment
    with trio.CancelScope(shield=True):
        await self.send_window_update(increment)


def _apply_u() -> None:
    yamux.YamuxStream._auto_tune_and_send_window_update = _window_update


# w: libp2p's writer polls for window every 10 ms and resets the stream after 5 s of a reader that pauses. Ours waits
#    on an event, set when the window grows or the stream ends, for as long as a slow reader may take.
def _signalling(name: str) -> property:
    def get(self: Any) -> Any:
        return self.__dict__[name]

    def put(self: Any, value: Any) -> None:
        self.__dict__[name] = value
        event = self.__dict__.get("window_event")
        if event is not None and value:
            event.set()

    return property(get, put)


async def _stream_write(self: Any, data: bytes) -> None:
    sent, total = 0, len(data)
    while sent < total:
        if self.send_closed or self.closed:
            raise MuxedStreamError("the stream is closed for sending")
        if self.send_window <= 0:
            self.window_event = event = trio.Event()
            with trio.move_on_after(limits.WRITE_STALL_TIMEOUT_S) as scope:
                await event.wait()
            if scope.cancelled_caught:
                raise MuxedStreamError(f"the reader took nothing for {limits.WRITE_STALL_TIMEOUT_S:.0f} s")
            continue
        n = min(self.send_window, yamux.MAX_MESSAGE_SIZE - yamux.HEADER_SIZE, total - sent)
        self.send_window -= n
        header = struct.pack(yamux.YAMUX_HEADER_FORMAT, 0, yamux.TYPE_DATA, 0, self.stream_id, n)
        await self.conn._write_frame(header + data[sent : sent + n])
        sent += n


def _apply_w() -> None:
    yamux.YamuxStream.write = _stream_write
    for name in ("send_window", "closed", "send_closed"):
        setattr(yamux.YamuxStream, name, _signalling(name))


# a: a full Yamux frame (64 KiB) spills 17 bytes into a second Noise packet; 65519 is what one packet holds.
def _apply_a() -> None:
    yamux.MAX_MESSAGE_SIZE = 65_519


# b: two system calls per Noise packet (length, body); one large read serves many.
async def _buffered_read(self: Any, n: int | None = None) -> bytes:
    if n == 0:
        return b""
    async with self.read_lock:
        buffer: bytes = self.__dict__.get("_buffer", b"")
        position: int = self.__dict__.get("_position", 0)
        if position >= len(buffer):
            try:
                buffer = bytes(await self.stream.receive_some(limits.TCP_READ_BUFFER_BYTES))
            except trio.BrokenResourceError as error:
                raise tcp_io.ConnectionClosedError(f"TCP connection reset by peer: {error}", transport="tcp") from error
            except trio.ClosedResourceError:
                return b""
            position = 0
            self._buffer = buffer
        end = len(buffer) if n is None or n < 0 else min(len(buffer), position + n)
        self._position = end
        return buffer[position:end]


def _apply_b() -> None:
    tcp_io.TrioTCPStream.read = _buffered_read


# c: a cancelled write leaves half a Noise packet on the wire (or a nonce used and not sent) and so breaks the whole
#    connection in silence. A frame once begun is written to its end; a socket that takes nothing is closed.
#    libp2p's checkpoint after the write is left out too: a Cancelled there makes a sent frame look unsent.
async def _write_frame(self: Any, data: bytes) -> None:
    async with self._write_lock:
        with trio.CancelScope(shield=True, deadline=trio.current_time() + limits.FRAME_WRITE_TIMEOUT_S) as scope:
            await self.secured_conn.write(data)
        if scope.cancelled_caught:
            await self.secured_conn.close()  # the reading task sees the end and cleans up
            raise RawConnError("the peer's socket takes no data")


def _apply_c() -> None:
    yamux.Yamux._write_frame = _write_frame


# s: every gossip RPC carries the sender's signed address record; libp2p verifies it each time (and serialises ours
#    each time). Same bytes from the same peer within ten minutes are verified already.
_RECORD_FRESH_S: Final = 600.0
_OWN_RECORD_FRESH_S: Final = 5.0
_verified: WeakKeyDictionary[Any, OrderedDict[Any, tuple[bytes, float]]] = WeakKeyDictionary()
_own_record: WeakKeyDictionary[Any, tuple[bytes, float]] = WeakKeyDictionary()


def _apply_s() -> None:
    verify, make = pubsub_utils.maybe_consume_signed_record, peerstore.env_to_send_in_RPC

    def consume(message: Any, host: Any, peer_id: Any) -> bool:
        if not message.HasField("senderRecord"):
            return True
        known = _verified.setdefault(host, OrderedDict())
        record, now = message.senderRecord, time.monotonic()
        previous = known.get(peer_id)
        if previous is not None and previous[0] == record and now - previous[1] < _RECORD_FRESH_S:
            return True
        if not verify(message, host, peer_id):
            return False
        known[peer_id] = (record, now)
        if len(known) > limits.MAX_CONNECTIONS:
            known.popitem(last=False)
        return True

    def own(host: Any) -> tuple[bytes, bool]:
        cached, now = _own_record.get(host), time.monotonic()
        if cached is not None and now - cached[1] < _OWN_RECORD_FRESH_S:
            return cached[0], False
        envelope, fresh = make(host)
        _own_record[host] = (envelope, now)
        return envelope, fresh

    pubsub.maybe_consume_signed_record = gossipsub.maybe_consume_signed_record = consume
    pubsub.env_to_send_in_RPC = gossipsub.env_to_send_in_RPC = own


# d: a gossip message comes once from each of several neighbours; libp2p starts a task for each before it looks whether
#    the message was seen already, which costs more than anything else about it.
def _apply_d() -> None:
    subscribed = pubsub.Pubsub._is_subscribed_to_msg

    def is_news(self: Any, message: Any) -> bool:
        return subscribed(self, message) and not self._is_msg_seen(message)

    pubsub.Pubsub._is_subscribed_to_msg = is_news


# h: a dialler waits out the "happy eyeballs" delay (250 ms) even when its first address has answered.
def _apply_h() -> None:
    swarm._HAPPY_EYEBALLS_DELAY = 0.005


# k: KadDHT stores its protocol_prefix and then uses /ipfs/kad/1.0.0 everywhere: we would join the public IPFS DHT.
def _apply_k() -> None:
    for module in (kad_common, kad, kad_routing, kad_providers, kad_values):
        module.PROTOCOL_ID = KAD_PROTOCOL


# l: swarm_connection logs through the root logger's functions, which install a handler on stderr as a side effect.
def _apply_l() -> None:
    swarm_connection.logging = logging.getLogger("libp2p.network.connection")


# m: each gossip message is a task of gossip's own; what it raises ends gossip and with it the node. libp2p raises for a
#    message whose sender's key is none, before any signature is looked at: anybody could end anybody's node.
def _apply_m() -> None:
    push = pubsub.Pubsub.push_msg

    async def contained(self: Any, forwarder: Any, message: Any) -> None:
        try:
            await push(self, forwarder, message)
        except Exception as exc:
            if forwarder == self.my_id:
                raise
            log.debug("gossip message refused", forwarder=str(forwarder), error=repr(exc)[:200])

    pubsub.Pubsub.push_msg = contained


# p: libp2p's private networks use Salsa20 with an 8-byte nonce; everybody else's XSalsa20, as the specification says.
def _apply_p() -> None:
    swarm.new_protected_conn = protect


# q: the queues between gossip and its subscriber, and between gossip and each peer, have 32 places and drop silently: a
#    node that forwards to nine peers lost 14 % of a burst of 150 messages.
def _apply_q() -> None:
    pubsub.SUBSCRIPTION_CHANNEL_SIZE = limits.GOSSIP_QUEUE
    _size, *others = rpc_queue.RpcQueue.__init__.__defaults__
    rpc_queue.RpcQueue.__init__.__defaults__ = (limits.GOSSIP_PEER_QUEUE, *others)


# v: gossip reads the length before each message byte by byte through five layers; we read what is there and cut it up.
_VARINT_BYTES: Final = 10


async def _read_prefixed(reader: Any, max_length: int) -> bytes:
    buffer: bytearray = reader.__dict__.setdefault("_golemp2p_buffer", bytearray())
    while True:
        end = next((i for i, byte in enumerate(buffer[:_VARINT_BYTES]) if byte < 0x80), None)
        if end is None and len(buffer) >= _VARINT_BYTES:
            raise varint.ParseError("a length prefix has more than 64 bits")
        if end is not None:
            length = varint.decode_uvarint(bytes(buffer[: end + 1]))
            if length > max_length:
                raise varint.MessageTooLarge(f"a message of {length} bytes; at most {max_length}")
            if len(buffer) > end + length:
                message = bytes(buffer[end + 1 : end + 1 + length])
                del buffer[: end + 1 + length]
                return message
        data = await reader.read(limits.TCP_READ_BUFFER_BYTES)
        if not data:
            raise varint.IncompleteReadError("the stream ended in a message", expected_bytes=1, received_bytes=0)
        buffer += data


def _apply_v() -> None:
    pubsub.read_varint_prefixed_bytes_limited = _read_prefixed


_APPLY: Final[dict[str, Callable[[], None]]] = {
    "a": _apply_a,
    "b": _apply_b,
    "c": _apply_c,
    "d": _apply_d,
    "h": _apply_h,
    "k": _apply_k,
    "l": _apply_l,
    "m": _apply_m,
    "p": _apply_p,
    "q": _apply_q,
    "s": _apply_s,
    "u": _apply_u,
    "v": _apply_v,
    "w": _apply_w,
}
