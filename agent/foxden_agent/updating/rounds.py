"""One look for a newer version, from the question to a version that is ready to be started."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path

from foxden_agent import identity
from foxden_agent.installing.environment import EngineInstaller
from foxden_agent.installing.shell import shell_file
from foxden_agent.updating import fetching, gently
from foxden_agent.updating.deciding import ANY, Fetch, Here, Nothing, Start, decide
from foxden_agent.updating.manifest import BadRelease, numbers, read
from foxden_agent.updating.versions import BadArchive, Versions

_ENGINE_SECONDS = 3 * 3600.0  # for a torch that changed, over a slow line
_SYSTEMS = {"linux": "linux", "win32": "windows", "darwin": "macos"}
_PROCESSORS = {"amd64": "x86_64", "arm64": "aarch64"}


@dataclass(frozen=True)
class Source:
    """Where releases come from and who must have signed them; off where either is empty."""

    url: str = ""
    root: bytes = b""

    @property
    def on(self) -> bool:
        return bool(self.url) and bool(self.root)

    @classmethod
    def of_this_program(cls, url: str = "") -> Source:
        """What was packed into the program; FOXDEN_UPDATE_URL, and `url` before it, name another
        place for the same releases, such as a server of one's own. Raises ValueError."""
        text = _packed("update_root_key.pub")
        root = bytes.fromhex(text) if text else b""
        chosen = url or os.environ.get("FOXDEN_UPDATE_URL", "") or _packed("update_url.txt")
        if chosen in ("", "off"):
            return cls("", root)
        return cls(fetching.check_url(chosen), root)


def platform_name() -> str:
    """As releases name it, e.g. "linux-x86_64"."""
    processor = platform.machine().lower()
    return f"{_SYSTEMS.get(sys.platform, sys.platform)}-{_PROCESSORS.get(processor, processor)}"


def look(
    source: Source,
    versions: Versions,
    home: Path,
    agent_id: str,
    now: float,
    *,
    pause: float = 0.0,
    asked: bool = False,
    only_look: bool = False,
    go_on: Callable[[], None] = lambda: None,
) -> Start | Fetch | Nothing:
    """Ask for the newest release, and get it ready if it is for this machine.

    `pause`: seconds until a version that did not work is tried again, at first. `go_on` is asked
    before and during all that is heavy, and ends it by what it raises; the next call goes on there.
    The answer is a Start where a version is ready; with `only_look`, a Fetch where one could be
    had. Raises BadRelease, FetchFailed, BadArchive, OSError.
    """
    release = read(fetching.description(source.url), source.root, now)
    known = versions.known()
    # One that proved itself is the newest here, also where an older one asks: it would lay anew
    # what others run from by now.
    newest = max(version("foxden"), versions.current() or "0", key=numbers)
    here = Here(
        newest,
        platform_name(),
        agent_id,
        known.serial,
        known.tried,
        known.ready if versions.program(known.ready or "-").exists() else "",
        ANY if asked else known.asked,
        now,
        pause,
    )
    if known.trial is not None and known.trial.version == release.version:
        return Nothing(f"Foxden {release.version} is on trial.")
    decision = decide(release, here)
    wanted = "" if isinstance(decision, Nothing) or only_look or not asked else decision.version
    if release.serial > known.serial or wanted:  # only of what was believed: it bars what is older
        versions.change(
            lambda known: replace(
                known, serial=max(known.serial, release.serial), asked=wanted or known.asked
            )
        )
    if only_look or not isinstance(decision, Fetch):
        return decision
    go_on()
    taken = fetching.FetchFailed(
        f"Foxden {decision.version} is being fetched already, by the service or another command: "
        "there is nothing to do."
    )
    with identity.locked(versions.lock("fetching"), taken):  # the service, and a person
        archive = fetching.fetch(source.url, decision.file, versions.downloads, go_on)
        try:
            _make_ready(archive, decision.version, versions, home, go_on)
        except BadArchive:
            archive.unlink(missing_ok=True)
            versions.change(lambda known: known.noted(known.of(decision.version).unfit(now)))
            raise
        versions.change(lambda known: replace(known, ready=decision.version))
        archive.unlink(missing_ok=True)  # last: until then, nothing is fetched twice
    return Start(decision.version)


def tidy(versions: Versions, home: Path, go_on: Callable[[], None]) -> None:
    """Remove what no version needs any more: gigabytes, where torch changed."""
    if not versions.left_over():
        return
    go_on()
    taken = identity.HomeInUse("somebody fetches: another time")
    with suppress(identity.HomeInUse), identity.locked(versions.lock("fetching"), taken):
        left = versions.left_over()
        kept = {one.name for one in versions.folder.iterdir() if one not in left}
        # First: while a version lies here, what was broken off is known to be unfinished.
        EngineInstaller(home).keep_only(kept)
        for one in left:
            go_on()
            shutil.rmtree(one, ignore_errors=True)


def _make_ready(
    archive: Path, chosen: str, versions: Versions, home: Path, go_on: Callable[[], None]
) -> None:
    """Lay a version beside the others, with an engine. Raises FetchFailed, BadArchive."""
    try:
        versions.unpack(archive, chosen, go_on)
    except OSError as error:
        raise fetching.FetchFailed(
            f"The update could not be unpacked ({error.strerror or error}): make space on the "
            "disk, and it will be tried again."
        ) from error
    _make_engine(versions.program(chosen), home, go_on)


def _make_engine(program: Path, home: Path, go_on: Callable[[], None]) -> None:
    """Let the new version make its own engine environment beside the old one, where there is one.

    Most of it is in uv's cache. Raises FetchFailed.
    """
    status = EngineInstaller(home).status()
    if not status.python:
        return
    words = [str(program), "engine", "install", "--yes", "--json", "--home", str(home)]
    if status.build == "cpu":
        words.append("--cpu")
    try:
        done = gently.run(words, _ENGINE_SECONDS, go_on)
    except subprocess.TimeoutExpired:
        raise fetching.FetchFailed(
            "The new version's engine took too long to install; it goes on at the next try."
        ) from None
    if done.returncode != 0:
        try:
            why = json.loads(done.stdout)["error"]["message"]
        except (ValueError, KeyError, TypeError):
            why = (done.stderr.strip().splitlines() or [f"code {done.returncode}"])[-1]
        raise fetching.FetchFailed(f"The new version's engine could not be installed: {why}")


def _packed(name: str) -> str:
    """The first line of a file in the bundle that is no comment."""
    path = shell_file(name)
    if path is None:
        return ""
    lines = (line.strip() for line in path.read_text().splitlines())
    return next((line for line in lines if line and not line.startswith("#")), "")


__all__ = ["BadArchive", "BadRelease", "Source", "look", "platform_name", "tidy"]
