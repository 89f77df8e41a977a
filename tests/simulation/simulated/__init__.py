"""A whole pool in one thread: broker, agents and clients, their real code, on a simulated clock."""
