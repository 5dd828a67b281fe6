"""Messages of circuit relay v2 and of DCUtR (protobuf, as in the libp2p specs), each with its length before it.

Written by hand: libp2p's generated classes live in packages that lean_import.py leaves out, and these are five small
messages. What is unknown in a message is skipped, as protobuf wants it; what is malformed is refused.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from typing import Final, TypeVar

from golemp2p import limits
from golemp2p.errors import RemoteProtocolError
from golemp2p.net.port import ByteStream

HOP: Final = "/libp2p/circuit/relay/0.2.0/hop"
STOP: Final = "/libp2p/circuit/relay/0.2.0/stop"
DCUTR: Final = "/libp2p/dcutr"
_MAX_VARINT_BYTES: Final = 10
_Kind = TypeVar("_Kind", bound=IntEnum)
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5  # protobuf's wire types


class HopType(IntEnum):
    RESERVE = 0
    CONNECT = 1
    STATUS = 2


class StopType(IntEnum):
    CONNECT = 0
    STATUS = 1


class PunchType(IntEnum):
    CONNECT = 100
    SYNC = 300


class Status(IntEnum):
    UNUSED = 0
    OK = 100
    RESERVATION_REFUSED = 200
    RESOURCE_LIMIT_EXCEEDED = 201
    PERMISSION_DENIED = 202
    CONNECTION_FAILED = 203
    NO_RESERVATION = 204
    MALFORMED_MESSAGE = 400
    UNEXPECTED_MESSAGE = 401


@dataclass(frozen=True)
class HopMessage:
    """To and from a relay. ``peer``: a PeerId's bytes; ``expire_s``: of a reservation, unix time."""

    type: HopType
    peer: bytes = b""
    expire_s: int = 0
    addresses: tuple[bytes, ...] = ()  # of the relay, in a reservation
    duration_s: int = 0  # limits of the relay's circuits; 0: none was named
    data_bytes: int = 0
    status: int = Status.UNUSED

    def encode(self) -> bytes:
        out = _number(1, self.type)
        if self.peer:
            out += _bytes(2, _bytes(1, self.peer))
        if self.expire_s:
            out += _bytes(3, _number(1, self.expire_s) + b"".join(_bytes(2, a) for a in self.addresses))
        return out + _limit(4, self.duration_s, self.data_bytes) + (_number(5, self.status) if self.status else b"")

    @classmethod
    def decode(cls, data: bytes) -> HopMessage:
        """Raises RemoteProtocolError."""
        fields = _fields(data)
        reservation = _fields(fields.last_bytes(3))
        limit = _fields(fields.last_bytes(4))
        return cls(
            type=_enum(HopType, fields.last_number(1)),
            peer=_fields(fields.last_bytes(2)).last_bytes(1),
            expire_s=reservation.last_number(1) or 0,
            addresses=reservation.all_bytes(2),
            duration_s=limit.last_number(1) or 0,
            data_bytes=limit.last_number(2) or 0,
            status=fields.last_number(5) or 0,
        )


@dataclass(frozen=True)
class StopMessage:
    """Between a relay and the target of a circuit. ``peer``: who wants to reach the target."""

    type: StopType
    peer: bytes = b""
    duration_s: int = 0
    data_bytes: int = 0
    status: int = Status.UNUSED

    def encode(self) -> bytes:
        out = _number(1, self.type)
        if self.peer:
            out += _bytes(2, _bytes(1, self.peer))
        return out + _limit(3, self.duration_s, self.data_bytes) + (_number(4, self.status) if self.status else b"")

    @classmethod
    def decode(cls, data: bytes) -> StopMessage:
        """Raises RemoteProtocolError."""
        fields = _fields(data)
        limit = _fields(fields.last_bytes(3))
        return cls(
            type=_enum(StopType, fields.last_number(1)),
            peer=_fields(fields.last_bytes(2)).last_bytes(1),
            duration_s=limit.last_number(1) or 0,
            data_bytes=limit.last_number(2) or 0,
            status=fields.last_number(4) or 0,
        )


