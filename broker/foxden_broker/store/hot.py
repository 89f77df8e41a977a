"""The four writes of every job - submit, assign, start, finish - without a look before them.

The long way (`jobs`, `leases`) locks a job, reads it, and writes what follows. Here the job is
remembered as this broker's last commit left it, what follows is worked out from that, and the
write is made `WHERE revision = the remembered one`. Every change of a task raises the revision of
its job, so an equal revision says that nothing of it changed since; a requested cancel, which
raises none, is compared, too. Nothing has to be read, and on PostgreSQL the writes of several
callers are sent together (postgres_groups.py).

Whatever is unusual raises `Missed`, with nothing kept: the caller then goes the long way, which
has the answer. What is remembered may therefore be wrong or missing, and costs time alone.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from sqlalchemy import bindparam

from foxden_broker.store import jobs
from foxden_broker.store.base import Assign, Change, Job, Lease, NewJob, Picture, Submitted, Task
from foxden_broker.store.change_rows import (
    UPDATE_JOB,
    JobHead,
    Move,
    attempt_writes,
    head_row,
    picture_writes,
    task_writes,
)
from foxden_broker.store.changes import moved, settle
from foxden_broker.store.replicas import EPOCH
from foxden_broker.store.schema import job
from foxden_proto.states import JOB_ENDED, JobState, TaskEvent, TaskState, sources

MOST_REMEMBERED = 100_000  # jobs, or images of jobs that were begun: some 300 bytes each
MOST_IMAGES = 64  # a job of more is not remembered: each change would count them all


class Missed(Exception):
    """Nothing was kept. `doubt`: the commit was sent and its answer lost; holds the result."""

    def __init__(self, doubt: Any = None, *, in_doubt: bool = False) -> None:
        self.doubt, self.in_doubt = doubt, in_doubt


Key = tuple[str, str]  # account_id, job_id
Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Remembered:
    head: JobHead  # never changed: each change makes a new one
    tasks: tuple[Task, ...]  # by index


# An int: that many images, all queued, as submitted. None: do not remember it any more.
Entry = Remembered | int | None


class Memory:
    """Jobs as this broker's commits left them, bounded. For any thread."""

    def __init__(self, most: int = MOST_REMEMBERED) -> None:
        self._most = most
        self._weight = 0
        self._jobs: dict[Key, Remembered | int] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._jobs)

    def get(self, key: Key) -> Remembered | int | None:
        return self._jobs.get(key)

    def keep(self, entries: dict[Key, Entry]) -> None:
        """After their commit. What changed last is forgotten last."""
        with self._lock:
            for key, entry in entries.items():
                self._put(key, entry)

    def learn(self, entries: dict[Key, Entry]) -> None:
        """As read, unless something later is remembered."""
        with self._lock:
            for key, entry in entries.items():
                if _revision(self._jobs.get(key)) < _revision(entry):
                    self._put(key, entry)

    def forget(self, keys: Iterable[Key]) -> None:
        with self._lock:
            for key in keys:
                self._put(key, None)

    def _put(self, key: Key, entry: Entry) -> None:
        self._weight -= _weight(self._jobs.pop(key, None))
        if entry is None:
            return
        self._jobs[key] = entry
        self._weight += _weight(entry)
        while self._weight > self._most:
            self._weight -= _weight(self._jobs.pop(next(iter(self._jobs))))


def _weight(entry: Entry) -> int:
    if entry is None:
        return 0
    return len(entry.tasks) if isinstance(entry, Remembered) else 1


def _revision(entry: Entry) -> int:
    if entry is None:
        return 0
    return entry.head.revision if isinstance(entry, Remembered) else jobs.FIRST_REVISION


def as_read(rows: Iterable[tuple[Job, Task]]) -> dict[Key, Entry]:
    """What to remember of open tasks with their jobs, for jobs all of whose tasks are there: what
    waited when this broker started, or took the account over. Pure."""
    found: dict[Key, tuple[Job, list[Task]]] = {}
    for one, mine in rows:
        if one.count <= MOST_IMAGES:
            found.setdefault((one.account_id, one.job_id), (one, []))[1].append(mine)
    entries: dict[Key, Entry] = {}
    for key, (one, tasks) in found.items():
        if len(tasks) != one.count:
            continue
        if one.revision == jobs.FIRST_REVISION and not one.cancel_requested:
            entries[key] = one.count
            continue
        head = JobHead(
            one.job_id,
            one.state,
            one.revision,
            one.ended_ms,
            one.cancel_requested,
            one.reason,
            one.done,
            one.count,
        )
        entries[key] = Remembered(head, tuple(sorted(tasks, key=lambda task: task.index)))
    return entries


