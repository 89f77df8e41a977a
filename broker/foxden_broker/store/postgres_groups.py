"""Group commit on PostgreSQL, for the hot writes (hot.py).

One thread with a connection of its own takes every caller that waits, sends all their statements
at once, waits once for all answers, and commits once. Before, each caller was a transaction that
waited four times for an answer, and each wait handed the interpreter away and took it back, which
cost more than the statements.

If anything is not as remembered - a guard that touched no row, an error, a lock that is not there
soon, a lost connection - the whole group is rolled back and each of its callers goes the long way
by itself, on a thread of its own. That is rare: what this broker itself changes the long way is
forgotten, and an account's jobs are changed by one broker. It also keeps a lock that another
broker holds for long from stopping more than one group.

The jobs' locks are taken in the order of their ids, as the long way takes them. Where two brokers
still wait for each other (by idempotency keys), LOCK_MS ends it before the server would.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, TypeVar

from sqlalchemy import Connection, Engine

from foxden_broker.store.database import as_one, text_of
from foxden_broker.store.grouping import Grouping, Pending
from foxden_broker.store.hot import Entry, Hot, Key, Memory, Missed, Row, Way

log = logging.getLogger(__name__)

T = TypeVar("T")

LOCK_MS = 500
_AWAY_SECONDS = 3.0  # after a connection that failed: the long way waits for the server, not this


class Groups:
    """`submit` from an event loop; `close` finishes what was submitted."""

    def __init__(
        self, engine: Engine, memory: Memory, is_lost: Callable[[BaseException], bool]
    ) -> None:
        """`engine` makes the one connection that is used here."""
        self._engine, self._memory, self._is_lost = engine, memory, is_lost
        self._conn: Connection | None = None
        self._away_until = 0.0
        self._group = Grouping("foxden-db-group", self._commit, self._drop)

    async def submit(self, hot: Hot[T]) -> T:
        """Run it in a group and wait until that is durable. Raises Missed where nothing was kept,
        or nobody knows (`in_doubt`): then the caller goes the long way."""
        result: T = await self._group.submit(hot)
        return result

    def close(self) -> None:
        self._group.close()

    def _commit(self, batch: list[Pending]) -> None:
        changed: dict[Key, Entry] = {}
        sends: list[_Send] = []
        asked: list[Pending] = []
        for pending in batch:
            way = _Collected(self._memory, changed)
            try:
                pending.result = pending.work(way)
            except BaseException as error:  # noqa: BLE001  its caller is told
                pending.error = error
            else:
                changed |= way.changed
                sends += way.sends
                asked.append(pending)
        if not asked:
            return
        committing = False
        try:
            raw = self._connected()
            if not self._all_as_expected(raw, sends):
                raw.rollback()
                self._missed(asked, changed)
                return
            committing = True
            raw.commit()
        except BaseException as error:  # noqa: BLE001  the long way meets it again, and tells
            log.debug("a group of %d writes failed: %s", len(asked), type(error).__name__)
            self._drop()
            self._missed(asked, changed, in_doubt=committing and self._is_lost(error))
        else:
            self._memory.keep(changed)

    def _all_as_expected(self, raw: Any, sends: list[_Send]) -> bool:
        """Sends everything, waits once. Answers in the order of the statements."""
        sends.sort(key=lambda send: send[0])  # stable: of one job they stay in their order
        with raw.pipeline():
            cursors = [raw.execute(sql, values) for _, sql, values, _ in sends]
        return all(
            tuple(cursor.fetchone() or ()) == answer
            for cursor, (_, _, _, answer) in zip(cursors, sends, strict=True)
        )

    def _connected(self) -> Any:
        if self._conn is None:
            if time.monotonic() < self._away_until:
                raise Missed
            try:
                self._conn = self._engine.connect()
            except BaseException:
                self._away_until = time.monotonic() + _AWAY_SECONDS
                raise
        return self._conn.connection.driver_connection

    def _missed(
        self, asked: list[Pending], changed: dict[Key, Entry], *, in_doubt: bool = False
    ) -> None:
        self._memory.forget(changed)
        for pending in asked:
            pending.error = Missed(pending.result, in_doubt=in_doubt)

    def _drop(self) -> None:
        conn, self._conn = self._conn, None
        if conn is not None:
            with suppress(Exception):
                conn.invalidate()
                conn.close()


_Send = tuple[str, str, Row, tuple[Any, ...]]  # order, SQL, values, expected row


class _Collected(Way):
    """Writes are collected, and sent with those of others: Missed comes later."""

    dialect = "postgresql"

    def __init__(self, memory: Memory, before: dict[Key, Entry]) -> None:
        super().__init__(memory, before)
        self.sends: list[_Send] = []

    def demand(self, statement: Any, values: Row, answer: Any) -> None:
        sql, own = text_of(statement)
        self.sends.append(("", sql, own | values, (answer,)))

    def write(
        self, job_id: str, statements: Sequence[Any], rows: Sequence[Row], counts: Sequence[int]
    ) -> None:
        sql, values = as_one(tuple(statements), rows)
        self.sends.append((job_id, sql, values, tuple(counts)))
