"""Errors on the wire: a gRPC status whose details carry a reason and its facts.

The broker raises `Problem`; the SDK reads it back and raises the error of its own tree.
Texts are whole sentences for people and end with what to do next.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

import grpc
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

DOMAIN = "foxden"


class Reason(Enum):
    """Why a call failed; the comment names the facts that come with it."""

    INVALID_REQUEST = "INVALID_REQUEST"  # field, allowed
    UNKNOWN_MODEL = "UNKNOWN_MODEL"  # name, near (comma-separated)
    NOT_FOUND = "NOT_FOUND"
    UNAUTHORIZED = "UNAUTHORIZED"
    PERMISSION_DENIED = "PERMISSION_DENIED"  # scope
    QUOTA_EXCEEDED = "QUOTA_EXCEEDED"  # retry_after (seconds), where waiting helps
    NO_CARD_CAN_RUN = "NO_CARD_CAN_RUN"  # reasons (one per line)
    IDEMPOTENCY_CONFLICT = "IDEMPOTENCY_CONFLICT"
    STORAGE_FULL = "STORAGE_FULL"
    UNAVAILABLE = "UNAVAILABLE"
    INTERNAL = "INTERNAL"


_CODES = {
    Reason.INVALID_REQUEST: grpc.StatusCode.INVALID_ARGUMENT,
    Reason.UNKNOWN_MODEL: grpc.StatusCode.NOT_FOUND,
    Reason.NOT_FOUND: grpc.StatusCode.NOT_FOUND,
    Reason.UNAUTHORIZED: grpc.StatusCode.UNAUTHENTICATED,
    Reason.PERMISSION_DENIED: grpc.StatusCode.PERMISSION_DENIED,
    Reason.QUOTA_EXCEEDED: grpc.StatusCode.RESOURCE_EXHAUSTED,
    Reason.NO_CARD_CAN_RUN: grpc.StatusCode.FAILED_PRECONDITION,
    Reason.IDEMPOTENCY_CONFLICT: grpc.StatusCode.ALREADY_EXISTS,
    Reason.STORAGE_FULL: grpc.StatusCode.RESOURCE_EXHAUSTED,
    Reason.UNAVAILABLE: grpc.StatusCode.UNAVAILABLE,
    Reason.INTERNAL: grpc.StatusCode.INTERNAL,
}


@dataclass
class Problem(Exception):
    """A call that cannot be done: a reason, a sentence, and facts by name."""

    reason: Reason
    message: str
    facts: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return self.message

    @property
    def code(self) -> grpc.StatusCode:
        return _CODES[self.reason]

    def status(self) -> grpc.Status:
        """The gRPC status that carries this problem. Its details are a google.rpc.ErrorInfo and,
        where there is a fact `retry_after`, a google.rpc.RetryInfo for tools that know it."""
        status = status_pb2.Status(code=self.code.value[0], message=self.message)
        info = error_details_pb2.ErrorInfo(
            reason=self.reason.name, domain=DOMAIN, metadata=dict(self.facts)
        )
        status.details.add().Pack(info)
        if (seconds := self.facts.get("retry_after")) is not None:
            retry = error_details_pb2.RetryInfo()
            retry.retry_delay.FromNanoseconds(int(float(seconds) * 1e9))
            status.details.add().Pack(retry)
        packed: grpc.Status = rpc_status.to_status(status)
        return packed


def invalid(name: str, message: str, allowed: str) -> Problem:
    """A value of the request that cannot be used: which field, and what it may be."""
    return Problem(Reason.INVALID_REQUEST, message, {"field": name, "allowed": allowed})


def from_rpc_error(error: grpc.RpcError) -> Problem | None:
    """The problem inside a failed call, or None where the broker did not send one."""
    try:
        status = rpc_status.from_call(error)
    except (DecodeError, ValueError):  # details that something on the way made up
        return None
    if status is None:
        return None
    for detail in status.details:
        info = error_details_pb2.ErrorInfo()
        if detail.Unpack(info) and info.domain == DOMAIN and info.reason in Reason.__members__:
            return Problem(Reason[info.reason], status.message, dict(info.metadata))
    return None
