"""SQLite behind repositories: one writer, WAL, ``synchronous=FULL`` with group commit, Alembic migrations.

A repository is a module of plain functions ``f(connection, ...)`` over its tables; services compose them into one
transaction with :meth:`Storage.run`.
"""

from golemp2p.storage.engine import Storage, open_storage

__all__ = ["Storage", "open_storage"]
