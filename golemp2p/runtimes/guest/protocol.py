"""Frames of protocols/guest.md: bytes in, frames out. Pure; the agent's bytes are not trusted."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from golemp2p.errors import RemoteProtocolError

VERSION: Final = 1
MAGIC: Final = b"G2PAGENT"
HEADER: Final = struct.Struct("<IBI")
FRAME_MAX_BYTES: Final = 64 * 1024  # with its header
BODY_MAX_BYTES: Final = FRAME_MAX_BYTES - HEADER.size
REQUEST_MAX_BYTES: Final = 1024 * 1024  # of an exec in parts
INBOUND_CREDIT_BYTES: Final = 256 * 1024  # what we may send on a put or connect before the agent credits more
COST_MIN_BYTES: Final = 512  # what a data frame costs of its window at least
LIST_MAX: Final = 4096


class Ask(IntEnum):
    """Kinds that the host sends."""

    HELLO = 1
    SETUP = 2
    EXEC = 3
    KILL = 4
    CREDIT = 5
    DATA = 6
    END = 7
    CLOSE = 8
    PUT = 9
    GET = 10
    MKDIR = 11
    SYMLINK = 12
    LIST = 13
    STAT = 14
    CONNECT = 15
    USAGE = 16
    SHUTDOWN = 17
    PART = 18
    NET = 19
    SEAL = 20
    OUTBOUND = 21
    ACCEPT = 22


class Tell(IntEnum):
    """Kinds that the agent sends."""

    HELLO = 64
    OK = 65
    ERROR = 66
    STDOUT = 67
    STDERR = 68
    DATA = 69
    END = 70
    EXITED = 71
    CREDIT = 72


EXIT_OOM: Final = 1
EXIT_CPU: Final = 2
EXIT_KILLED: Final = 4
SETUP_SCRATCH: Final = 1


class GuestProtocolError(RemoteProtocolError):
    """The agent sent what protocols/guest.md does not allow."""

    code = "guest_protocol"


@dataclass(frozen=True)
class Frame:
    kind: Tell
    id: int
    body: bytes


class FrameDecoder:
    """Cuts the agent's bytes into frames. Holds less than one frame. Raises GuestProtocolError, then is of no use."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> Iterator[Frame]:
        """The frames that are complete now."""
        data = self._rest + data if self._rest else data
        view, at, end = memoryview(data), 0, len(data)
        while end - at >= HEADER.size:
            size, kind, channel = HEADER.unpack_from(data, at)
            if size > BODY_MAX_BYTES:
                raise GuestProtocolError(f"the guest agent sent a frame of {size} bytes")
            if end - at - HEADER.size < size:
                break
            begin = at + HEADER.size
            at = begin + size
            try:
                tell = Tell(kind)
            except ValueError:
                raise GuestProtocolError(f"the guest agent sent a frame of unknown kind {kind}") from None
            yield Frame(tell, channel, bytes(view[begin:at]))
        self._rest = data[at:]


def frame(kind: Ask, channel: int, body: bytes = b"") -> bytes:
    """Raises ValueError when the body is too large: callers bound it."""
    if len(body) > BODY_MAX_BYTES:
        raise ValueError(f"a body of {len(body)} bytes")
    return HEADER.pack(len(body), kind, channel) + body


def request_frames(kind: Ask, channel: int, body: bytes) -> Iterator[bytes]:
    """One frame, or parts and a last one."""
    while len(body) > BODY_MAX_BYTES:
        yield frame(Ask.PART, channel, body[:BODY_MAX_BYTES])
        body = body[BODY_MAX_BYTES:]
    yield frame(kind, channel, body)


def u32(*numbers: int) -> bytes:
    return struct.pack(f"<{len(numbers)}I", *numbers)


def u64(*numbers: int) -> bytes:
    return struct.pack(f"<{len(numbers)}Q", *numbers)


