"""WASI preview 1 without anything that differs between two machines or two days (protocols/receipts.md).

Put over wasmtime's own definitions: clocks that move by being looked at, random bytes from a seed, waiting that does
not wait, file times, inode and device numbers that say nothing of the host, directories in the order of names. All
else of WASI preview 1 depends on the program and its files alone.

Results of wasmtime's own functions are changed by way of a small module that calls them into a memory of its own: a
host function cannot call another one, since WASI looks for the caller's memory.
"""

from __future__ import annotations

import hashlib
import struct
from functools import partial
from typing import Any, Final

EPOCH_NS: Final = 1_000_000_000 * 10**9  # 2001-09-09T01:46:40Z, the beginning of all time here
TICK_NS: Final = 1_000_000  # what each look at a clock moves it by: a program that waits for a clock comes to an end
WASI: Final = "wasi_snapshot_preview1"

_SUCCESS, _BADF, _FAULT, _INVAL, _NAMETOOLONG, _OVERFLOW = 0, 8, 21, 28, 37, 61
_MAX_PATH_BYTES: Final = 4_096
_PATHS_AT: Final = 65_536  # in the scratch memory: one path, and with a rename another one
_MAX_ENTRIES: Final = 100_000  # of one directory
_SCRATCH_BYTES: Final = 65_536
_FILESTAT: Final = struct.Struct("<QQBxxxxxxxQQQQQ")  # dev, ino, type, links, size, atim, mtim, ctim
_DIRENT: Final = struct.Struct("<QQIB3x")  # next, ino, name length, type
_DIRECTORY: Final = 3
_SUBSCRIPTION_BYTES, _EVENT_BYTES = 48, 32
_MAX_SUBSCRIPTIONS: Final = 4_096

_SHIM: Final = f"""
(module
  (import "{WASI}" "fd_filestat_get" (func $fd_stat (param i32 i32) (result i32)))
  (import "{WASI}" "path_filestat_get" (func $path_stat (param i32 i32 i32 i32 i32) (result i32)))
  (import "{WASI}" "fd_readdir" (func $readdir (param i32 i32 i32 i64 i32) (result i32)))
  (import "{WASI}" "path_unlink_file" (func $unlink (param i32 i32 i32) (result i32)))
  (import "{WASI}" "path_remove_directory" (func $rmdir (param i32 i32 i32) (result i32)))
  (import "{WASI}" "path_rename" (func $rename (param i32 i32 i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 2 2)
  (func (export "fd_stat") (param i32) (result i32)
    (call $fd_stat (local.get 0) (i32.const 0)))
  (func (export "path_stat") (param i32 i32 i32) (result i32)
    (call $path_stat (local.get 0) (local.get 1) (i32.const {_PATHS_AT}) (local.get 2) (i32.const 0)))
  (func (export "unlink") (param i32 i32) (result i32)
    (call $unlink (local.get 0) (i32.const {_PATHS_AT}) (local.get 1)))
  (func (export "rmdir") (param i32 i32) (result i32)
    (call $rmdir (local.get 0) (i32.const {_PATHS_AT}) (local.get 1)))
  (func (export "rename") (param i32 i32 i32 i32) (result i32)
    (call $rename (local.get 0) (i32.const {_PATHS_AT + _MAX_PATH_BYTES}) (local.get 1)
      (local.get 2) (i32.const {_PATHS_AT}) (local.get 3)))
  (func (export "readdir") (param i32 i64) (result i32)
    (call $readdir (local.get 0) (i32.const 0) (i32.const {_SCRATCH_BYTES}) (local.get 1) (i32.const 65536))))
"""


class Bytes:
    """The random bytes of a run: SHA-256 of a fixed text, the seed and a block number (8 bytes, big-endian)."""

    def __init__(self, seed: bytes) -> None:
        self._seed = b"golemp2p deterministic random\0" + seed
        self._block = 0
        self._left = b""

    def take(self, count: int) -> bytes:
        parts = [self._left]
        have = len(self._left)
        while have < count:
            parts.append(hashlib.sha256(self._seed + self._block.to_bytes(8, "big")).digest())
            self._block += 1
            have += 32
        data = b"".join(parts)
        self._left = data[count:]
        return data[:count]


