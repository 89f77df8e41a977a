"""What is new of a job that somebody watches, mostly without a query.

The store is asked once at the start, and again whenever the changes that were told here have a gap
or say too little. In between each accepted change carries the task as it was written, with the
job's revision, so that a watcher which has seen revision 7 needs nobody to learn what 8 was.
"""

from __future__ import annotations

from collections.abc import Sequence

from foxden_broker.hub import Subscription
from foxden_broker.recent_jobs import RecentJobs, applied
from foxden_broker.store.base import Change, Job, Store, Task


class Follower:
    """One watcher's place in one job. `job` is without tasks."""

    def __init__(
        self,
        store: Store,
        account_id: str,
        job_id: str,
        subscription: Subscription,
        recent: RecentJobs,
    ) -> None:
        self._store = store
        self._account_id, self._job_id = account_id, job_id
        self._subscription = subscription
        self._recent: RecentJobs | None = recent  # for the first look
        self._job: Job | None = None

    async def news(self, cursor: int) -> tuple[Job, Sequence[Task]] | None:
        """The job as it is now and its tasks that changed after `cursor`, in that order; None
        where there is no such job."""
        changes = self._subscription.changes()  # before the store: what comes meanwhile is new
        if self._job is not None and changes is not None:
            known = applied(self._job, changes)
            if known is not None:
                self._job = known
                return known, latest(changes, cursor)
        recent, self._recent = self._recent, None
        found = recent.news(self._job_id, cursor) if recent is not None else None
        if found is None:
            found = await self._store.changed_tasks(self._account_id, self._job_id, cursor)
        self._job = None if found is None else found[0]
        return found


def latest(changes: Sequence[Change], cursor: int) -> list[Task]:
    """Each task as it was last, those after the cursor, in the order of their revisions."""
    newest = {change.task.index: change.task for change in changes if change.revision > cursor}
    return sorted(newest.values(), key=lambda task: task.revision)
