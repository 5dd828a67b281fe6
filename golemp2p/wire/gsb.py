"""Frames of yagna's gsb WebSockets: FlexBuffers maps (subprotocol ``gsb+flexbuffers``, yagna-rest §1.6).

The node sends ``{id, component, payload}``, the program answers ``{id, payload}`` or ``{id, error: {Name: text}}``.
On the socket of our gftp command, which serves many names, a request says in ``on`` which one it is for.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from flatbuffers import flexbuffers

from golemp2p import limits
from golemp2p.errors import RemoteProtocolError

SUBPROTOCOL: Final = "gsb+flexbuffers"
Value: TypeAlias = "bool | int | float | str | bytes | list[Value] | dict[str, Value] | None"

# Above it JavaScript's decoder makes BigInts, which its users cannot mix with numbers; a double is exact to 2**53.
_MAX_PLAIN_INT: Final = 2**31 - 1
_MAX_DEPTH: Final = 8
_MAX_NODES: Final = 512  # of one frame; a real one has about 8. References may form a net that unfolds without end


@dataclass(frozen=True)
class Answer:
    """``error`` is a text for people, empty when ``payload`` counts."""

    id: str
    payload: Value
    error: str = ""


def encode(value: Mapping[str, Any]) -> bytes:
    """One frame. ``bytes`` become blobs."""
    builder: Any = flexbuffers.Builder()
    _add(builder, None, value)
    return bytes(builder.Finish())


def _add(builder: Any, key: str | None, value: Any) -> None:
    place = () if key is None else (key,)
    match value:
        case None:
            builder.Null(*place)
        case bool():
            builder.Bool(*place, value)
        case int() if abs(value) > _MAX_PLAIN_INT:
            # Indirect, or the eight bytes would widen every field of the map, and JavaScript read BigInts.
            builder.IndirectFloat(*place, float(value))
        case int():
            builder.Int(*place, value)
        case float():
            builder.IndirectFloat(*place, value)
        case str():
            builder.String(*place, value)
        case bytes() | bytearray() | memoryview():
            builder.Blob(*place, value)
        case Mapping():
            with builder.Map(*place):
                for name, item in value.items():
                    _add(builder, name, item)
        case list() | tuple():
            with builder.Vector(*place):
                for item in value:
                    _add(builder, None, item)
        case _:
            raise TypeError(f"no FlexBuffers value: {type(value)}")


def decode(data: bytes) -> dict[str, Value]:
    """The map of a frame. Raises RemoteProtocolError for whatever is none."""
    if len(data) > limits.GSB_MAX_FRAME_BYTES:
        raise RemoteProtocolError(f"a gsb frame of {len(data)} bytes", hint=f"at most {limits.GSB_MAX_FRAME_BYTES}")
    try:
        value = _Reader(len(data)).read(flexbuffers.GetRoot(data), 0)
    except RemoteProtocolError:
        raise
    # What the decoder stumbles over in wrong bytes; it has no error of its own.
    except (ValueError, IndexError, KeyError, TypeError, AssertionError, ArithmeticError, struct.error) as exc:
        raise RemoteProtocolError("a gsb frame is not FlexBuffers") from exc
    if not isinstance(value, dict):
        raise RemoteProtocolError("a gsb frame is not a map")
    return value


class _Reader:
    """Copies out of one frame, within bounds: no more nodes and bytes than an honest frame of that size has."""

    def __init__(self, size_bytes: int) -> None:
        self._nodes_left, self._bytes_left = _MAX_NODES, size_bytes

    def read(self, ref: Any, depth: int) -> Value:
        self._nodes_left -= 1
        if depth > _MAX_DEPTH or self._nodes_left < 0:
            raise RemoteProtocolError("a gsb frame is nested too deeply or has too many parts")
        if ref.IsNull:
            return None
        if ref.IsBool:
            return bool(ref.AsBool)
        if ref.IsInt:
            return int(ref.AsInt)
        if ref.IsFloat:
            return float(ref.AsFloat)
        if ref.IsBlob:
            return self._counted(ref.AsBlob)
        if ref.IsString:
            return self._counted(ref.AsStringBytes).decode()
        if ref.IsKey:
            return self._counted(ref.AsKeyBytes).decode()
        if ref.IsMap:
            found = ref.AsMap
            keys = [self._counted(key.AsKeyBytes).decode() for key in self._items(found.Keys)]
            return {key: self.read(item, depth + 1) for key, item in zip(keys, self._items(found.Values), strict=True)}
        for fits, vector in (("IsVector", "AsVector"), ("IsTypedVector", "AsTypedVector")):
            if getattr(ref, fits):
                return [self.read(item, depth + 1) for item in self._items(getattr(ref, vector))]
        raise RemoteProtocolError("a gsb frame has a value of an unknown type")

    def _items(self, vector: Any) -> list[Any]:
        if len(vector) > self._nodes_left:
            raise RemoteProtocolError("a gsb frame has too many parts")
        return [vector[index] for index in range(len(vector))]

    def _counted(self, data: bytes) -> bytes:
        self._bytes_left -= len(data)
        if self._bytes_left < 0:
            raise RemoteProtocolError("a gsb frame repeats itself")
        return bytes(data)


def request(request_id: str, component: str, payload: Mapping[str, Any], *, on: str = "") -> bytes:
    fields: dict[str, Any] = {"id": request_id, "component": component, "payload": payload}
    return encode(fields | {"on": on} if on else fields)


def answer_of(frame: Mapping[str, Value]) -> Answer:
    """Raises RemoteProtocolError when it is none."""
    request_id = frame.get("id")
    if not isinstance(request_id, str):
        raise RemoteProtocolError("a gsb answer without an id")
    match frame.get("error"):
        case None:
            if "payload" not in frame:
                raise RemoteProtocolError("a gsb answer has neither payload nor error")
            return Answer(request_id, frame["payload"])
        case {**named} if named:
            name, text = next(iter(named.items()))
            return Answer(request_id, None, f"{name}: {text}"[: limits.GSB_ERROR_CHARS])
        case str(text) if text:
            return Answer(request_id, None, text[: limits.GSB_ERROR_CHARS])
        case _:
            raise RemoteProtocolError("a gsb error says nothing")


def whole_number(value: object) -> int:
    """An integer that may have come as a double. Raises RemoteProtocolError."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= 2**53:
        raise RemoteProtocolError(f"gsb: {str(value)[:40]!r} is no size")
    return value
