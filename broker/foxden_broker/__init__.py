"""The broker: a durable queue, a scheduler, and doors for clients and agents."""
