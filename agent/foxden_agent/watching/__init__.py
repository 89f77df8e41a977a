"""Readings of the cards and the machine, once a second. `choose.py` puts the parts together."""
