"""Looks into a broker's database beside it: tests believe that more than the broker's word."""

from __future__ import annotations

import sqlite3
from contextlib import closing


def rows(database: str, query: str, *values: object) -> list[tuple]:
    """What a query with `?` for its values finds. `database`: a PostgreSQL URL, or a SQLite file
    whose broker runs: it is opened read-only, since another writer could damage it."""
    if database.startswith("postgresql://"):
        import psycopg

        with psycopg.connect(database, autocommit=True) as conn:
            return conn.execute(query.replace("?", "%s").encode(), values).fetchall()
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True, timeout=10)) as file:
        return file.execute(query, values).fetchall()
