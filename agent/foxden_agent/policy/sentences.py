"""Reasons as sentences: the same words in the tray, on the page and in the heartbeat. Pure.

A language is a `Catalogue`; to add one, write its texts and its units, and name it in CATALOGUES.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from foxden_agent.policy.values import Code, Decision, Reason

CHARACTERS = 300  # of one sentence at most
_NAME_CHARACTERS = 60  # of a program's name


@dataclass(frozen=True, slots=True)
class Text:
    """What is said while the cause lasts, and while it is over but waited for: {left} to go.

    In braces: facts by name. How a fact is written follows from its name (`_shown`).
    """

    lasting: str
    ending: str = ""  # empty: the same as `lasting`
    whole: str = ""  # where the share of the time is all of it; empty: the same as `lasting`


@dataclass(frozen=True, slots=True)
class Catalogue:
    """All words of one language."""

    texts: Mapping[Code, Text]
    seconds: str
    minutes: str
    hours: str
    gigabytes: str
    some_program: str  # where a program does not tell its name


_EN = Catalogue(
    texts={
        Code.CARD_GONE: Text(
            "broken: the card or its driver does not answer, goes on by itself when it does. "
            "{problem}",
            "broken: the card answers again, goes on in {left}",
        ),
        Code.ENGINE_BROKEN: Text("broken: {problem}"),
        Code.OWNER: Text("paused: by you, until `foxden resume`"),
        Code.OWNER_RESTART: Text("paused: by you, until the agent is started again"),
        Code.OWNER_UNTIL: Text("paused: by you, goes on at {until}"),
        Code.BATTERY: Text(
            "paused: the PC runs on its battery",
            "paused: the PC is plugged in again, goes on in {left}",
        ),
        Code.USER_HERE: Text("paused: somebody is at the PC, goes on {away} after the last touch"),
        Code.USER_UNSEEN: Text(
            "paused: it works only while you are away, and this system does not tell; "
            "`foxden policy set only_when_away false` changes that",
            "paused: it works again while you are here, goes on in {left}",
        ),
        Code.MEMORY_NEEDED: Text(
            "paused: other programs need the card's memory, goes on when they leave {room}",
            "paused: other programs have left the card's memory, goes on in {left}",
        ),
        Code.OVER_BUDGET: Text(
            "paused: the engine holds {memory} of the card's memory and may hold {limit}, "
            "goes on with less",
            "paused: the engine has left the card's memory, goes on in {left}",
        ),
        Code.PROGRAM: Text(
            "paused: {program} is running",
            "paused: {program} has ended, goes on in {left}",
        ),
        Code.FULL_SCREEN: Text(
            "paused: {program} is full screen",
            "paused: {program} was full screen, goes on in {left}",
        ),
        Code.FOREIGN_USE: Text(
            "paused: another program draws with {use} of the card, goes on below {resume_share}",
            "paused: another program has drawn with the card, goes on in {left}",
        ),
        Code.MEMORY_TAKEN: Text(
            "paused: another program takes the card's memory, perhaps a game begins",
            "paused: another program has taken the card's memory, goes on in {left} if it rests",
        ),
        Code.HOT: Text(
            "hot: {temperature}, goes on below {resume}",
            "hot: {temperature}, goes on in {left} if it stays below {resume}",
        ),
        Code.QUIET_HOURS: Text(
            "quiet hours: until {until}",
            "quiet hours: over, goes on in {left}",
        ),
        Code.STARTING: Text("quiet hours: not before {delay} after the start"),
        Code.FINISHING: Text(
            "draining: finishes what runs, takes new work again after `foxden resume`"
        ),
        Code.WARM: Text(
            "warm: {temperature}, works {share} of the time",
            "warm: {temperature}, at full speed in {left}",
            whole="warm: {temperature}, works all the time still",
        ),
    },
    seconds="{} s",
    minutes="{} min",
    hours="{} h",
    gigabytes="{:.1f} GB",
    some_program="a program",
)
CATALOGUES: Mapping[str, Catalogue] = {"en": _EN}


def sentence(reason: Reason, language: str = "en") -> str:
    """The reason for people, up to 300 characters; English where the language is not there."""
    catalogue = CATALOGUES.get(language, _EN)
    facts = dict(reason.facts)
    text = catalogue.texts[reason.code]
    form = text.lasting
    if "left" in facts and text.ending:
        form = text.ending
    elif facts.get("share") == 1.0 and text.whole:
        form = text.whole
    said = form.format_map({name: _shown(name, fact, catalogue) for name, fact in facts.items()})
    return said.strip().removesuffix(".")[:CHARACTERS]


def sentences(decision: Decision, language: str = "en") -> list[str]:
    """All reasons of a decision, the strongest first."""
    return [sentence(reason, language) for reason in decision.reasons]


def _shown(name: str, fact: str | float, catalogue: Catalogue) -> str:
    if isinstance(fact, str):
        text = "".join(char for char in fact if char.isprintable())
        if name == "program":
            return text[:_NAME_CHARACTERS] or catalogue.some_program
        return text
    if name in ("temperature", "resume"):
        return f"{fact:.0f} °C"
    if name in ("share", "use", "resume_share"):
        return f"{fact:.0%}"
    if name in ("memory", "limit", "room"):
        return catalogue.gigabytes.format(fact / 2**30)
    return _duration(fact, catalogue)


def _duration(seconds: float, catalogue: Catalogue) -> str:
    if seconds < 90:
        return catalogue.seconds.format(max(1, round(seconds)))
    if seconds < 90 * 60:
        return catalogue.minutes.format(round(seconds / 60))
    return catalogue.hours.format(round(seconds / 3600))
