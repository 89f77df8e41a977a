"""Everything that can go wrong, as one tree. Each error has its facts as attributes.

Messages are whole sentences and end with what to do next. An error survives pickling, so that it
can cross a process boundary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from foxden.jobs import Attempt
    from foxden.results import Result


class FoxdenError(Exception):
    """Something between this program and a finished picture failed."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message

    def facts(self) -> dict[str, Any]:
        """The attributes that describe this error, ready for JSON."""
        kept = {k: v for k, v in vars(self).items() if k not in ("message", "result")}
        if "attempts" in kept:
            kept["attempts"] = [vars(attempt) for attempt in kept["attempts"]]
        return kept


class InvalidRequest(FoxdenError, ValueError):
    """A value of the request cannot be used: `field` names it, `allowed` says what may be there."""

    def __init__(self, message: str, *, field: str = "", allowed: str = "") -> None:
        super().__init__(message)
        self.field, self.allowed = field, allowed


class UnknownModel(FoxdenError):
    """The pool has no model of this `name`; `near` holds names like it."""

    def __init__(self, message: str, *, name: str = "", near: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.name, self.near = name, tuple(near)


class Unauthorized(FoxdenError):
    """The broker does not accept the token: it is missing, wrong, expired or revoked."""


class PermissionDenied(FoxdenError):
    """The token is valid but lacks a `scope` (generate, admin or agent)."""

    def __init__(self, message: str, *, scope: str = "") -> None:
        super().__init__(message)
        self.scope = scope


class NotFound(FoxdenError):
    """There is no such job, picture or token, or it belongs to another account."""


class QuotaExceeded(FoxdenError):
    """Too much at once; try again after `retry_after` seconds (None: unknown)."""

    def __init__(self, message: str, *, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class NoCardCanRun(FoxdenError):
    """No card of the account, online or not, could ever run this; `reasons` says why, per card."""

    def __init__(self, message: str, *, reasons: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.reasons = tuple(reasons)


class _JobEnded(FoxdenError):
    """A job that ended without all its pictures; `result` holds the finished ones, or None."""

    def __init__(self, message: str, *, job_id: str = "", result: Result | None = None) -> None:
        super().__init__(message)
        self.job_id, self.result = job_id, result


class JobFailed(_JobEnded):
    """Some or all images could not be made.

    `reason` is one sentence, `attempts` every try that did not end with a picture, and `result`
    the pictures that were finished, or None where there are none.
    """

    def __init__(
        self,
        message: str,
        *,
        reason: str = "",
        attempts: Sequence[Attempt] = (),
        job_id: str = "",
        result: Result | None = None,
    ) -> None:
        super().__init__(message, job_id=job_id, result=result)
        self.reason, self.attempts = reason, tuple(attempts)


class JobCancelled(_JobEnded):
    """Somebody cancelled the job; `result` holds the pictures finished before, or None."""


class DeadlineExpired(_JobEnded):
    """The job's deadline passed before all its images were started; `result` as in JobFailed."""


class Unavailable(FoxdenError):
    """The broker cannot be reached, or cannot work now, and patience (`retry_for`) ran out."""


class WrongBroker(Unavailable):
    """What answers at the address is not the broker it names. Nothing was said to it."""


class Timeout(FoxdenError):
    """The time given as `timeout` ran out. A job that was submitted (`job_id`) goes on."""

    def __init__(self, message: str, *, job_id: str = "") -> None:
        super().__init__(message)
        self.job_id = job_id
