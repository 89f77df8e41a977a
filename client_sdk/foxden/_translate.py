"""The one place where a failed call becomes an error of our tree, and where it says "try again"."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import grpc
import grpc.aio

from foxden import errors
from foxden_proto.problems import Problem, Reason, from_rpc_error

_Facts = Mapping[str, str]


def _seconds(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _split(text: str, by: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(by) if part.strip())


_BY_REASON: Mapping[Reason, Callable[[str, _Facts], errors.FoxdenError]] = {
    Reason.INVALID_REQUEST: lambda text, facts: errors.InvalidRequest(
        text, field=facts.get("field", ""), allowed=facts.get("allowed", "")
    ),
    Reason.UNKNOWN_MODEL: lambda text, facts: errors.UnknownModel(
        text, name=facts.get("name", ""), near=_split(facts.get("near", ""), ",")
    ),
    Reason.NOT_FOUND: lambda text, facts: errors.NotFound(text),
    Reason.UNAUTHORIZED: lambda text, facts: errors.Unauthorized(text),
    Reason.PERMISSION_DENIED: lambda text, facts: errors.PermissionDenied(
        text, scope=facts.get("scope", "")
    ),
    Reason.QUOTA_EXCEEDED: lambda text, facts: errors.QuotaExceeded(
        text, retry_after=_seconds(facts.get("retry_after", ""))
    ),
    Reason.NO_CARD_CAN_RUN: lambda text, facts: errors.NoCardCanRun(
        text, reasons=_split(facts.get("reasons", ""), "\n")
    ),
    Reason.IDEMPOTENCY_CONFLICT: lambda text, facts: errors.InvalidRequest(
        text, field="idempotency_key", allowed="a key that no other request used"
    ),
    Reason.STORAGE_FULL: lambda text, facts: errors.Unavailable(text),
    Reason.UNAVAILABLE: lambda text, facts: errors.Unavailable(text),
    Reason.INTERNAL: lambda text, facts: errors.FoxdenError(text),
}


def from_problem(problem: Problem) -> errors.FoxdenError:
    return _BY_REASON[problem.reason](problem.message, problem.facts)


def _problem_in(error: grpc.RpcError) -> Problem | None:
    try:
        return from_rpc_error(error)
    except ValueError:  # a proxy rewrote the status so that its two halves disagree
        return None


def translate(error: grpc.aio.AioRpcError, where: str = "the broker") -> errors.FoxdenError:
    """The error to raise for a failed call. `where` is how the address is named in messages."""
    problem = _problem_in(error)
    if problem is not None:
        return from_problem(problem)
    code, details = error.code(), (error.details() or "").strip()
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED and "larger than max" in details:
        return errors.InvalidRequest(
            "the request is larger than a message may be: shorten the prompt",
            field="prompt",
            allowed="a request of 256 KiB at most",
        )
    if code is grpc.StatusCode.UNAUTHENTICATED:
        return errors.Unauthorized(f"{where} does not accept the token: run `foxden login`")
    if code is grpc.StatusCode.PERMISSION_DENIED:
        return errors.PermissionDenied(f"the token may not do this at {where}: ask for another")
    if code is grpc.StatusCode.UNIMPLEMENTED:
        return errors.FoxdenError(
            f"{where} does not know this call: use the same Foxden version on both sides"
        )
    if code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED):
        return errors.Unavailable(
            f"{where} cannot be reached ({details.rpartition(': ')[2] or code.name}): "
            "check that it runs and that the address is right"
        )
    return errors.FoxdenError(
        f"{where} failed the call ({code.name}: {details}): try again, or look at the broker's log"
    )


def retryable(error: BaseException) -> bool:
    """Whether the same call may succeed if it is simply made again.

    Repeating is always safe: Submit carries an idempotency key, Cancel says the same thing twice,
    Watch goes on from its cursor, Download and Upload start over, everything else only reads.

    - UNAVAILABLE: not reached, going away, or the connection broke. The reason to retry at all.
    - DEADLINE_EXCEEDED: our own limit for one attempt, on a connection that went silent.
    - CANCELLED: a broker that shuts down ends its streams with it. (Our own cancelling arrives as
      asyncio.CancelledError and never comes here.)

    RESOURCE_EXHAUSTED is absent although it looks transient: it is a quota, and waiting
    `retry_after` is the caller's decision. INTERNAL and UNKNOWN are bugs, which repeat. A
    certificate that does not verify arrives as UNAVAILABLE and will not verify the next time.
    A broker that says STORAGE_FULL says so as RESOURCE_EXHAUSTED: hours, not seconds.
    """
    if isinstance(error, errors.Unavailable):  # our own: the CA's fetch, a damaged download
        return not isinstance(error, errors.WrongBroker)
    if not isinstance(error, grpc.aio.AioRpcError):
        return False
    if "certificate verify failed" in (error.details() or "").lower():
        return False
    return error.code() in (
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.CANCELLED,
    )
