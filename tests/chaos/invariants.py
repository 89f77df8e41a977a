"""What has to hold after any fault, looked up in the broker's own database and its pictures.

The clients' word stands against the store's: what they were told must be there.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from real_pool import Pool

import foxden
from chaos.load import Seen
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


def check(pool: Pool, seen: Seen) -> list[Verdict]:
    """Judge a pool whose load has been drained and whose broker runs."""
    return [
        no_acknowledged_job_lost(pool, seen),
        every_job_ends(pool),
        one_result_per_image(pool, seen),
        one_live_lease_per_task(pool),
        every_picture_fits(pool, seen),
        clients_saw_no_error(seen),
    ]


def no_acknowledged_job_lost(pool: Pool, seen: Seen) -> Verdict:
    stored = dict(pool.rows("SELECT job_id, count(*) FROM task GROUP BY job_id"))
    lost = [
        f"job {job_id} has {stored.get(job_id, 0)} of {told.count} images"
        for job_id, told in seen.acknowledged.items()
        if stored.get(job_id) != told.count
    ]
    return Verdict("no acknowledged job lost", len(seen.acknowledged), tuple(lost))


def every_job_ends(pool: Pool) -> Verdict:
    ended = {state.value for state in JOB_ENDED}
    jobs = pool.rows("SELECT job_id, state FROM job")
    broken = [f"job {job_id} is {state}" for job_id, state in jobs if state not in ended]
    over = {state.value for state in TASK_ENDED}
    tasks = pool.rows("SELECT job_id, idx, state FROM task")
    broken += [f"image {job}/{idx} is {state}" for job, idx, state in tasks if state not in over]
    return Verdict("every job ends", len(jobs), tuple(broken))


def one_result_per_image(pool: Pool, seen: Seen) -> Verdict:
    """A picture for each image that is done and for no other, accepted from one attempt; and the
    bytes that clients got are that picture's."""
    done = set(pool.rows("SELECT job_id, idx FROM task WHERE state = 'done'"))
    finishes = Counter(pool.rows("SELECT job_id, idx FROM attempt WHERE outcome = 'finish'"))
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


def one_live_lease_per_task(pool: Pool) -> Verdict:
    """Each attempt of an image ended before the next began, and none is left open."""
    query = (
        "SELECT job_id, idx, lease_no, started_ms, ended_ms FROM attempt "
        "ORDER BY job_id, idx, lease_no"
    )
    broken = []
    before: tuple[object, int] = ((), 0)
    attempts = pool.rows(query)
    for job_id, idx, lease_no, started_ms, ended_ms in attempts:
        key = (job_id, idx)
        if not ended_ms:
            broken.append(f"lease {lease_no} of {key} is still open")
        if before[0] == key and started_ms < before[1]:
            broken.append(f"lease {lease_no} of {key} began before the one before it ended")
        before = (key, ended_ms)
    return Verdict("at most one live lease per task", len(attempts), tuple(broken))


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
