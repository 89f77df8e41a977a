"""Real processes under load, broken on purpose; and what has to hold all the same."""