def text(value: str) -> bytes:
    """Raises UnicodeEncodeError for lone surrogates but those that stand for bytes (os.fsencode's)."""
    data = value.encode("utf-8", "surrogateescape")
    return u32(len(data)) + data


def texts(values: Iterable[str]) -> bytes:
    encoded = [text(value) for value in values]
    return u32(len(encoded)) + b"".join(encoded)


class Fields:
    """Reads a body from its start. Raises GuestProtocolError where it ends too early."""

    def __init__(self, body: bytes) -> None:
        self._body = body
        self._at = 0

    @property
    def more(self) -> bool:
        return self._at < len(self._body)

    def take(self, size: int) -> bytes:
        begin, self._at = self._at, self._at + size
        if self._at > len(self._body):
            raise GuestProtocolError("the guest agent sent a body that is too short")
        return self._body[begin : self._at]

    def u32(self) -> int:
        return int.from_bytes(self.take(4), "little")

    def i32(self) -> int:
        return int.from_bytes(self.take(4), "little", signed=True)

    def u64(self) -> int:
        return int.from_bytes(self.take(8), "little")

    def text(self) -> str:
        return self.take(self.u32()).decode("utf-8", "surrogateescape")


@dataclass(frozen=True)
class Refusal:
    """An ERROR frame: ``errno`` of the guest and words."""

    errno: int
    message: str


@dataclass(frozen=True)
class Exited:
    """``code`` is negative for a signal. ``cpu_s`` is of the command and all that it waited for."""

    flags: int
    code: int
    cpu_s: float
    max_rss_bytes: int
    memory_peak_bytes: int  # of the whole guest's control group so far; 0 where there is none


@dataclass(frozen=True)
class FileFacts:
    """``kind`` is f, d, l or o (anything else)."""

    kind: str
    mode: int
    size_bytes: int
    mtime_s: int


@dataclass(frozen=True)
class ListEntry:
    name: str
    facts: FileFacts
    link: str


def read_hello(body: bytes) -> str:
    """The agent's facts about itself. Raises GuestProtocolError for another protocol or version."""
    fields = Fields(body)
    if fields.take(len(MAGIC)) != MAGIC:
        raise GuestProtocolError("what answers is no guest agent")
    version = fields.u32()
    if version != VERSION:
        raise GuestProtocolError(f"the guest agent speaks version {version}, we speak {VERSION}")
    return fields.text()[:1024]


def read_refusal(body: bytes) -> Refusal:
    fields = Fields(body)
    number = fields.u32()
    words = fields.text()[:1024]
    return Refusal(number, "".join(c if c.isprintable() else "?" for c in words))


def read_exited(body: bytes) -> Exited:
    fields = Fields(body)
    flags, code, cpu_us, rss, peak = fields.u32(), fields.i32(), fields.u64(), fields.u64(), fields.u64()
    if not -64 <= code <= 255:
        raise GuestProtocolError(f"the guest agent sent exit code {code}")
    return Exited(flags, code, min(cpu_us, 2**52) / 1e6, min(rss, 2**52), min(peak, 2**52))


def _facts(fields: Fields) -> FileFacts:
    kind = fields.u32()
    if kind > 127 or chr(kind) not in "fdlo":
        raise GuestProtocolError(f"the guest agent sent a file of kind {kind}")
    return FileFacts(chr(kind), fields.u32() & 0o7777, fields.u64(), fields.u64())


def read_facts(body: bytes) -> FileFacts:
    return _facts(Fields(body))


def read_entries(body: bytes) -> Sequence[ListEntry]:
    """Raises GuestProtocolError for names that are none: they would lead out of the directory."""
    fields = Fields(body)
    entries = []
    while fields.more:
        facts = _facts(fields)
        name, link = fields.text(), fields.text()
        if name in ("", ".", "..") or "/" in name or "\0" in name or "\0" in link:
            raise GuestProtocolError(f"the guest agent sent the file name {name[:80]!r}")
        entries.append(ListEntry(name, facts, link))
    return entries
