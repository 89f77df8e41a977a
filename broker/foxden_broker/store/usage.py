"""What members may use (quotas) and what they used (usage)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any

from sqlalchemy import Connection, bindparam, case, func, select

from foxden_broker.store.base import Quota, Usage
from foxden_broker.store.database import execute_all, upsert
from foxden_broker.store.schema import attempt, job, quota, usage
from foxden_proto.states import TaskEvent

_DAY_MS = 86_400_000
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def set_quota(conn: Connection, account_id: str, new: Quota, now_ms: int) -> None:
    statement = upsert(conn.dialect.name, quota)
    fresh = statement.excluded
    names = ("most_queued", "most_running", "gpu_seconds_per_day", "changed_ms")
    conn.execute(
        statement.on_conflict_do_update(
            index_elements=[quota.c.account_id, quota.c.member],
            set_={name: fresh[name] for name in names},
        ),
        {"account_id": account_id, "changed_ms": now_ms} | new.__dict__,
    )


def quotas(conn: Connection, account_id: str) -> tuple[Quota, ...]:
    q = quota.c
    query = select(q.member, q.most_queued, q.most_running, q.gpu_seconds_per_day)
    rows = conn.execute(query.where(q.account_id == account_id).order_by(q.member))
    return tuple(Quota(*row) for row in rows)


def day_of(ms: int) -> str:
    return (_EPOCH + timedelta(milliseconds=ms)).date().isoformat()


def _day_start(day: str) -> int:
    """Raises ValueError for what is no date."""
    return (datetime.fromisoformat(day).replace(tzinfo=UTC) - _EPOCH) // timedelta(milliseconds=1)


def add_attempts(conn: Connection, account_id: str, ended: Iterable[tuple[str, Any]]) -> None:
    """Add (member, attempt row) of jobs that go to history to their members' days."""
    sums: defaultdict[tuple[str, str], list[int]] = defaultdict(lambda: [0, 0])
    for member, row in ended:
        if not row.ended_ms:
            continue
        one = sums[member, day_of(row.ended_ms)]
        one[0] += row.outcome == TaskEvent.FINISH.value
        # An older broker left no measure: from its lease on is the best there is.
        used = max(0, row.ended_ms - row.started_ms) if row.gpu_ms is None else row.gpu_ms
        one[1] += used
    rows = [
        {"account_id": account_id, "member": m, "day": d, "images": images, "gpu_ms": ms}
        for (m, d), (images, ms) in sorted(sums.items())  # in one order, against deadlocks
    ]
    execute_all(conn, [(_adding(conn.dialect.name), rows)])


@cache
def _adding(dialect: str) -> Any:
    statement = upsert(dialect, usage)
    more = statement.excluded
    return statement.on_conflict_do_update(
        index_elements=[usage.c.account_id, usage.c.member, usage.c.day],
        set_={
            "images": usage.c.images + more.images,
            "gpu_ms": usage.c.gpu_ms + more.gpu_ms,
        },
    )


def between(
    conn: Connection, account_id: str, member: str, first_day: str, last_day: str
) -> tuple[Usage, ...]:
    """What is counted, and on top of it what has ended in the hot tables.

    Raises ValueError for days that are none, as 2026-11-22 is one.
    """
    first, end = _day_start(first_day), _day_start(last_day) + _DAY_MS
    sums: defaultdict[tuple[str, str], list[int]] = defaultdict(lambda: [0, 0])
    counted = select(usage.c.day, usage.c.member, usage.c.images, usage.c.gpu_ms).where(
        usage.c.account_id == account_id,
        usage.c.day >= day_of(first),
        usage.c.day <= day_of(end - 1),
    )
    hot = _HOT
    if member:
        counted = counted.where(usage.c.member == member)
        hot = _HOT_OF_MEMBER
    for day, who, images, gpu_ms in conn.execute(counted):
        sums[day, who] = [images, gpu_ms]
    where = {"account": account_id, "first": first, "end": end, "member": member}
    for number, who, images, gpu_ms in conn.execute(hot, where):
        one = sums[day_of(int(number) * _DAY_MS), who]
        one[0] += int(images)
        one[1] += int(gpu_ms)
    return tuple(Usage(who, day, *used) for (day, who), used in sorted(sums.items()))


_a = attempt.c
_DAY_NUMBER = (_a.ended_ms // _DAY_MS).label("day_number")
_USED = func.coalesce(_a.gpu_ms, _a.ended_ms - _a.started_ms)
_HOT = (
    select(
        _DAY_NUMBER,
        job.c.member,
        func.sum(case((_a.outcome == TaskEvent.FINISH.value, 1), else_=0)),
        func.sum(_USED),
    )
    .join_from(
        job, attempt, (attempt.c.account_id == job.c.account_id) & (_a.job_id == job.c.job_id)
    )
    .where(
        job.c.account_id == bindparam("account"),
        attempt.c.account_id == bindparam("account"),
        _a.ended_ms >= bindparam("first"),
        _a.ended_ms < bindparam("end"),
        _a.ended_ms > 0,
        _a.counted.is_(False),
    )
    .group_by(_DAY_NUMBER, job.c.member)
)
_HOT_OF_MEMBER = _HOT.where(job.c.member == bindparam("member"))
