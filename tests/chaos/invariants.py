"""What has to hold after any fault, looked up in the broker's own database and its pictures.

The clients' word stands against the store's: what they were told must be there.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from real_pool import Pool

import foxden
from chaos.load import Seen
from foxden_broker.store import history
from foxden_proto.states import JOB_ENDED, TASK_ENDED

_MOST_SHOWN = 3
_SEED = re.compile(r"\bSeed: (\d+)")


@dataclass(frozen=True)
class Verdict:
    """One invariant: whether it held, how much was looked at, what broke it, and what else is to
    be known."""

    invariant: str
    looked_at: int
    broken: tuple[str, ...]
    note: str = ""

    @property
    def holds(self) -> bool:
        return not self.broken

    def __str__(self) -> str:
        shown = "; ".join(self.broken[:_MOST_SHOWN])
        return f"{self.invariant}: {f'{len(self.broken)} times broken: {shown}' if shown else 'ok'}"


@dataclass(frozen=True)
class Books:
    """Jobs, images and attempts as the database has them: those that ended a while ago were moved
    to history, and count like the others."""

    jobs: dict[str, str] = field(default_factory=dict)  # state by job_id
    tasks: dict[tuple[str, int], str] = field(default_factory=dict)  # state
    attempts: dict[tuple[str, int, int], tuple[str, int, int]] = field(default_factory=dict)

    @classmethod
    def read(cls, pool: Pool) -> Books:
        books = cls()
        # The hot tables first: what moves meanwhile is then seen twice, and not left out.
        books.jobs.update(pool.rows("SELECT job_id, state FROM job"))
        for job, idx, state in pool.rows("SELECT job_id, idx, state FROM task"):
            books.tasks[job, idx] = state
        columns = "job_id, idx, lease_no, outcome, started_ms, ended_ms"
        for job, idx, lease_no, *rest in pool.rows(f"SELECT {columns} FROM attempt"):
            books.attempts[job, idx, lease_no] = tuple(rest)
        for job, state, details in pool.rows("SELECT job_id, state, details FROM job_history"):
            books.jobs[job] = state
            tasks, attempts = history.unpack(job, details)
            for task in tasks:
                books.tasks[job, task.index] = task.state.value
                for one in attempts[task.index]:
                    told = (one.outcome, one.started_ms, one.ended_ms)
                    books.attempts[job, task.index, one.lease_no] = told
        return books


def check(pool: Pool, seen: Seen) -> list[Verdict]:
    """Judge a pool whose load has been drained and whose broker runs."""
    books = Books.read(pool)
    return [
        no_acknowledged_job_lost(books, seen),
        every_job_ends(books),
        one_result_per_image(pool, books, seen),
        one_live_lease_per_task(books),
        every_picture_fits(pool, seen),
        clients_saw_no_error(seen),
    ]


def no_acknowledged_job_lost(books: Books, seen: Seen) -> Verdict:
    stored = Counter(job_id for job_id, _ in books.tasks)
    lost = [
        f"job {job_id} has {stored[job_id]} of {told.count} images"
        for job_id, told in seen.acknowledged.items()
        if stored[job_id] != told.count
    ]
    return Verdict("no acknowledged job lost", len(seen.acknowledged), tuple(lost))


def every_job_ends(books: Books) -> Verdict:
    ended = {state.value for state in JOB_ENDED}
    broken = [f"job {job} is {state}" for job, state in books.jobs.items() if state not in ended]
    over = {state.value for state in TASK_ENDED}
    broken += [
        f"image {job}/{idx} is {state}"
        for (job, idx), state in books.tasks.items()
        if state not in over
    ]
    return Verdict("every job ends", len(books.jobs), tuple(broken))


def one_result_per_image(pool: Pool, books: Books, seen: Seen) -> Verdict:
    """A picture for each image that is done and for no other, accepted from one attempt; and the
    bytes that clients got are that picture's."""
    done = {key for key, state in books.tasks.items() if state == "done"}
    finishes = Counter(
        (job, idx) for (job, idx, _), (how, *_) in books.attempts.items() if how == "finish"
    )
    stored = {
        (job, idx): sha for job, idx, sha in pool.rows("SELECT job_id, idx, sha256 FROM picture")
    }
    broken = [f"{key} is done without a picture" for key in done - stored.keys()]
    broken += [f"{key} has a picture and is not done" for key in stored.keys() - done]
    broken += [f"{key} was accepted {n} times" for key, n in finishes.items() if n != 1]
    broken += [f"{key} is done by no attempt" for key in done - finishes.keys()]
    for key, digests in seen.pictures.items():
        if digests != {stored.get(key)}:
            broken.append(f"{key}: clients got other bytes than the accepted picture's")
    return Verdict("one accepted result per image", len(done), tuple(broken))


def one_live_lease_per_task(books: Books) -> Verdict:
    """Each attempt of an image ended before the next began, and none is left open."""
    broken = []
    before: tuple[object, int] = ((), 0)
    for (job_id, idx, lease_no), (_, started_ms, ended_ms) in sorted(books.attempts.items()):
        key = (job_id, idx)
        if not ended_ms:
            broken.append(f"lease {lease_no} of {key} is still open")
        if before[0] == key and started_ms < before[1]:
            broken.append(f"lease {lease_no} of {key} began before the one before it ended")
        before = (key, ended_ms)
    return Verdict("at most one live lease per task", len(books.attempts), tuple(broken))


def every_picture_fits(pool: Pool, seen: Seen) -> Verdict:
    """Each accepted picture can be downloaded, has the sha256 that the store knows, and was drawn
    with the seed that its client asked for."""
    stored = pool.rows("SELECT job_id, idx, sha256 FROM picture ORDER BY job_id, idx")
    client = pool.client()
    broken: list[str] = []
    for job_id in dict.fromkeys(row[0] for row in stored):
        wanted = {idx: sha for job, idx, sha in stored if job == job_id}
        broken += _misfits(client, job_id, wanted, seen)
    return Verdict("every picture downloads; sha256 and seed fit", len(stored), tuple(broken))


def _misfits(
    client: foxden.Client, job_id: str, wanted: dict[int, str], seen: Seen
) -> Iterable[str]:
    try:
        result = client.get(job_id).result(timeout=60)
    except (foxden.JobFailed, foxden.JobCancelled) as error:
        result = error.result
    except foxden.FoxdenError as error:
        yield f"{job_id}: {error}"
        return
    pictures = {picture.index: picture for picture in result or ()}
    for index, sha256 in wanted.items():
        if (picture := pictures.get(index)) is None:
            yield f"{job_id}/{index} cannot be fetched"
            continue
        if hashlib.sha256(picture.data).hexdigest() != sha256:
            yield f"{job_id}/{index} has other bytes than its sha256 says"
        told = seen.acknowledged.get(job_id)
        written = _SEED.search(picture.infotext)
        if told is not None and (
            picture.seed != told.seed + index or written is None or int(written[1]) != picture.seed
        ):
            yield f"{job_id}/{index} was drawn with another seed"


def clients_saw_no_error(seen: Seen) -> Verdict:
    return Verdict("clients saw no error", len(seen.acknowledged), tuple(seen.errors))
