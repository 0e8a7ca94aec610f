"""Alembic's environment: runs the migrations on the given connection, inside its transaction."""

from alembic import context

from serve_app.store.tables import METADATA

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=METADATA,
    render_as_batch=True,
    transactional_ddl=False,
)
context.run_migrations()
