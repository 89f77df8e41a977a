"""A discrete-event simulator of a pool, which drives the broker's scheduler unchanged."""
