"""Disks of simulated nodes: real SQLite databases in memory, of which only the latest used are open.

A database at rest is its compressed bytes, some 10 kB, so ten thousand nodes fit into one process. What a job wrote is
"on disk" when the job ends; a machine that crashes keeps exactly that.
"""

from __future__ import annotations

import zlib
from collections import OrderedDict
from collections.abc import Callable

import sqlalchemy as sa
import trio

from golemp2p.storage.engine import Job, Storage, StorageError, StorageStatistics, T
from golemp2p.storage.engine import _driver_connection as driver_connection
from golemp2p.storage.engine import _empty_database as empty_database
from golemp2p.storage.engine import _make_engine as make_engine

MAX_OPEN = 512  # databases; each takes about half a megabyte


class Disks:
    """All databases of a world."""

    def __init__(self) -> None:
        self._open: OrderedDict[Disk, None] = OrderedDict()
        self.empty = zlib.compress(empty_database(), 1)

    def used(self, disk: Disk) -> None:
        self._open[disk] = None
        self._open.move_to_end(disk)
        if len(self._open) > MAX_OPEN:
            oldest, _ = self._open.popitem(last=False)
            oldest.park()

    def forget(self, disk: Disk) -> None:
        self._open.pop(disk, None)

    def close(self) -> None:
        for disk in list(self._open):
            disk.park()
        self._open.clear()


class Disk:
    """What one node has stored. It outlives the node's process."""

    def __init__(self, disks: Disks) -> None:
        self._disks = disks
        self._bytes: bytes | None = None  # compressed, of a database at rest; None: nothing was ever stored
        self._engine: sa.Engine | None = None
        self.jobs = 0
        self.is_dirty = False  # since a checker looked

    def _open(self) -> sa.Engine:
        if self._engine is None:
            self._engine = make_engine(None)
            with self._engine.connect() as connection:
                driver_connection(connection).deserialize(zlib.decompress(self._bytes or self._disks.empty))
        self._disks.used(self)
        return self._engine

    def park(self) -> None:
        if self._engine is not None:
            with self._engine.connect() as connection:
                self._bytes = zlib.compress(driver_connection(connection).serialize(), 1)
            self._engine.dispose()
            self._engine = None

    @property
    def was_used(self) -> bool:
        return self._engine is not None or self._bytes is not None

    @property
    def n_bytes(self) -> int:
        """Of the whole database, uncompressed."""
        if self._engine is None:
            return 0 if self._bytes is None else len(zlib.decompress(self._bytes))
        with self._engine.connect() as connection:
            return len(driver_connection(connection).serialize())

    def run(self, job: Job[T]) -> T:
        """In a transaction of its own. Raises what ``job`` raises, StorageError."""
        try:
            with self._open().begin() as connection:
                result = job(connection)
        except sa.exc.SQLAlchemyError as exc:
            raise StorageError(f"the database refused: {exc}") from exc
        self.jobs += 1
        self.is_dirty = True
        return result

    def read(self, job: Job[T]) -> T:
        """As :meth:`run`, for who looks at it from outside of the simulation."""
        with self._open().begin() as connection:
            return job(connection)


class SimStorage(Storage):
    """A node's way to its disk, until the machine crashes."""

    def __init__(self, disk: Disk, on_job: Callable[[], None] = lambda: None) -> None:
        self._disk = disk
        self._on_job = on_job
        self.crashed = False

    async def run(self, job: Job[T]) -> T:
        await trio.lowlevel.checkpoint()
        if self.crashed:
            raise StorageError("the machine crashed")
        return self._disk.run(job)

    def statistics(self) -> StorageStatistics:
        return StorageStatistics(self._disk.jobs, self._disk.jobs, 0)
