"""Databases: where a closure over a connection runs, and all that differs between the engines.

No other file asks which engine it talks to. `open_database` picks one by URL:

- SQLite (sqlite_database.py): one writer thread with the only read-write connection, and one
  reader thread whose connection is opened read-only.
- PostgreSQL (postgres_database.py): a few threads with a connection each.
"""

from __future__ import annotations

import errno
import re
import sqlite3
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from sqlalchemy import ColumnElement, Connection, Dialect, Executable, Table, exc, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.dialects.postgresql import psycopg
from sqlalchemy.engine import URL, make_url

from foxden_broker.store.base import StorageFull, StoreError

if TYPE_CHECKING:  # they import this module
    from foxden_broker.store.hot import Hot, Memory

T = TypeVar("T")

_PG_FULL = {"53100"}
# To compile for; the driver itself is not loaded.
_POSTGRESQL: Dialect = psycopg.dialect()  # type: ignore[no-untyped-call]

# After a commit whose answer was lost: is what the closure wrote, and returned, in the database?
# Runs first in a new transaction, and must wait (by a lock) for the old one if that still lives.
Landed = Callable[[Connection, T], bool]


class Database(Protocol):
    """Runs a closure in a transaction of its own; an exception rolls that closure back.

    A closure may be run again from its start where nothing of its first run was kept. After a
    commit in doubt `landed` decides; without it the closure runs again, so that must do no harm.
    `hot` is tried first where it is given: the same write by a shorter way (hot.py). `memory`
    is what it goes by: forget there what is changed in another way.
    `read` sees one moment of the database in all its statements.
    """

    async def write(
        self,
        work: Callable[[Connection], T],
        landed: Landed[T] | None = None,
        hot: Hot[T] | None = None,
    ) -> T: ...
    async def read(self, work: Callable[[Connection], T]) -> T: ...
    @property
    def memory(self) -> Memory: ...
    async def snapshot(self, path: Path) -> None: ...
    async def close(self) -> None: ...


def open_database(url: str, migrate: Callable[[Connection], None]) -> Database:
    """Open (and create, and migrate) a database. Blocks; call it from a thread.

    `sqlite:////absolute/path`, a plain path, or `postgresql://…`.
    """
    from foxden_broker.store.postgres_database import PostgresDatabase  # they import this module
    from foxden_broker.store.sqlite_database import SqliteDatabase

    parsed = make_url(url) if "://" in url else URL.create("sqlite", database=url)
    if parsed.get_backend_name() == "sqlite":
        if not parsed.database or parsed.database == ":memory:":
            raise StoreError("The broker needs a database file: give sqlite:////path/to/foxden.db.")
        return SqliteDatabase(Path(parsed.database), migrate)
    if parsed.get_backend_name() == "postgresql":
        return PostgresDatabase(parsed.set(drivername="postgresql+psycopg"), migrate)
    raise StoreError(
        f"Foxden stores in SQLite or PostgreSQL, not in {parsed.get_backend_name()!r}: "
        "give a sqlite:// or postgresql:// URL."
    )


def upsert(dialect: str, table: Table) -> Any:
    """INSERT with `.on_conflict_do_update` and `.on_conflict_do_nothing`, for `dialect.name`."""
    if dialect == "sqlite":
        return sqlite.insert(table)
    return postgresql.insert(table)


def stamp(
    conn: Connection, table: Table, column: str, now_ms: int, *mine: ColumnElement[bool]
) -> None:
    """Set a row's time of something that happens once; again, the first time stays."""
    conn.execute(update(table).where(*mine, table.c[column] == 0).values({column: now_ms}))


Write = tuple[Executable, Sequence[dict[str, Any]]]  # a statement, and its rows of values


def rows_of(conn: Connection, statement: Any, values: dict[str, Any]) -> Sequence[Sequence[Any]]:
    """The rows of a hot select, as plain tuples: a third of what it costs by way of SQLAlchemy.

    For statements that are built once, with values that need no conversion, and no lists of them.
    """
    raw: Any = conn.connection.driver_connection
    if conn.dialect.name == "sqlite":
        sql, names, own = _positional(statement, conn.dialect)
        given = own | values
        found: Sequence[Sequence[Any]] = on_sqlite(raw, sql, [given[name] for name in names])
        return found
    sql, own = _compiled(statement, conn.dialect)
    rows: Sequence[Sequence[Any]] = raw.execute(sql, own | values).fetchall()
    return rows


def on_sqlite(raw: sqlite3.Connection, sql: str, values: Sequence[Any]) -> list[Any]:
    return raw.execute(sql, values).fetchall()


def write_on_sqlite(raw: sqlite3.Connection, sql: str, rows: Sequence[Sequence[Any]]) -> int:
    """How many rows were touched. The driver's `rowcount` is -1 for what begins with WITH."""
    before = raw.total_changes
    if len(rows) == 1:
        raw.execute(sql, rows[0])
    else:
        raw.executemany(sql, rows)
    return raw.total_changes - before


