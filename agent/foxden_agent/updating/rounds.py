"""One look for a newer version, from the question to a version that is ready to be started."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path

from foxden_agent import identity
from foxden_agent.installing.environment import EngineInstaller
from foxden_agent.installing.shell import clean_environment, shell_file
from foxden_agent.updating import fetching
from foxden_agent.updating.deciding import Fetch, Here, Nothing, Start, decide
from foxden_agent.updating.manifest import BadRelease, read
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
    asked: bool = False,
    only_look: bool = False,
    progress: Callable[[int], None] = lambda done: None,
) -> Start | Fetch | Nothing:
    """Ask for the newest release, and get it ready if it is for this machine.

    The answer is a Start where a version is ready; with `only_look`, a Fetch where one could be
    had. Raises BadRelease, FetchFailed, BadArchive.
    """
    release = read(fetching.description(source.url), source.root, now)
    known = versions.known()
    here = Here(
        version("foxden"),
        platform_name(),
        agent_id,
        known.serial,
        frozenset(known.bad),
        known.ready if versions.program(known.ready or "-").exists() else "",
        asked,
    )
    decision = decide(release, here)
    if release.serial > known.serial:  # only of what was believed: it bars what is older
        known = replace(known, serial=release.serial)
        versions.remember(known)
    if only_look or not isinstance(decision, Fetch):
        return decision
    taken = fetching.FetchFailed(f"Foxden {decision.version} is being fetched already.")
    with identity.locked(versions.root / "updates.lock", taken):  # the service, and a person
        _make_ready(source, decision, versions, home, progress)
    versions.remember(replace(versions.known(), ready=decision.version))
    return Start(decision.version)


def _make_ready(
    source: Source,
    chosen: Fetch,
    versions: Versions,
    home: Path,
    progress: Callable[[int], None],
) -> None:
    """Lay a version beside the others, with an engine. Raises FetchFailed, BadArchive."""
    archive = fetching.fetch(source.url, chosen.file, versions.downloads, progress)
    try:
        versions.unpack(archive, chosen.version)
    except BadArchive:
        archive.unlink(missing_ok=True)
        raise
    except OSError as error:
        raise fetching.FetchFailed(
            f"The update could not be unpacked ({error.strerror or error}): make space on the "
            "disk, and it will be tried again."
        ) from error
    archive.unlink(missing_ok=True)
    _make_engine(versions.program(chosen.version), home)


def _make_engine(program: Path, home: Path) -> None:
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
        done = subprocess.run(
            words,
            capture_output=True,
            text=True,
            timeout=_ENGINE_SECONDS,
            env=clean_environment(os.environ),
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise fetching.FetchFailed("The new version's engine took too long to install.") from None
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


__all__ = ["BadArchive", "BadRelease", "Source", "look", "platform_name"]
