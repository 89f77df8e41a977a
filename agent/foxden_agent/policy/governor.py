"""All cards of a machine under one policy: readings go in one by one, changes come out.

No I/O and no clock of its own: `will` says what the owner wants (OwnerFiles.look), and readings
carry their time, so that a recorded evening is decided as it was.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import tzinfo
from types import MappingProxyType

from foxden_agent.policy.deciding import decide
from foxden_agent.policy.memory import State
from foxden_agent.policy.owner_files import OwnersWill
from foxden_agent.policy.settings import Policy
from foxden_agent.policy.values import Decision, EngineUse, Seen
from foxden_agent.readings import CardReadings, MachineReadings


class Governor:
    """Decides for each card as its readings come, and calls `on_change` where that matters.

    `on_change(device, decision)` is called within `read`, with a card's first decision and with
    every one that differs from the last that was told (Decision.differs).
    """

    def __init__(
        self,
        will: Callable[[], OwnersWill],
        on_change: Callable[[str, Decision], None],
        *,
        zone: tzinfo | None = None,
    ) -> None:
        self._will = will
        self._on_change = on_change
        self._zone = zone
        self._owner = will()
        self._states: dict[str, State] = {}
        self._decisions: dict[str, Decision] = {}
        self._told: dict[str, Decision] = {}

    @property
    def policy(self) -> Policy:
        """The owner's policy as of the last reading: watching needs its list of programs."""
        return self._owner.policy

    @property
    def problems(self) -> tuple[str, ...]:
        """What of the owner's files is not followed, in sentences."""
        return self._owner.problems

    @property
    def decisions(self) -> Mapping[str, Decision]:
        """The newest decision by device, passing figures included. A card without readings has
        none, and may do nothing."""
        return MappingProxyType(self._decisions)

    def read(
        self,
        card: CardReadings,
        machine: MachineReadings,
        engine: EngineUse = EngineUse(),
        *,
        foreign_use: float | None = None,
    ) -> Decision:
        """Decide for the card of these readings.

        `engine` is what our own engine does with that card now; `foreign_use` the share of it that
        others draw with, where the system tells that apart. To be called once a second, and by
        Decision.next_look at the latest.
        """
        self._owner = self._will()
        device = card.device
        seen = Seen(card, machine, engine, foreign_use)
        decision, self._states[device] = decide(
            seen,
            self._owner.policy,
            max(card.at, machine.at),
            self._states.get(device, State()),
            wish=self._owner.wish,
            zone=self._zone,
        )
        self._decisions[device] = decision
        if decision.differs(self._told.get(device)):
            self._told[device] = decision
            self._on_change(device, decision)
        return decision

    def forget(self, device: str) -> None:
        """The card is no longer this agent's."""
        for kept in (self._states, self._decisions, self._told):
            kept.pop(device, None)