def execute_all(conn: Connection, writes: Sequence[Write]) -> list[int]:
    """Run statements that return nothing; how many rows each of them touched. No two of them
    touch the same row.

    PostgreSQL gets all of them at once, as one statement where each has one row of values, and
    else in pipeline mode: waiting for each answer before the next one is sent costs more than
    the statements do.
    """
    writes = [write for write in writes if write[1]]
    if not writes:
        return []
    raw: Any = conn.connection.driver_connection
    if conn.dialect.name == "sqlite":
        touched = []
        for statement, rows in writes:
            sql, names, own = _positional(statement, conn.dialect)
            given = [[(own | row)[name] for name in names] for row in rows]
            touched.append(write_on_sqlite(raw, sql, given))
        return touched
    if all(len(rows) == 1 for _, rows in writes):
        one, values = as_one(tuple(write[0] for write in writes), [rows[0] for _, rows in writes])
        return list(raw.execute(one, values).fetchone())
    sent: list[list[Any]] = []
    with raw.pipeline():
        for statement, rows in writes:
            sql, own = _compiled(statement, conn.dialect)
            sent.append([raw.execute(sql, own | row) for row in rows])
    return [sum(cursor.rowcount for cursor in cursors) for cursors in sent]


def write_one(conn: Connection, statement: Executable, row: dict[str, Any]) -> int:
    """On SQLite: one statement with one row of values; how many rows it touched."""
    raw: Any = conn.connection.driver_connection
    sql, names, own = _positional(statement, conn.dialect)
    return write_on_sqlite(raw, sql, [[(own | row)[name] for name in names]])


def as_one(
    statements: tuple[Executable, ...], rows: Sequence[dict[str, Any]]
) -> tuple[str, dict[str, Any]]:
    """For PostgreSQL: statements with a row of values each, as one that answers with the number of
    rows that each of them touched. They run in their order, and see nothing of each other."""
    one, constants = _as_one(statements, _POSTGRESQL)
    values = dict(constants)
    for n, row in enumerate(rows):
        for name, value in row.items():
            values[f"w{n}_{name}"] = value
    return one, values


def text_of(statement: Any) -> tuple[str, dict[str, Any]]:
    """For PostgreSQL: the text of a statement, and the values of its constants."""
    return _compiled(statement, _POSTGRESQL)


@lru_cache(maxsize=64)
def _as_one(statements: tuple[Any, ...], dialect: Dialect) -> tuple[str, dict[str, Any]]:
    """Statements as one that answers with the number of rows of each, and its constants."""
    parts, counts = [], []
    constants: dict[str, Any] = {}
    for n, statement in enumerate(statements):
        sql, own = _compiled(statement, dialect)
        sql = re.sub(r"%\((\w+)\)s", rf"%(w{n}_\1)s", sql)
        parts.append(f"w{n} AS ({sql} RETURNING 1)")
        counts.append(f"(SELECT count(*) FROM w{n})")  # noqa: S608  names of ours only
        constants |= {f"w{n}_{name}": value for name, value in own.items()}
    return f"WITH {', '.join(parts)} SELECT {', '.join(counts)}", constants


@lru_cache(maxsize=64)
def _compiled(statement: Any, dialect: Dialect) -> tuple[str, dict[str, Any]]:
    """The text, and the values of the constants that are part of the statement."""
    compiled = statement.compile(dialect=dialect)
    own = {name: value for name, value in compiled.params.items() if value is not None}
    return str(compiled), own


@lru_cache(maxsize=64)
def _positional(statement: Any, dialect: Dialect) -> tuple[str, tuple[str, ...], dict[str, Any]]:
    """The text with a ? for each value, their names, and the values of its own constants."""
    compiled = statement.compile(dialect=dialect)
    own = {name: value for name, value in compiled.params.items() if value is not None}
    return str(compiled), tuple(compiled.positiontup), own


def is_postgres_error(error: BaseException) -> bool:
    """From the driver itself, which is not loaded where nobody uses it."""
    return type(error).__module__.partition(".")[0] == "psycopg"


def translate(error: BaseException) -> BaseException:
    """The error a caller of the store sees: ours for the database's, anything else unchanged."""
    ours = isinstance(error, exc.SQLAlchemyError | sqlite3.Error | OSError)
    if not ours and not is_postgres_error(error):
        return error
    cause = getattr(error, "orig", None) or error
    code = getattr(cause, "sqlite_errorcode", None)
    if (
        (code is not None and code & 0xFF == sqlite3.SQLITE_FULL)
        or getattr(cause, "sqlstate", None) in _PG_FULL
        or getattr(cause, "errno", None) in (errno.ENOSPC, errno.EDQUOT)
    ):
        return StorageFull(
            "The disk of the broker's database is full; nothing was stored. "
            "Free some space there and try again."
        )
    text = str(cause).strip().splitlines()
    return StoreError(
        f"The broker's database failed: {text[0] if text else type(cause).__name__}. "
        "Look at the broker's disk and log, then try again."
    )
