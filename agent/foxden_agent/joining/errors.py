"""What can go wrong when a machine joins or leaves. Each text says what, and what to do next."""

from __future__ import annotations

from foxden_proto.join_links import Refusal


class JoinError(Exception):
    """Something about joining or leaving did not work."""


class BadLink(JoinError):
    """What was given is no join link, or was changed on its way."""


class WrongBroker(JoinError):
    """What answers is not the broker of the link. It was told nothing."""


class BrokerUnreachable(JoinError):
    """The broker could not be reached, or not be understood."""


class LinkRefused(JoinError):
    """The broker does not let this machine in; `why` says it for programs."""

    def __init__(self, message: str, why: Refusal | None = None, retry_after: float = 0.0) -> None:
        super().__init__(message)
        self.why = why
        self.retry_after = retry_after


class KeyUnavailable(JoinError):
    """The key is kept, but cannot be read now."""


class KeyLost(JoinError):
    """The key is gone."""


class NoSuchPool(JoinError):
    """This machine is in no such pool, or in several that fit."""
