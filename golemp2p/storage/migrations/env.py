"""Alembic's entry: the connection comes from golemp2p.storage.migrate, never from a file."""

from alembic import context

from golemp2p.storage.schema import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata, render_as_batch=True)
with context.begin_transaction():
    context.run_migrations()
