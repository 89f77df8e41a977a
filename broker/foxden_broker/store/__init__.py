"""The store: the only room that knows SQL. Everything else sees `foxden_broker.store.base`."""
