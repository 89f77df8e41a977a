"""Run by Alembic. The connection is that of `migrate`; where a transaction is open on it, all
steps belong to that one, and else each step is a transaction of its own."""

from alembic import context

from foxden_broker.store.schema import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    transactional_ddl=True,
    transaction_per_migration=True,
)
with context.begin_transaction():
    context.run_migrations()
