"""The versions of the program that lie beside one another, and which of them is started.

    PROGRAM/versions/0.1.0/foxden …    whole ones alone: made under another name, then renamed
    PROGRAM/current                    a link to one of them (a junction on Windows)
    PROGRAM/updates/                   what is being downloaded
    PROGRAM/updates.json               what this machine knows of releases, versions and trials

A package manager's installation has no such folder, and is not updated by us.
"""

from __future__ import annotations

import json
import lzma
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
import zlib
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from foxden_agent.installing.shell import clean_environment, program_folder
from foxden_agent.updating.manifest import numbers
from foxden_agent.updating.trial import Trial
from foxden_proto.home import write_private

_PROVE_SECONDS = 60.0  # to say its version, on a slow disk


class BadArchive(Exception):
    """What was downloaded is no program that starts here."""


@dataclass(frozen=True)
class Known:
    """What is remembered between starts."""

    serial: int = 0  # the highest of any release seen
    bad: tuple[str, ...] = ()  # versions that are not tried again
    ready: str = ""  # unpacked, and proved to start
    trial: Trial | None = None
    said: str = ""  # the last thing worth telling a person

    def is_bad(self, version: str) -> Known:
        return replace(self, bad=(*self.bad, version), ready="", trial=None)


@dataclass(frozen=True)
class Versions:
    """One installation's folder."""

    root: Path
    name: str = field(default="foxden.exe" if sys.platform == "win32" else "foxden")

    @classmethod
    def of_this_program(cls) -> Versions | None:
        """The folder that this program runs from; None where somebody else looks after it."""
        folder = program_folder()
        if folder is None or folder.parent.name != "versions":
            return None
        return cls(folder.parent.parent)

    @property
    def downloads(self) -> Path:
        return self.root / "updates"

    def program(self, version: str) -> Path:
        return self.root / "versions" / version / self.name

    def current(self) -> str:
        """The version that would be started; empty where the link is broken."""
        with suppress(OSError):
            return (self.root / "current").resolve(strict=True).name
        return ""

    def known(self) -> Known:
        try:
            told: dict[str, Any] = json.loads((self.root / "updates.json").read_text())
            trial = Trial(**told["trial"]) if told.get("trial") else None
            return Known(
                int(told["serial"]), tuple(told["bad"]), str(told["ready"]), trial, told["said"]
            )
        except (OSError, ValueError, KeyError, TypeError):
            return Known()

    def remember(self, known: Known) -> None:
        write_private(self.root / "updates.json", json.dumps(asdict(known), indent=1))

    def unpack(self, archive: Path, version: str) -> None:
        """Lay a version beside the others, once it has proved to be a program that starts.

        Raises BadArchive, or OSError where the disk is full.
        """
        folder = self.root / "versions"
        new = folder / f".new-{version}"
        shutil.rmtree(new, ignore_errors=True)
        try:
            new.mkdir(parents=True)
            _extract(archive, new)
            inside = new / "foxden"  # the one folder of every archive
            _prove(inside / self.name, version)
            final = folder / version
            shutil.rmtree(final, ignore_errors=True)
            inside.replace(final)
        finally:
            shutil.rmtree(new, ignore_errors=True)

    def switch(self, version: str) -> None:
        """Let `current` be this version."""
        target, link = self.root / "versions" / version, self.root / "current"
        if sys.platform == "win32":
            import _winapi

            # A junction needs no rights that a symbolic link does, and can't be replaced in one
            # step: what starts in between finds no program, and Windows tries again at next login.
            with suppress(OSError):
                link.rmdir()
            _winapi.CreateJunction(str(target), str(link))
        else:
            new = self.root / f".current-{os.getpid()}"
            new.unlink(missing_ok=True)
            new.symlink_to(Path("versions") / version)
            new.replace(link)

    def prune(self, keep: set[str]) -> None:
        """Remove every version but these. What cannot be removed is removed another time."""
        for one in (self.root / "versions").iterdir():
            if one.name not in keep:
                shutil.rmtree(one, ignore_errors=True)

    def installed(self) -> list[str]:
        """All versions that lie here, oldest first."""
        found = [one.name for one in (self.root / "versions").glob("[0-9]*")]
        return sorted(found, key=numbers)


def _extract(archive: Path, into: Path) -> None:
    try:
        if archive.name.endswith(".zip"):
            with zipfile.ZipFile(archive) as packed:
                packed.extractall(into)  # noqa: S202 -- its hash was signed
        else:
            with tarfile.open(archive) as packed:
                packed.extractall(into, filter="data")
    except (tarfile.TarError, zipfile.BadZipFile, lzma.LZMAError, zlib.error, EOFError) as error:
        raise BadArchive(f"The downloaded program cannot be unpacked ({error}).") from error


def _prove(program: Path, version: str) -> None:
    try:
        done = subprocess.run(
            [str(program), "--version"],
            capture_output=True,
            text=True,
            timeout=_PROVE_SECONDS,
            env=clean_environment(os.environ),
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise BadArchive(f"Foxden {version} does not start on this PC ({error}).") from error
    if done.stdout.strip() != version:
        said = (done.stdout + done.stderr).strip()[-200:] or f"code {done.returncode}"
        raise BadArchive(f"The program in the update does not say it is {version}: {said}.")
