"""Makes readings/evening.jsonl, the recorded evening that `foxden up --replay` shows.

    .venv/bin/python tests/tools/make_evening.py

An hour of a PC with a 12 GB card, a reading every five seconds, invented but with the pace of the
real thing. By local time:

    21:03  idle: the user browses, then leaves the desk (21:06)
    21:11  a game: its memory rises in half a minute, it draws all the time and fills the screen
    21:29  the game ends, and its memory is given back within seconds
    21:34  the room and the card grow hot: over 83 degrees at about 21:36, over the card's own
           slowdown threshold of 93 for a while, below 75 again at about 21:47
    22:00  the time at which quiet hours usually begin; nothing else changes, until 22:03

The card is called "card": whichever card an agent has plays it.
"""

from __future__ import annotations

import random
import sys
from datetime import datetime
from pathlib import Path

from foxden_agent.readings import CardProcess, CardReadings, MachineReadings, Readings
from foxden_agent.watching.player import ANY_CARD
from foxden_agent.watching.recording import Encoder, header

TARGET = Path(__file__).resolve().parents[2] / "readings" / "evening.jsonl"
BEGUN = datetime(2026, 11, 20, 21, 3)  # noqa: DTZ001 - a recording begins at a local time
STEP, LENGTH = 5, 3600
MIB = 1024**2
GIB = 1024 * MIB

AWAY, GAME, GAME_OVER, HOT, COOL = 180, 480, 1560, 1860, 2460
DESKTOP = CardProcess(1480, "dwm.exe", 412 * MIB)
DRIVER = 300 * MIB  # the driver's own reserve: neither used nor free


def evening() -> str:
    """The whole file."""
    random.seed(20261120)
    encoder = Encoder()
    lines = [header(BEGUN, {"quiet_hours": ["daily 22:00-08:00"]})]
    temperature = 41.0
    for t in range(0, LENGTH + 1, STEP):
        temperature += (heads_for(t) - temperature) * pace(t)
        readings = Readings(machine(t), (card(t, temperature),))
        lines.append(encoder.line(t, 0, readings))
    return "\n".join(lines) + "\n"


def heads_for(t: int) -> float:
    """The temperature that the card would have in the end, if everything stayed."""
    if GAME <= t < GAME_OVER:
        return 76
    if HOT <= t < COOL:
        return 95
    return 48 if t >= GAME_OVER else 41


def pace(t: int) -> float:
    """How much of the way it goes in one step."""
    return 0.05 if HOT <= t < COOL else 0.04 if t < COOL else 0.018


def card(t: int, temperature: float) -> CardReadings:
    playing = GAME <= t < GAME_OVER
    game = int(min(1.0, (t - GAME + STEP) / 30) * 7.2 * 1024) * MIB if playing else 0
    processes = [DESKTOP]
    if playing:
        processes.append(CardProcess(9012, "game.exe", game))
    used = sum(process.memory or 0 for process in processes)
    utilisation = random.choice((0.95, 0.97, 0.98)) if playing else random.choice((0.01, 0.02))
    return CardReadings(
        ANY_CARD,
        t,
        memory_total=12 * GIB,
        memory_used=used,
        memory_free=12 * GIB - DRIVER - used,
        temperature=round(temperature),
        temperature_slowdown=93,
        temperature_shutdown=98,
        utilisation=utilisation,
        power=190 if playing else 16,
        power_limit=200,
        clock=2610 if playing else 210,
        fan=round(max(0.0, (temperature - 50) / 45), 1),
        throttled=frozenset({"heat"} if temperature >= 93 else ()),
        processes=tuple(processes),
    )


def machine(t: int) -> MachineReadings:
    if t < AWAY or GAME - 60 <= t < GAME_OVER + 30:
        idle = 0.0
    else:
        idle = float(t - AWAY if t < GAME else t - GAME_OVER - 30)
    return MachineReadings(
        at=t,
        wall=t,
        full_screen="game.exe" if GAME + 15 <= t < GAME_OVER else "",
        idle_seconds=idle,
        memory_free=(9 if GAME <= t < GAME_OVER else 19) * GIB,
    )


if __name__ == "__main__":
    TARGET.parent.mkdir(exist_ok=True)
    TARGET.write_text(evening())
    sys.stdout.write(f"{TARGET}: {TARGET.stat().st_size / 1000:.0f} kB\n")
