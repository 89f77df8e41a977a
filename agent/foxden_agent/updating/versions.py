"""The versions of the program that lie beside one another, and which of them is started.

    PROGRAM/versions/0.1.0/foxden …    whole ones alone: made under another name, then renamed
    PROGRAM/versions/.fetching …       locks: who fetches, writes updates.json, makes trials
    PROGRAM/current                    a link to one that has proved itself (a junction on Windows)
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
import time
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from foxden_agent import identity
from foxden_agent.installing.shell import clean_environment, program_folder
from foxden_agent.updating.manifest import numbers
from foxden_agent.updating.trial import Trial, Tried
from foxden_proto.home import write_private

_PROVE_SECONDS = 60.0  # to say its version, on a slow disk
_MOST_TIMES, _MOST_MORE = 20, 10**9  # as large as its archive, and bytes beside: that is no program
# What the readers of damaged archives raise, beside their own errors.
_DAMAGE = (lzma.LZMAError, zlib.error, EOFError, ValueError, KeyError, RuntimeError)
_TURN_SECONDS = 10.0  # for another to write a small file


class BadArchive(Exception):
    """What was downloaded is no program that starts here."""

    def __init__(self, what: str) -> None:
        super().__init__(
            f"{what} The version before goes on. It is tried again, later each time; if it stays "
            "so, `foxden doctor --bundle FILE` for who helps you."
        )


@dataclass(frozen=True)
class Known:
    """What is remembered between starts."""

    serial: int = 0  # the highest of any release seen
    tried: tuple[Tried, ...] = ()  # versions that came to nothing here
    ready: str = ""  # unpacked, and proved to start
    asked: str = ""  # the version that a person wants
    trial: Trial | None = None
    before: str = ""  # the version before the one that proved itself last
    said: str = ""  # the last thing worth telling a person

    def of(self, version: str) -> Tried:
        return next((one for one in self.tried if one.version == version), Tried(version))

    def noted(self, tried: Tried) -> Known:
        others = tuple(one for one in self.tried if one.version != tried.version)
        return replace(self, tried=(*others, tried))

    def failed(self, trial: Trial, now: float, said: str, *, deadly: bool) -> Known:
        """It is fetched and unpacked anew before it is tried again: a power cut may have left its
        files empty."""
        tried = self.of(trial.version).ended(now, deadly=deadly)
        return replace(self.noted(tried), ready="", asked="", trial=None, said=said)

    def proved(self, trial: Trial, said: str) -> Known:
        """The trial's version is the one from here on; the one before is kept."""
        newer = tuple(t for t in self.tried if numbers(t.version) > numbers(trial.version))
        ready = "" if self.ready == trial.version else self.ready
        return replace(
            self, tried=newer, ready=ready, asked="", trial=None, before=trial.previous, said=said
        )


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

    @property
    def folder(self) -> Path:
        return self.root / "versions"

    def program(self, version: str) -> Path:
        return self.folder / version / self.name

    def current(self) -> str:
        """The version that would be started; empty where the link is broken."""
        with suppress(OSError):
            return (self.root / "current").resolve(strict=True).name
        return ""

    def known(self) -> Known:
        try:
            return self._read()
        except OSError:
            return Known()

    def change(self, how: Callable[[Known], Known]) -> Known:
        """Write what is known anew: the service, its thread and a person's command take turns, or
        one would undo what another has written. Raises OSError, as on a full disk."""
        with self._turn():
            known = how(self._read())
            write_private(self.root / "updates.json", json.dumps(asdict(known), indent=1))
            return known

    def lock(self, name: str) -> Path:
        return self.folder / f".{name}"

    def _read(self) -> Known:
        try:
            told: dict[str, Any] = json.loads((self.root / "updates.json").read_text())
            return Known(
                int(told["serial"]),
                tuple(Tried(**one) for one in told["tried"]),
                str(told["ready"]),
                str(told["asked"]),
                Trial(**told["trial"]) if told["trial"] else None,
                str(told["before"]),
                str(told["said"]),
            )
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            return Known()

    @contextmanager
    def _turn(self) -> Iterator[None]:
        taken = identity.HomeInUse("another writes it")
        deadline = time.monotonic() + _TURN_SECONDS
        while True:
            with ExitStack() as stack:
                try:
                    stack.enter_context(identity.locked(self.lock("writing"), taken))
                except identity.HomeInUse:
                    if time.monotonic() > deadline:
                        raise TimeoutError(f"{self.root} is locked by another program") from None
                    time.sleep(0.02)
                    continue
                yield
                return

    def unpack(self, archive: Path, version: str, go_on: Callable[[], None] = lambda: None) -> None:
        """Lay a version beside the others, once it has proved to be a program that starts.

        `go_on` is called between files, and ends it by what it raises: nothing is left then.
        Raises BadArchive, or OSError where the disk is full.
        """
        folder = self.folder
        new = folder / f".new-{version}"
        shutil.rmtree(new, ignore_errors=True)
        try:
            new.mkdir(parents=True)
            _extract(archive, new, go_on)
            inside = new / "foxden"  # the one folder of every archive
            if inside.is_symlink() or not inside.is_dir():
                raise BadArchive("The downloaded program is not in a folder of its own.")
            _prove(inside / self.name, version)
            final, old = folder / version, folder / f".old-{version}"
            shutil.rmtree(old, ignore_errors=True)
            if final.exists():  # of a trial before; half removed, it would still have its name
                final.replace(old)
            inside.replace(final)
            shutil.rmtree(old, ignore_errors=True)
        finally:
            shutil.rmtree(new, ignore_errors=True)

    def switch(self, version: str) -> None:
        """Let `current` be this version."""
        target, link = self.folder / version, self.root / "current"
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

    def left_over(self) -> list[Path]:
        """What nobody needs any more: versions before the last but one, and broken-off unpacking.
        The caller holds the lock "fetching" while it removes them."""
        known = self.known()
        if not known.before:  # nothing was ever updated: what lies here, a person laid here
            return []
        trial = known.trial or Trial("", "")
        keep = {self.current(), known.before, known.ready, trial.version, trial.previous}
        return [one for one in self.folder.iterdir() if one.name not in keep and one.is_dir()]


def _extract(archive: Path, into: Path, go_on: Callable[[], None]) -> None:
    most = _MOST_TIMES * archive.stat().st_size + _MOST_MORE
    written = 0

    def next_one(size: int) -> None:
        nonlocal written
        go_on()
        written += size
        if written > most:
            raise BadArchive(f"The downloaded program unpacks to more than {most / 1e9:.1f} GB.")

    def within(member: tarfile.TarInfo, path: str) -> tarfile.TarInfo | None:
        next_one(member.size)
        return tarfile.data_filter(member, path)

    try:
        if archive.name.endswith(".zip"):
            with zipfile.ZipFile(archive) as zipped:
                for one in zipped.infolist():
                    next_one(one.file_size)
                    zipped.extract(one, into)
        else:
            with tarfile.open(archive) as packed:
                packed.extractall(into, filter=within)  # noqa: S202 -- filtered
    except (tarfile.TarError, zipfile.BadZipFile, *_DAMAGE) as error:
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
