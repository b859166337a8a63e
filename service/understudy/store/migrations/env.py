"""Alembic runs this file for every command: it says which connection and which tables."""

from alembic import context

from understudy.store.schema import metadata

context.configure(
    connection=context.config.attributes["connection"],  # a transaction that `migrate` began, alone in the database
    target_metadata=metadata,
    transactional_ddl=True,
    render_as_batch=True,  # SQLite cannot alter most of a table: Alembic copies it instead
)
with context.begin_transaction():
    context.run_migrations()
