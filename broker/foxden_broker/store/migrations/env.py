"""Run by Alembic. The connection, and the transaction, are those of `migrate`."""

from alembic import context

from foxden_broker.store.schema import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    transactional_ddl=True,
)
context.run_migrations()
