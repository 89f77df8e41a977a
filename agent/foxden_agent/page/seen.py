"""What the page looks at of a running agent. Nothing here changes anything but the owner's files.

A prompt lies in a worker's image and nowhere here: what a batch draws is counted, not told.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from foxden_agent.owner_first import Lent, OwnerFirst
from foxden_agent.page.timeline import Timeline
from foxden_agent.page.today import Today
from foxden_agent.readings import Readings
from foxden_agent.watching.history import History


@dataclass(frozen=True)
class Seen:
    """A running agent, as its composition root puts it together."""

    agent_name: str
    names: Mapping[str, str]  # of the cards, by device
    cards: Mapping[str, Lent]  # by device
    owner: OwnerFirst
    online: Callable[[], bool]  # whether a broker hears it now
    history: History
    timeline: Timeline
    today: Today

    def look(self, readings: Readings) -> None:
        """Called with all readings, once there is a decision about them."""
        self.history.add(readings)
        self.timeline.look(readings, self.owner.decisions)