class Clock:
    """``now_ns`` since the program's start; all of WASI's clocks are this one, the real-time one plus EPOCH_NS."""

    def __init__(self) -> None:
        self.now_ns = 0

    def look(self, clock_id: int) -> int:
        self.now_ns += TICK_NS
        return self.now_ns + (EPOCH_NS if clock_id == 0 else 0)

    def wait(self, clock_id: int, timeout_ns: int, *, absolute: bool) -> int:
        """When (``now_ns``) a wait ends, without waiting."""
        if not absolute:
            return self.now_ns + timeout_ns
        return max(timeout_ns - (EPOCH_NS if clock_id == 0 else 0), self.now_ns)


class Inodes:
    """The host's inode numbers by order of first sight, so that equal files stay equal and others different.

    Some file systems give the number of a removed file to the next one, some never: both are new here.
    """

    def __init__(self) -> None:
        self._known: dict[tuple[int, int], int] = {}
        self._last = 0

    def of(self, device: int, inode: int) -> int:
        known = self._known.get((device, inode))
        if known is None:
            known = self._last = self._known[device, inode] = self._last + 1
        return known

    def forget(self, raw_stat: bytes) -> None:
        """What this ``filestat`` was of has lost a name: if it was the last one, the number is free."""
        device, inode, kind, links, *_ = _FILESTAT.unpack(raw_stat)
        if kind == _DIRECTORY or links <= 1:
            self._known.pop((device, inode), None)


def poll_once(subscriptions: bytes, clock: Clock) -> list[bytes] | None:
    """The events of a ``poll_oneoff``: files are ready at once, of clocks the earliest. None: malformed."""
    events: list[bytes] = []
    waits: list[tuple[int, bytes]] = []
    for at in range(0, len(subscriptions), _SUBSCRIPTION_BYTES):
        userdata, tag = struct.unpack_from("<QB", subscriptions, at)
        if tag == 0:
            clock_id, timeout_ns, _precision, flags = struct.unpack_from("<IxxxxQQH", subscriptions, at + 16)
            due_ns = clock.wait(clock_id, timeout_ns, absolute=bool(flags & 1))
            waits.append((due_ns, struct.pack("<QHB21x", userdata, _SUCCESS, 0)))
        elif tag in (1, 2):
            events.append(struct.pack("<QHB5xQH6x", userdata, _SUCCESS, tag, 1, 0))
        else:
            return None
    if not events and waits:
        clock.now_ns = max(clock.now_ns, min(due_ns for due_ns, _ in waits))
        events = [event for due_ns, event in waits if due_ns <= clock.now_ns]
    return events


def changed_stat(raw: bytes, inodes: Inodes) -> bytes:
    """A ``filestat`` without what is the host's: device, inode, times; links and size of directories."""
    device, inode, kind, links, size, *_times = _FILESTAT.unpack(raw)
    if kind == _DIRECTORY:
        links, size = 1, 0
    number = inodes.of(device, inode) if inode else 0
    return _FILESTAT.pack(1, number, kind, links, size, EPOCH_NS, EPOCH_NS, EPOCH_NS)


def parse_entries(raw: bytes) -> list[tuple[int, int, int, bytes]]:
    """Whole directory entries in the answer of ``fd_readdir``: (next, inode, type, name)."""
    found, at = [], 0
    while at + _DIRENT.size <= len(raw):
        following, inode, size, kind = _DIRENT.unpack_from(raw, at)
        name = raw[at + _DIRENT.size : at + _DIRENT.size + size]
        if len(name) < size:
            break
        found.append((following, inode, kind, name))
        at += _DIRENT.size + size
    return found


