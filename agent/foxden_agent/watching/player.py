"""Plays a recording in place of a watcher: whatever decides by readings cannot tell."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace

from foxden_agent.readings import CardReadings, Readings
from foxden_agent.watching.recording import Moment, Recording
from foxden_agent.watching.watcher import Deliver

log = logging.getLogger(__name__)

ANY_CARD = "card"  # in a recording: whichever card there is
_AFTER_THE_END = 0.2  # seconds between repeats of the last readings


class Player:
    """Delivers what was recorded, `speed` times as fast.

    The clocks of the readings are the recording's: `at` runs `speed` times as fast as the monotonic
    clock, and `wall` tells the hours that were recorded. So whoever counts seconds must count
    those of the readings. After the end the last readings go on, and time with them.
    """

    def __init__(
        self,
        recording: Recording,
        devices: Sequence[str],
        deliver: Deliver,
        *,
        speed: float = 1.0,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """`devices`: the agent's. Raises ValueError where speed is not from 0.1 to 1000."""
        if not 0.1 <= speed <= 1000:
            raise ValueError(f"The speed {speed} is not possible: choose one from 0.1 to 1000.")
        self.latest: Readings | None = None
        self.over = asyncio.Event()  # the last line was delivered
        self._recording = recording
        self._devices = tuple(devices)
        self._roles = roles(recording.devices, devices)
        self._deliver = deliver
        self._speed = speed
        self._clock = clock
        self._sleep = sleep

    async def run(self) -> None:
        """Play, then hold the last readings until cancelled."""
        recording, speed = self._recording, self._speed
        log.info("playing %s, %g times as fast", recording.path.name, speed)
        self._start = self._clock()
        moment: Moment | None = None
        for moment in recording.moments():
            await self._sleep(max(0.0, self._start + moment.t / speed - self._clock()))
            self._play(moment, moment.t)
        assert moment is not None  # a Recording holds at least one
        log.info("the recording is over; its last readings stay")
        self.over.set()
        while True:
            await self._sleep(_AFTER_THE_END)
            self._play(moment, max(moment.t, (self._clock() - self._start) * speed))

    def _play(self, moment: Moment, t: float) -> None:
        at = self._start + t
        recorded = {card.device: card for card in moment.readings.cards}
        machine = moment.readings.machine
        offset = machine.wall - moment.t
        self.latest = Readings(
            replace(machine, at=at, wall=self._recording.begun.timestamp() + t + offset),
            tuple(
                replace(recorded[self._roles[device]], device=device, at=at)
                if device in self._roles
                else CardReadings(device, at)  # of this one nothing was recorded
                for device in self._devices
            ),
        )
        self._deliver(self.latest)


def roles(recorded: Sequence[str], devices: Sequence[str]) -> dict[str, str]:
    """Which recorded card plays each of the devices: the one of its name, else the next left over.

    So a card named "card" is played by the first device that has no recording of its own.
    """
    by_name = {device: device for device in devices if device in recorded}
    left = [device for device in devices if device not in by_name]
    rest = [card for card in recorded if card not in by_name]
    return {**by_name, **dict(zip(left, rest, strict=False))}
