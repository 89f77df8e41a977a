"""The owner comes first: what a card may do, decided from readings. Pure but for owner_files.py.

Read in this order: values.py (what goes in and comes out), settings.py (what the owner allows),
rules.py (one rule per reason), thresholds.py (why nothing flaps), memory.py (what is remembered,
and by which clock), deciding.py (`decide`), sentences.py (the words), governor.py (all cards of a
machine), owner_files.py (`policy.json` and `wishes.json`).
"""
