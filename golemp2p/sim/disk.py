"""Disks of simulated nodes: real SQLite databases in memory, of which only the latest used are open.

A database at rest is its pages that an empty one has not, so ten thousand nodes fit into one process. What a job wrote
is "on disk" when the job ends; a machine that crashes keeps exactly that.
"""

from __future__ import annotations

import sqlite3
import zlib
from collections import OrderedDict

import sqlalchemy as sa
import trio
from sqlalchemy.pool import NullPool

from golemp2p.storage.engine import Job, Storage, StorageError, StorageStatistics, T
from golemp2p.storage.engine import _empty_database as empty_database

PAGE_BYTES = 4_096  # SQLite's
MAX_OPEN = 512  # databases; each takes about half a megabyte


class _Kept(sqlite3.Connection):
    """The pool's connection: what the pool closes after each transaction stays open."""

    def close(self) -> None:
        return

    def really_close(self) -> None:
        super().close()


class Disks:
    """All databases of a world. One engine serves them in turn: compiled statements are the same for all."""

    def __init__(self) -> None:
        self._open: OrderedDict[Disk, None] = OrderedDict()
        self.empty = empty_database()
        self._current: _Kept | None = None
        self.engine = sa.create_engine("sqlite://", creator=self._connection, poolclass=NullPool)
        sa.event.listen(self.engine, "begin", _begin)

    def _connection(self) -> sqlite3.Connection:
        if self._current is None:
            raise sqlite3.OperationalError("no disk is chosen")
        return self._current

    def begin(self, connection: _Kept) -> sa.engine.base.Connection:
        self._current = connection
        return self.engine.connect()

    def used(self, disk: Disk) -> None:
        self._open[disk] = None
        self._open.move_to_end(disk)
        if len(self._open) > MAX_OPEN:
            oldest, _ = self._open.popitem(last=False)
            oldest.park()

    def close(self) -> None:
        for disk in list(self._open):
            disk.park()
        self._open.clear()
        self.engine.dispose()


def _begin(connection: sa.Connection) -> None:
    connection.exec_driver_sql("BEGIN IMMEDIATE")


class Disk:
    """What one node has stored. It outlives the node's process."""

    def __init__(self, disks: Disks) -> None:
        self._disks = disks
        self._bytes: bytes | None = None  # of a database at rest; None: nothing was ever stored
        self._database: _Kept | None = None
        self.jobs = 0
        self.is_dirty = False  # since a checker looked

    def _open(self) -> _Kept:
        if self._database is None:
            self._database = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False, factory=_Kept)
            self._database.deserialize(self._image())
            self._database.execute("PRAGMA foreign_keys=ON")
        self._disks.used(self)
        return self._database

    def park(self) -> None:
        if self._database is not None:
            self._bytes = _difference(self._disks.empty, self._database.serialize())
            self._database.really_close()
            self._database = None

    @property
    def was_used(self) -> bool:
        return self._database is not None or self._bytes is not None

    @property
    def n_bytes(self) -> int:
        """Of the whole database, uncompressed."""
        if self._database is not None:
            return len(self._database.serialize())
        return 0 if self._bytes is None else len(self._image())

    def _image(self) -> bytes:
        return self._disks.empty if self._bytes is None else _applied(self._disks.empty, self._bytes)

    def run(self, job: Job[T]) -> T:
        """In a transaction of its own. Raises what ``job`` raises, StorageError."""
        try:
            with self._disks.begin(self._open()) as connection, connection.begin():
                result = job(connection)
        except sa.exc.SQLAlchemyError as exc:
            raise StorageError(f"the database refused: {exc}") from exc
        self.jobs += 1
        self.is_dirty = True
        return result

    def read(self, job: Job[T]) -> T:
        """As :meth:`run`, for who looks at it from outside of the simulation."""
        with self._disks.begin(self._open()) as connection, connection.begin():
            return job(connection)


def _difference(empty: bytes, image: bytes) -> bytes:
    """Compressed: the size of ``image``, and its pages that differ from those of ``empty`` with their numbers."""
    parts = [len(image).to_bytes(8, "big")]
    for start in range(0, len(image), PAGE_BYTES):
        page = image[start : start + PAGE_BYTES]
        if page != empty[start : start + PAGE_BYTES]:
            parts += [(start // PAGE_BYTES).to_bytes(4, "big"), page]
    return zlib.compress(b"".join(parts), 1)


def _applied(empty: bytes, difference: bytes) -> bytes:
    data = zlib.decompress(difference)
    size = int.from_bytes(data[:8], "big")
    image = bytearray(empty[:size].ljust(size, b"\0"))
    for start in range(8, len(data), 4 + PAGE_BYTES):
        place = PAGE_BYTES * int.from_bytes(data[start : start + 4], "big")
        image[place : place + PAGE_BYTES] = data[start + 4 : start + 4 + PAGE_BYTES]
    return bytes(image)


class SimStorage(Storage):
    """A node's way to its disk, until the machine crashes."""

    def __init__(self, disk: Disk) -> None:
        self._disk = disk
        self.crashed = False

    async def run(self, job: Job[T]) -> T:
        await trio.lowlevel.checkpoint()
        if self.crashed:
            raise StorageError("the machine crashed")
        return self._disk.run(job)

    def statistics(self) -> StorageStatistics:
        return StorageStatistics(self._disk.jobs, self._disk.jobs, 0)
