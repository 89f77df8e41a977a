"""What to do about a release. Pure: the release and what is here in, one of three answers out."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from foxden_agent.updating.manifest import Manifest, ReleaseFile, numbers
from foxden_agent.updating.trial import Tried

ANY = "any"  # version that is asked for


@dataclass(frozen=True)
class Here:
    """What decides on this side."""

    version: str  # that runs
    platform: str  # "linux-x86_64"
    agent_id: str
    serial: int = 0  # the highest of any release that was seen
    tried: tuple[Tried, ...] = ()  # versions that came to nothing here
    ready: str = ""  # the version that is unpacked and waits to be started
    asked: str = ""  # the version that a person asked for; ANY: whichever there is
    now: float = 0.0  # Unix time
    pause: float = 0.0  # seconds between two trials of one version, at first


@dataclass(frozen=True)
class Nothing:
    """No update now, and why."""

    reason: str


@dataclass(frozen=True)
class Fetch:
    """Download this, and get it ready beside what runs."""

    version: str
    file: ReleaseFile


@dataclass(frozen=True)
class Start:
    """It is ready: start it as soon as nobody minds."""

    version: str


def decide(release: Manifest, here: Here) -> Nothing | Fetch | Start:
    """Never an older version, none too soon after it failed here, none before this agent's share
    has come; a person who asks waits for neither of the two."""
    if release.serial < here.serial:
        return Nothing(
            f"The release told of ({release.version}) is older than one that was told before: "
            "somebody may be showing an old description. Nothing was changed."
        )
    if numbers(release.version) <= numbers(here.version):
        return Nothing(f"Foxden {here.version} is the newest.")
    asked = here.asked in (ANY, release.version)
    tried = next((one for one in here.tried if one.version == release.version), None)
    if tried is not None and (why := tried.objection(here.now, here.pause, asked=asked)):
        return Nothing(why)
    if numbers(here.version) < numbers(release.minimum):
        return Nothing(
            f"Foxden {release.version} can only follow {release.minimum} or newer: "
            "install it anew over this one."
        )
    file = release.files.get(here.platform)
    if file is None:
        return Nothing(f"Foxden {release.version} is not there for {here.platform} yet.")
    if not asked and place(here.agent_id, release.version) >= release.share:
        part = f"{release.share:.0%}"
        return Nothing(f"Foxden {release.version} goes to {part} of all agents so far.")
    if here.ready == release.version:
        return Start(release.version)
    return Fetch(release.version, file)


def place(agent_id: str, version: str) -> float:
    """Where an agent stands in the line for a version: 0 is first, 1 last. Another line for each
    version, so that it isn't always the same who try first.

    >>> 0.0 <= place("agent-1", "0.2.0") < 1.0
    True
    """
    digest = hashlib.sha256(f"{agent_id}\n{version}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64
