"""What both ends of the link share: the state, the outgoing queue and the silence timers."""

from __future__ import annotations

from typing import Any

from foxden_proto.link_checks import decode
from foxden_proto.states import LINK, LinkEvent, LinkState, advance
from foxden_proto.timers import Timers

_LINK_STATES_WITH_PEER = frozenset({LinkState.READY, LinkState.DRAINING})


class Link:
    """What both roles share: the state, the outgoing queue and the silence timers."""

    def __init__(self, timers: Timers, now: float, state: LinkState) -> None:
        self.timers = timers
        self.state = state
        self._heard = now
        self._lost_at = now
        self._out: list[bytes] = []
        self._greeting: object = None  # what opened this conversation: the hello, or the welcome

    @property
    def up(self) -> bool:
        return self.state in _LINK_STATES_WITH_PEER

    def outgoing(self) -> list[bytes]:
        """The messages to send now, oldest first; each is handed out once."""
        out, self._out = self._out, []
        return out

    def opened(self, now: float) -> None:
        self._advance(LinkEvent.OPENED)
        self._heard = now
        self._greeting = None
        self._out.clear()

    def lost(self, now: float) -> None:
        """The transport is gone. Harmless when called twice or after the end."""
        self._out.clear()
        if self.state in (LinkState.CLOSED, LinkState.DISCONNECTED):
            return
        if self.up:  # a dial that fails at its hello must not make the grace any longer
            # Nor must the time in which nobody had noticed yet that the peer was gone.
            self._lost_at = min(now, self._heard + self.timers.silent)
        self._advance(LinkEvent.LOST)

    def silent_for(self, now: float) -> float:
        return now - self._heard

    def _advance(self, event: LinkEvent) -> None:
        self.state = advance(LINK, self.state, event)

    def _decode(self, data: bytes, kind: type[Any], now: float) -> tuple[str, Any]:
        frame = decode(data, kind)
        self._heard = now
        name = frame.WhichOneof("frame")
        # An unknown frame of a newer peer has no name here; ignoring it keeps old and new together.
        return (name, getattr(frame, name)) if name else ("", None)
