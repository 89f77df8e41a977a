"""What happens now, as JSON for the page and the tray. Looks, and changes nothing."""

from __future__ import annotations

from typing import Any

from foxden_agent.owner_first import Lent
from foxden_agent.page.plots import FIGURES, mode_name, shifted, spans, thinned
from foxden_agent.page.seen import Seen
from foxden_agent.policy.sentences import sentence
from foxden_agent.policy.values import Code, Decision
from foxden_agent.readings import CardReadings

# Whether the owner himself has said so by hand: then "resume" is what ends it.
BY_HAND = frozenset({Code.OWNER, Code.OWNER_RESTART, Code.OWNER_UNTIL, Code.FINISHING})
_READINGS = (
    "temperature",
    "temperature_slowdown",
    "memory_used",
    "memory_total",
    "power",
    "power_limit",
    "utilisation",
    "fan",
)


def status(seen: Seen, language: str = "en") -> dict[str, Any]:
    """The agent's cards, its link and its count of the day."""
    decisions = seen.owner.decisions
    cards = [
        card(lent, seen.names.get(device, device), decisions.get(device), language)
        for device, lent in seen.cards.items()
    ]
    return {
        "name": seen.agent_name,
        "online": seen.online(),
        "today": seen.today.count,
        "problems": list(seen.owner.problems),
        "paused_by_hand": any(
            reason.code in BY_HAND for one in decisions.values() for reason in one.reasons
        ),
        "cards": cards,
    }


def card(lent: Lent, name: str, decision: Decision | None, language: str) -> dict[str, Any]:
    """One card; before its first reading its mode is "unread"."""
    reasons = decision.reasons if decision is not None else ()
    return {
        "name": name,
        "mode": mode_name(decision.mode) if decision is not None else "unread",
        "reasons": [
            {"code": reason.code.value, "text": sentence(reason, language)} for reason in reasons
        ],
        "share": decision.share if decision is not None else 0.0,
        "task": task(lent),
        "readings": readings(lent.readings),
    }


def task(lent: Lent) -> dict[str, Any] | None:
    """What is drawn now: how many images, with which model, and how far. Never its prompt."""
    drawing = lent.worker.drawing
    if drawing is None:
        return None
    return {
        "images": len(drawing.images),
        "model": drawing.model_name,
        "step": drawing.step,
        "steps": drawing.steps,
    }


def readings(read: CardReadings | None) -> dict[str, float | None]:
    """The figures that the page shows; None for what is not told."""
    there = read is not None and read.present
    return {name: getattr(read, name) if there else None for name in _READINGS}


def history(seen: Seen, device: str, language: str = "en") -> dict[str, Any]:
    """Plots and modes of one card, with times in Unix seconds as the newest reading has them."""
    latest = seen.owner.latest
    shift = latest.machine.wall - latest.machine.at if latest is not None else 0.0
    now = latest.machine.at if latest is not None else 0.0
    found = spans(seen.timeline.changes(device), now, language)
    for span in found:
        span |= {"from": round(span["from"] + shift, 1), "to": round(span["to"] + shift, 1)}
    return {
        "device": device,
        "now": round(now + shift, 1),
        "series": {
            figure: shifted(thinned(seen.history.series(device, figure)), shift)
            for figure in FIGURES
        },
        "spans": found,
        "memory_total": readings(seen.cards[device].readings)["memory_total"],
    }
