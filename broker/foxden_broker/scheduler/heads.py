"""The head of a line during one round of planning. Pure."""

from __future__ import annotations

from foxden_broker.scheduler.facts import Image
from foxden_broker.scheduler.lines import Job, Line

_FIRST_LOOK = 8  # indices of a job that are looked at to begin with


class Cursor:
    """The head of a line during one round: images that were placed are passed over."""

    def __init__(self, line: Line, passed: set[Image], hopeless: set[int]) -> None:
        self._jobs = line.oldest()
        self._passed, self._hopeless = passed, hopeless
        self._job: Job | None = None
        self._indices: list[int] = []
        self._at = 0
        self.over = False

    def head(self) -> tuple[Job, int] | None:
        while not self.over:
            job = self._job
            if job is not None:
                while self._at < len(self._indices):
                    index = self._indices[self._at]
                    if (job.facts.job_id, index) not in self._passed:
                        return job, index
                    self._at += 1
                if len(self._indices) < len(job.waiting):
                    self._indices = job.lowest(4 * len(self._indices))
                    continue
            self._job = next(self._jobs, None)
            if self._job is None:
                self.over = True
            elif self._job.number not in self._hopeless:
                self._indices, self._at = self._job.lowest(_FIRST_LOOK), 0
            else:
                self._job = None
        return None

    def close(self) -> None:
        self._jobs.close()  # gives the heap back