def shadow(linker: Any, store: Any, engine: Any, seed: bytes) -> None:
    """Replace the definitions in a linker that has ``define_wasi`` done. ``seed``: the program's sha256."""
    import wasmtime

    shim = linker.instantiate(store, wasmtime.Module(engine, _SHIM)).exports(store)
    _Wasi(shim, seed).define(linker)


class _Wasi:
    def __init__(self, shim: Any, seed: bytes) -> None:
        self._shim = shim
        self._scratch = shim["memory"]
        self._random = Bytes(seed)
        self._clock = Clock()
        self._inodes = Inodes()
        self._listings: dict[int, list[bytes]] = {}

    def define(self, linker: Any) -> None:
        from wasmtime import FuncType, ValType

        i32, i64 = ValType.i32(), ValType.i64()
        linker.allow_shadowing = True
        for name, arguments, function in (
            ("clock_time_get", [i32, i64, i32], self._clock_time_get),
            ("clock_res_get", [i32, i32], self._clock_res_get),
            ("random_get", [i32, i32], self._random_get),
            ("poll_oneoff", [i32, i32, i32, i32], self._poll_oneoff),
            ("fd_filestat_get", [i32, i32], self._fd_filestat_get),
            ("path_filestat_get", [i32, i32, i32, i32, i32], self._path_filestat_get),
            ("fd_readdir", [i32, i32, i32, i64, i32], self._fd_readdir),
            ("path_unlink_file", [i32, i32, i32], partial(self._remove, "unlink")),
            ("path_remove_directory", [i32, i32, i32], partial(self._remove, "rmdir")),
            ("path_rename", [i32, i32, i32, i32, i32, i32], self._path_rename),
        ):
            linker.define_func(WASI, name, FuncType(arguments, [i32]), function, access_caller=True)

    def _clock_time_get(self, caller: Any, clock_id: int, _precision: int, target: int) -> int:
        if not 0 <= clock_id <= 3:
            return _INVAL
        return _write(caller, target, struct.pack("<Q", self._clock.look(clock_id)))

    def _clock_res_get(self, caller: Any, clock_id: int, target: int) -> int:
        return _write(caller, target, struct.pack("<Q", TICK_NS)) if 0 <= clock_id <= 3 else _INVAL

    def _random_get(self, caller: Any, target: int, count: int) -> int:
        memory, target, count = caller["memory"], _u32(target), _u32(count)
        if target + count > memory.data_len(caller):
            return _FAULT
        for start in range(0, count, _SCRATCH_BYTES):
            memory.write(caller, self._random.take(min(_SCRATCH_BYTES, count - start)), target + start)
        return _SUCCESS

    def _poll_oneoff(self, caller: Any, source: int, target: int, count: int, written: int) -> int:
        count = _u32(count)
        if not 0 < count <= _MAX_SUBSCRIPTIONS:
            return _INVAL
        subscriptions = _read(caller, source, count * _SUBSCRIPTION_BYTES)
        if subscriptions is None:
            return _FAULT
        events = poll_once(subscriptions, self._clock)
        if events is None:
            return _INVAL
        return _write(caller, target, b"".join(events)) or _write(caller, written, struct.pack("<I", len(events)))

    def _fd_filestat_get(self, caller: Any, descriptor: int, target: int) -> int:
        return self._shim["fd_stat"](caller, descriptor) or _write(
            caller, target, changed_stat(self._raw_stat(caller), self._inodes)
        )

    def _path_filestat_get(self, caller: Any, directory: int, flags: int, path: int, size: int, target: int) -> int:
        return (
            self._take_path(caller, path, size, _PATHS_AT)
            or self._shim["path_stat"](caller, directory, flags, size)
            or _write(caller, target, changed_stat(self._raw_stat(caller), self._inodes))
        )

    def _remove(self, how: str, caller: Any, directory: int, path: int, size: int) -> int:
        error = self._take_path(caller, path, size, _PATHS_AT)
        if error:
            return error
        before = None if self._shim["path_stat"](caller, directory, 0, size) else self._raw_stat(caller)
        error = int(self._shim[how](caller, directory, size))
        if not error and before is not None:
            self._inodes.forget(before)
        return error

    def _path_rename(self, caller: Any, old: int, path: int, size: int, new: int, target: int, target_size: int) -> int:
        error = self._take_path(caller, path, size, _PATHS_AT + _MAX_PATH_BYTES) or self._take_path(
            caller, target, target_size, _PATHS_AT
        )
        if error:
            return error
        before = None if self._shim["path_stat"](caller, new, 0, target_size) else self._raw_stat(caller)
        error = int(self._shim["rename"](caller, old, size, new, target_size))
        if not error and before is not None:
            # Unless it was renamed to itself.
            after = b"" if self._shim["path_stat"](caller, new, 0, target_size) else self._raw_stat(caller)
            if after[:16] != before[:16]:
                self._inodes.forget(before)
        return error

    def _take_path(self, caller: Any, path: int, size: int, place: int) -> int:
        """Copy the guest's text to where the shim has it; or an error number."""
        if _u32(size) > _MAX_PATH_BYTES:
            return _NAMETOOLONG
        text = _read(caller, path, size)
        if text is None:
            return _FAULT
        self._scratch.write(caller, text, place)
        return _SUCCESS

    def _raw_stat(self, caller: Any) -> bytes:
        """What the shim's last successful stat gave."""
        return bytes(self._scratch.read(caller, 0, _FILESTAT.size))

    def _fd_readdir(self, caller: Any, descriptor: int, target: int, size: int, cookie: int, used: int) -> int:
        """Cookies are places in the sorted listing, which is taken anew at 0."""
        size = _u32(size)
        if cookie == 0 or descriptor not in self._listings:
            listing = self._list(caller, descriptor)
            if isinstance(listing, int):
                return listing
            self._listings[descriptor] = listing
        data = bytearray()
        for entry in self._listings[descriptor][cookie if cookie >= 0 else _MAX_ENTRIES :]:
            data += entry
            if len(data) >= size:
                break
        return _write(caller, target, bytes(data[:size])) or _write(
            caller, used, struct.pack("<I", min(len(data), size))
        )

    def _list(self, caller: Any, descriptor: int) -> list[bytes] | int:
        """All entries in the order of their names, encoded; or an error number."""
        error = self._shim["fd_stat"](caller, descriptor)
        if error:
            return int(error)
        device = _FILESTAT.unpack(self._raw_stat(caller))[0]
        found: list[tuple[bytes, int, int]] = []
        following = 0
        while True:
            error = self._shim["readdir"](caller, descriptor, following)
            if error:
                return int(error)
            used = int.from_bytes(self._scratch.read(caller, _SCRATCH_BYTES, _SCRATCH_BYTES + 4), "little")
            entries = parse_entries(bytes(self._scratch.read(caller, 0, used)))
            found += [(name, inode, kind) for _, inode, kind, name in entries]
            if len(found) > _MAX_ENTRIES:
                return _OVERFLOW
            if not entries or used < _SCRATCH_BYTES:
                break
            following = entries[-1][0]
        return [
            _DIRENT.pack(place, self._inode(device, inode, name), len(name), kind) + name
            for place, (name, inode, kind) in enumerate(sorted(found), start=1)
        ]

    def _inode(self, device: int, inode: int, name: bytes) -> int:
        return 0 if name in (b".", b"..") or not inode else self._inodes.of(device, inode)


def _u32(value: int) -> int:
    """wasmtime gives i32 as a signed number."""
    return value & 0xFFFFFFFF


def _read(caller: Any, at: int, count: int) -> bytes | None:
    memory, at = caller["memory"], _u32(at)
    return None if at + count > memory.data_len(caller) else bytes(memory.read(caller, at, at + count))


def _write(caller: Any, at: int, data: bytes) -> int:
    memory, at = caller["memory"], _u32(at)
    if at + len(data) > memory.data_len(caller):
        return _FAULT
    memory.write(caller, data, at)
    return _SUCCESS
