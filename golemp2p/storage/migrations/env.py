"""Alembic's entry: the connection comes from golemp2p.storage.migrate, never from a file; no table is imported."""

from alembic import context

context.configure(connection=context.config.attributes["connection"], render_as_batch=True)
with context.begin_transaction():
    context.run_migrations()