class Way(ABC):
    """How the writes of one caller get to the database. `changed`: what to remember afterwards."""

    dialect: str

    def __init__(self, memory: Memory, before: dict[Key, Entry]) -> None:
        """`before`: what those changed who are in the same transaction, earlier."""
        self._memory, self._before = memory, before
        self.changed: dict[Key, Entry] = {}

    def known(self, key: Key) -> Entry:
        for layer in (self.changed, self._before):
            if key in layer:
                return layer[key]
        return self._memory.get(key)

    @abstractmethod
    def demand(self, statement: Any, values: dict[str, Any], answer: Any) -> None:
        """A select whose first value has to be `answer`; Missed now or later where it is not."""

    @abstractmethod
    def write(
        self, job_id: str, statements: Sequence[Any], rows: Sequence[Row], counts: Sequence[int]
    ) -> None:
        """Statements of one job, with a row of values each, that have to touch so many rows each;
        Missed now or later where they don't. The first of them is the guard."""


T = TypeVar("T")
Hot = Callable[[Way], T]


def submit(way: Way, new: NewJob, key_window_ms: int) -> Submitted:
    if new.uploads:
        raise Missed
    stored = jobs.stored(new)
    statements, rows = jobs.insertion(stored)
    counts = [1, stored.count]
    if new.idempotency_key:
        statements = (jobs.claiming(way.dialect), *statements)
        rows = [jobs.claim_row(new, new.created_ms - key_window_ms), *rows]
        counts = [1, *counts]
    way.write(new.job_id, statements, rows, counts)
    if new.count <= MOST_IMAGES:
        way.changed[new.account_id, new.job_id] = new.count
    return Submitted(stored)


def assign(
    way: Way, account_id: str, assigns: Sequence[Assign], now_ms: int, epoch: int | None
) -> tuple[Change, ...]:
    if not assigns:
        raise Missed
    if epoch is not None:
        way.demand(EPOCH, {"account": account_id}, epoch)
    changes = []
    for one in assigns:
        before = _known(way, account_id, one.job_id)
        if not 0 <= one.index < len(before.tasks):
            raise Missed
        changes.append(
            _change(
                way,
                account_id,
                before,
                Move(before.tasks[one.index], TaskEvent.LEASE, to=one),
                now_ms,
            )
        )
    return tuple(changes)


def start(way: Way, account_id: str, lease: Lease, now_ms: int) -> Change:
    before, mine = _held(way, account_id, lease)
    return _change(way, account_id, before, Move(mine, TaskEvent.START), now_ms)


def finish(
    way: Way, account_id: str, lease: Lease, picture: Picture, now_ms: int
) -> tuple[Change, bool]:
    before, mine = _held(way, account_id, lease)
    move = Move(mine, TaskEvent.FINISH, picture=picture)
    return _change(way, account_id, before, move, now_ms), True


def _known(way: Way, account_id: str, job_id: str) -> Remembered:
    entry = way.known((account_id, job_id))
    if entry is None:
        raise Missed
    if isinstance(entry, int):
        head = JobHead(job_id, JobState.QUEUED, jobs.FIRST_REVISION, 0, False, "", 0, entry)
        return Remembered(head, tuple(jobs.fresh(job_id, index) for index in range(entry)))
    return entry


def _held(way: Way, account_id: str, lease: Lease) -> tuple[Remembered, Task]:
    before = _known(way, account_id, lease.job_id)
    if not lease.lease_no or not 0 <= lease.index < len(before.tasks):
        raise Missed
    mine = before.tasks[lease.index]
    if mine.lease_no != lease.lease_no:
        raise Missed
    return before, mine


_GUARDED_HEAD = UPDATE_JOB.where(
    job.c.revision == bindparam("at_revision"),
    job.c.cancel_requested == bindparam("at_cancel_requested"),
)


def _change(way: Way, account_id: str, before: Remembered, move: Move, now_ms: int) -> Change:
    """One task moves and its job follows, as `changes.apply` has it."""
    if move.task.state not in sources(move.event):
        raise Missed
    old = before.head
    head = replace(old, revision=old.revision + 1)
    new = moved(move, head.revision, now_ms)
    kept = new if new.picture is None else replace(new, picture=None)
    tasks = (*before.tasks[: new.index], kept, *before.tasks[new.index + 1 :])
    counts: dict[TaskState, int] = {}
    for one in tasks:
        counts[one.state] = counts.get(one.state, 0) + 1
    settle(head, counts, move.reason, now_ms)
    guard = head_row(account_id, head) | {
        "at_revision": old.revision,
        "at_cancel_requested": old.cancel_requested,
    }
    statements, rows = [_GUARDED_HEAD], [guard]
    for statement, some in (
        task_writes(account_id, [move], [new]),
        *attempt_writes(account_id, [move], [new], now_ms),
        picture_writes(account_id, [move]),
    ):
        if some:
            statements.append(statement)  # type: ignore[arg-type]
            rows.extend(some)
    way.write(head.job_id, tuple(statements), rows, [1] * len(rows))
    way.changed[account_id, head.job_id] = (
        None if head.state in JOB_ENDED else Remembered(head, tasks)
    )
    return Change(new, move.event, head.state, head.revision)
