"""Who may look at the page: the installation's secret, one-time keys, and sessions. Pure: time is
passed in, and what is random too.

A browser is let in by a key in the address it is opened with. Command lines can be read by other
users of the machine, so a key is good once, for half a minute; one that comes a second time was
read by somebody, and whoever it let in is put out again.

A session has two halves, and needs both: a cookie that no script can read, and a text that the
page's script keeps for its own origin. A cookie alone would not do: browsers send it to every
port of 127.0.0.1, also to one where another user of this machine listens. Nothing of it is kept
on disk: an address where we do not listen any more may be somebody else's.
"""

from __future__ import annotations

import hmac
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

T = TypeVar("T")

KEY_SECONDS = 30.0
_SESSION_SECONDS = 7 * 86_400.0
_MOST = 64  # keys, and sessions: beyond that the oldest go


@dataclass(frozen=True)
class Session:
    """What a browser has to show with every call."""

    cookie: str = field(repr=False)
    half: str = field(repr=False)
    ends: float  # on the clock that was passed in


@dataclass
class _Key:
    ends: float
    session: Session | None = None  # the one that it has opened


class Keys:
    """`secret` is that of the file; the clock counts seconds and never goes back."""

    def __init__(
        self,
        secret: str,
        clock: Callable[[], float],
        make: Callable[[], str] = lambda: secrets.token_urlsafe(32),
    ) -> None:
        self._secret = secret
        self._clock = clock
        self._make = make
        self._keys: dict[str, _Key] = {}
        self._sessions: dict[str, Session] = {}

    def owns(self, secret: str) -> bool:
        """Whether this is the installation's secret."""
        return hmac.compare_digest(secret.encode(), self._secret.encode())

    def new_key(self) -> str:
        """A key for the address that a browser is opened with."""
        self._forget_old()
        key = self._make()
        self._keys[key] = _Key(self._clock() + KEY_SECONDS)
        return key

    def open(self, key: str) -> Session | None:
        """The session that a key opens; None where it opens none (any more)."""
        self._forget_old()
        found = self._keys.get(key)
        if found is None:
            return None
        if found.session is not None:
            self._sessions.pop(found.session.cookie, None)
            return None
        session = Session(self._make(), self._make(), self._clock() + _SESSION_SECONDS)
        found.session = session
        self._sessions[session.cookie] = session
        return session

    def knows(self, cookie: str, half: str) -> bool:
        """Whether both halves are those of one session that goes on."""
        session = self._sessions.get(cookie)
        if session is None or session.ends <= self._clock():
            return False
        return hmac.compare_digest(half.encode(), session.half.encode())

    def _forget_old(self) -> None:
        now = self._clock()
        self._keys = _newest({k: v for k, v in self._keys.items() if v.ends > now})
        self._sessions = _newest({k: v for k, v in self._sessions.items() if v.ends > now})


def _newest(kept: dict[str, T]) -> dict[str, T]:
    return dict(list(kept.items())[-_MOST + 1 :])
