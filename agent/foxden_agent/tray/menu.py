"""What the tray says: its menu, its line and its mode, from the status that the page has. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Status = Mapping[str, Any]
Texts = Mapping[str, str]

# The icon of several cards is that of the one which most needs its owner's eye.
_WORST = (
    *("broken", "hot", "paused", "gaming", "quiet_hours", "draining"),
    *("unread", "duty_cycled", "ready"),
)
_GIB = 1024**3
_LINE = 60  # characters of a line in the menu
_TIP = 120  # characters of a tooltip: Windows takes 127
_AWAY = "The agent does not answer"


@dataclass(frozen=True)
class Entry:
    """A line of the menu. One without an action is read only; one with `items` opens them."""

    text: str
    action: str = ""  # "open", "pause/hour", "resume", "quit", …
    default: bool = False  # what a click on the icon does
    items: tuple[Entry, ...] = ()


SEPARATOR = Entry("-")


def menu(status: Status | None, texts: Texts) -> tuple[Entry, ...]:
    """The whole menu; `status` None: nobody answers. Without texts it is short, and English."""
    if status is None or not texts:
        away = Entry(texts.get("tray.away", _AWAY))
        return away, SEPARATOR, Entry(texts.get("tray.hide", "Hide this icon"), "hide")
    leave = ("tray.quit", "quit") if status.get("may_quit") else ("tray.hide", "hide")
    end = (SEPARATOR, Entry(texts[leave[0]], leave[1]))
    if status.get("phase") != "running":
        first = status.get("phase") == "first_run"
        key = "tray.first_run" if first else "tray.starting"
        opens = Entry(texts["tray.open"], "open", default=True)
        return (Entry(texts[key], "open" if first else ""), SEPARATOR, opens, *end)
    return (
        *_about(status, texts),
        SEPARATOR,
        Entry(texts["tray.open"], "open", default=True),
        SEPARATOR,
        *_pauses(status, texts),
        *end,
    )


def mode(status: Status | None) -> str:
    """The mode that the icon shows; "away" where nobody answers, "offline" without a link."""
    if status is None:
        return "away"
    if status.get("phase") != "running":
        return "unread"
    modes = {card["mode"] for card in status["cards"]}
    worst = next((one for one in _WORST if one in modes), "unread")
    return "offline" if worst in ("ready", "duty_cycled") and not status["online"] else worst


def tip(status: Status | None, texts: Texts) -> str:
    """One line for whoever points at the icon."""
    if status is None or not texts:
        return f"Foxden – {texts.get('tray.away', _AWAY)}"
    if status.get("phase") != "running":
        return "Foxden"
    return f"Foxden – {_said(status['cards'][0], texts)}"[:_TIP] if status["cards"] else "Foxden"


def _about(status: Status, texts: Texts) -> Sequence[Entry]:
    lines: list[str] = []
    several = len(status["cards"]) > 1
    for card in status["cards"]:
        said = _said(card, texts)
        lines.append(f"{card['name']}: {said}" if several else said)
        lines.extend(_figures(card["readings"], texts))
    if not status["online"]:
        lines.append(texts["tray.offline"])
    lines.append(_filled(texts["tray.today"], n=status["today"]))
    return [Entry(_short(line)) for line in lines]


def _said(card: Mapping[str, Any], texts: Texts) -> str:
    """The strongest reason as it stands everywhere, or the mode where it needs none."""
    if card["reasons"]:
        text: str = card["reasons"][0]["text"]
        return text[:1].upper() + text[1:]
    return texts[f"mode.{card['mode']}"]


def _figures(read: Mapping[str, float | None], texts: Texts) -> Sequence[str]:
    used, total, temperature = read["memory_used"], read["memory_total"], read["temperature"]
    if used is None or total is None:
        return [] if temperature is None else [f"{temperature:.0f} °C"]
    memory = {"used": f"{used / _GIB:.1f}", "total": f"{total / _GIB:.1f}"}
    if temperature is None:
        return [_filled(texts["tray.memory"], **memory)]
    return [_filled(texts["tray.figures"], temperature=f"{temperature:.0f}", **memory)]


def _pauses(status: Status, texts: Texts) -> Sequence[Entry]:
    if status["paused_by_hand"]:
        return [Entry(texts["tray.resume"], "resume")]
    ways = ("hour", "restart", "tomorrow")
    items = tuple(Entry(texts[f"tray.{way}"], f"pause/{way}") for way in ways)
    return [Entry(texts["tray.pause"], items=items), Entry(texts["tray.finish"], "pause/finish")]


def _filled(text: str, **values: object) -> str:
    for name, value in values.items():
        text = text.replace(f"{{{name}}}", str(value))
    return text


def _short(text: str) -> str:
    return text if len(text) <= _LINE else text[: _LINE - 1].rstrip() + "…"
