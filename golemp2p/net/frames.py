"""RPC frames: bytes to events and back, no I/O (protocols/rpc.md).

A frame is a 4-byte big-endian length and that many bytes of msgpack ``[kind, id, ...]``. Whatever the bytes, the
decoder gives frames or raises RemoteProtocolError, and never holds more than one frame's worth of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Final, TypeVar

import msgpack

from golemp2p import limits
from golemp2p.errors import RemoteProtocolError, UsageError

LENGTH_BYTES: Final = 4
MAX_ID: Final = 2**32 - 1
MAX_NAME: Final = 64
MAX_TEXT: Final = 2_000  # of an error's message and hint


class Kind(IntEnum):
    REQUEST = 0
    RESPONSE = 1
    ERROR = 2
    ITEM = 3
    END = 4
    CANCEL = 5
    CREDIT = 6


@dataclass(frozen=True)
class Request:
    id: int
    method: str
    body: dict[str, Any]
    timeout_ms: int
    credit: int = 0  # items the caller takes at once; 0 for a call with one answer


@dataclass(frozen=True)
class Response:
    id: int
    body: Any


@dataclass(frozen=True)
class Failure:
    id: int
    code: str
    message: str
    hint: str = ""


@dataclass(frozen=True)
class Item:
    id: int
    body: Any


@dataclass(frozen=True)
class End:
    id: int


@dataclass(frozen=True)
class Cancel:
    id: int


@dataclass(frozen=True)
class Credit:
    id: int
    more: int


Frame = Request | Response | Failure | Item | End | Cancel | Credit
Answer = Response | Failure | Item | End
_ANSWERS: Final = (Response, Failure, Item, End)
A = TypeVar("A")


def _fields(frame: Frame) -> list[Any]:
    match frame:
        case Request(id_, method, body, timeout_ms, credit):
            return [Kind.REQUEST, id_, method, body, timeout_ms, credit]
        case Response(id_, body):
            return [Kind.RESPONSE, id_, body]
        case Failure(id_, code, message, hint):
            return [Kind.ERROR, id_, code[:MAX_NAME], message[:MAX_TEXT], hint[:MAX_TEXT]]
        case Item(id_, body):
            return [Kind.ITEM, id_, body]
        case End(id_):
            return [Kind.END, id_]
        case Cancel(id_):
            return [Kind.CANCEL, id_]
        case Credit(id_, more):
            return [Kind.CREDIT, id_, more]


def encode(frame: Frame) -> bytes:
    """Raises UsageError when the content is no msgpack or too large for a frame."""
    try:
        payload = bytes(msgpack.packb(_fields(frame)))
    except (TypeError, ValueError, OverflowError, RecursionError) as exc:
        raise UsageError(f"{type(frame).__name__} cannot be sent: {exc}") from exc
    if len(payload) > limits.RPC_MAX_FRAME_BYTES:
        raise UsageError(
            f"a message of {len(payload)} bytes is too large", hint=f"at most {limits.RPC_MAX_FRAME_BYTES} bytes"
        )
    return len(payload).to_bytes(LENGTH_BYTES, "big") + payload


def decode(payload: bytes) -> Frame:
    """One frame without its length. Raises RemoteProtocolError."""
    try:
        fields = msgpack.unpackb(payload)
    except (ValueError, msgpack.UnpackException, RecursionError) as exc:
        raise RemoteProtocolError("an RPC frame is not msgpack") from exc
    # bool is an int for match; kinds and ids are plain integers.
    if not isinstance(fields, list) or len(fields) < 2 or any(type(field) is not int for field in fields[:2]):
        raise RemoteProtocolError("an RPC frame does not begin with a kind and an id")
    id_ = fields[1]
    if not 0 <= id_ <= MAX_ID:
        raise RemoteProtocolError(f"RPC id {id_} is out of range")
    match fields:
        case [Kind.REQUEST, _, str(method), dict(body), int(timeout_ms), int(credit)] if (
            0 < len(method) <= MAX_NAME and 0 < timeout_ms <= MAX_ID and 0 <= credit <= limits.RPC_STREAM_CREDIT
        ):
            if not all(isinstance(key, str) for key in body):
                raise RemoteProtocolError(f"the body of RPC {method!r} has keys that are not strings")
            return Request(id_, method, body, timeout_ms, credit)
        case [Kind.RESPONSE, _, body]:
            return Response(id_, body)
        case [Kind.ERROR, _, str(code), str(message), str(hint)] if (
            0 < len(code) <= MAX_NAME and len(message) <= MAX_TEXT and len(hint) <= MAX_TEXT
        ):
            return Failure(id_, code, message, hint)
        case [Kind.ITEM, _, body]:
            return Item(id_, body)
        case [Kind.END, _]:
            return End(id_)
        case [Kind.CANCEL, _]:
            return Cancel(id_)
        case [Kind.CREDIT, _, int(more)] if 0 < more <= limits.RPC_STREAM_CREDIT:
            return Credit(id_, more)
    raise RemoteProtocolError(f"RPC frame of kind {fields[0]} with {len(fields)} fields is not known")


class Decoder:
    """Feed it what was read; it returns the whole frames in it."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[Frame]:
        """Raises RemoteProtocolError; the stream is then of no use."""
        self._buffer += data
        frames, start = [], 0
        while len(self._buffer) - start >= LENGTH_BYTES:
            size = int.from_bytes(self._buffer[start : start + LENGTH_BYTES], "big")
            if not 0 < size <= limits.RPC_MAX_FRAME_BYTES:
                raise RemoteProtocolError(f"an RPC frame of {size} bytes", hint=f"at most {limits.RPC_MAX_FRAME_BYTES}")
            end = start + LENGTH_BYTES + size
            if len(self._buffer) < end:
                break
            frames.append(decode(bytes(self._buffer[start + LENGTH_BYTES : end])))
            start = end
        del self._buffer[:start]
        return frames

    @property
    def pending_bytes(self) -> int:
        """Of a frame that has begun; at the end of a stream it must be 0."""
        return len(self._buffer)