@dataclass(frozen=True)
class PunchMessage:
    """DCUtR. ``addresses``: multiaddrs, as bytes, that the sender may be reached at through its NAT."""

    type: PunchType
    addresses: tuple[bytes, ...] = ()

    def encode(self) -> bytes:
        return _number(1, self.type) + b"".join(_bytes(2, address) for address in self.addresses)

    @classmethod
    def decode(cls, data: bytes) -> PunchMessage:
        """Raises RemoteProtocolError."""
        fields = _fields(data)
        return cls(_enum(PunchType, fields.last_number(1)), fields.all_bytes(2))


async def send_message(stream: ByteStream, message: HopMessage | StopMessage | PunchMessage) -> None:
    """Raises NetworkError."""
    body = message.encode()
    await stream.write(_varint(len(body)) + body)


async def read_message(stream: ByteStream) -> bytes:
    """The bytes of one message, and none of what follows it. Raises RemoteProtocolError, NetworkError."""
    size = shift = 0
    while True:
        byte = (await _exactly(stream, 1))[0]
        size |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            break
        if shift > 28:
            raise RemoteProtocolError("a relay message's length is malformed")
    if size > limits.RELAY_MESSAGE_MAX_BYTES:
        raise RemoteProtocolError(f"a relay message has {size} bytes, at most {limits.RELAY_MESSAGE_MAX_BYTES} may be")
    return await _exactly(stream, size)


async def _exactly(stream: ByteStream, size: int) -> bytes:
    found = b""
    while len(found) < size:
        piece = await stream.read(size - len(found))
        if not piece:
            raise RemoteProtocolError("a relay message is cut short")
        found += piece
    return found


# --- protobuf ---------------------------------------------------------------------------------------------------------
class _Fields:
    """The fields of one message: (number, value), a value being a number or bytes."""

    def __init__(self, found: list[tuple[int, int | bytes]]) -> None:
        self._found = found

    def last_number(self, field: int) -> int | None:
        """None when absent. The last one counts, as protobuf has it."""
        values = [value for number, value in self._found if number == field]
        if not values:
            return None
        if not isinstance(values[-1], int):
            raise RemoteProtocolError(f"field {field} of a relay message is no number")
        return values[-1]

    def last_bytes(self, field: int) -> bytes:
        found = self.all_bytes(field)
        return found[-1] if found else b""

    def all_bytes(self, field: int) -> tuple[bytes, ...]:
        values = [value for number, value in self._found if number == field]
        if not all(isinstance(value, bytes) for value in values):
            raise RemoteProtocolError(f"field {field} of a relay message is no bytes")
        return tuple(value for value in values if isinstance(value, bytes))


def _fields(data: bytes) -> _Fields:
    return _Fields(list(_parse(data)))


def _parse(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    at = 0
    while at < len(data):
        key, at = _read_varint(data, at)
        field, kind = key >> 3, key & 7
        if kind == _VARINT:
            value, at = _read_varint(data, at)
            yield field, value
            continue
        if kind == _BYTES:
            size, at = _read_varint(data, at)
        elif kind in (_FIXED64, _FIXED32):
            size = 8 if kind == _FIXED64 else 4
        else:
            raise RemoteProtocolError(f"a relay message has wire type {kind}")
        if field == 0 or size > len(data) - at:
            raise RemoteProtocolError("a relay message is malformed")
        if kind == _BYTES:
            yield field, data[at : at + size]
        at += size


def _read_varint(data: bytes, at: int) -> tuple[int, int]:
    value = 0
    for index, byte in enumerate(data[at : at + _MAX_VARINT_BYTES]):
        value |= (byte & 0x7F) << (7 * index)
        if byte < 0x80:
            if value >= 1 << 64:
                break
            return value, at + index + 1
    raise RemoteProtocolError("a number in a relay message is malformed")


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _number(field: int, value: int) -> bytes:
    return _varint(field << 3 | _VARINT) + _varint(value)


def _bytes(field: int, value: bytes) -> bytes:
    return _varint(field << 3 | _BYTES) + _varint(len(value)) + value


def _limit(field: int, duration_s: int, data_bytes: int) -> bytes:
    inner = (_number(1, duration_s) if duration_s else b"") + (_number(2, data_bytes) if data_bytes else b"")
    return _bytes(field, inner) if inner else b""


def _enum(kind: type[_Kind], value: int | None) -> _Kind:
    try:
        return kind(-1 if value is None else value)
    except ValueError as exc:
        raise RemoteProtocolError(f"a relay message has type {value}") from exc
