"""The engine's environment: which torch this machine needs, and how it is put there."""
