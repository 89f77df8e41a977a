"""The engine's environment: a Python of its own with torch for this card, in the home folder.

    engines/VERSION-BUILD/   one for each version of Foxden that is, or was just, installed
    engines/cache/           uv's: files are hard links into it, so that they lie there once
    engines/python/          a Python that uv fetched, where the system has none that is new enough

An environment is made under another name and renamed once it has proved that it works, so that
what is there under its own name is whole, and the one before stays until then.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from foxden_agent import identity
from foxden_agent.doctor.judging import CardFacts
from foxden_agent.installing import uv_run
from foxden_agent.installing.shell import ENGINES, engine_environment, frozen, shell_file
from foxden_agent.installing.torch_builds import Build, Machine, Refusal, choose
from foxden_agent.installing.uv_run import InstallFailed
from foxden_agent.told_files import told_in
from foxden_agent.watching.nvml import ask_driver

LOCK = Path(__file__).parent / "lock"
_TOLD = "engine.json"  # in a finished environment: what it is
_PYTHONS = ">=3.11,<3.15"  # for which torch has wheels
_COMMON_DISK = 430 * 1000**2  # what engine.txt takes unpacked; measured
_PYTHON_DISK = 110 * 1000**2
_RESERVE = 300 * 1000**2  # a disk is not filled to its last byte
_CHECK_SECONDS = 300.0  # the first import of torch, on a slow disk


class EngineMissing(Exception):
    """There is no engine that this version of Foxden could start."""

    def __init__(self) -> None:
        super().__init__("The engine isn't installed yet: run `foxden engine install`.")


@dataclass(frozen=True)
class InstallPlan:
    """What an installation would do; nothing was downloaded yet."""

    name: str  # for people: "torch 2.13.0+cu126 for NVIDIA GeForce GTX 1080 …"
    build: Build
    download: int  # bytes to be fetched at most; what is in the cache is not fetched again
    disk: int  # bytes it will take
    exact: bool  # False: `download` is an estimate
    free: int  # bytes free on the disk now

    @property
    def fits(self) -> bool:
        return self.free >= self.disk + _RESERVE


@dataclass(frozen=True)
class Progress:
    """How far an installation is. Bytes are estimated from what was written so far."""

    step: int  # from 1
    steps: int
    text: str  # "packages: scipy"
    done: int  # of `total` bytes
    total: int


@dataclass(frozen=True)
class Status:
    """The environment that this version would use. `python` is empty where there is none."""

    python: str = ""
    version: str = ""
    build: str = ""
    torch: str = ""
    diffusers: str = ""
    usable_cards: int = 0
    installed_at: float = 0.0  # Unix time
    bytes: int = 0  # of all environments, caches and Pythons together
    broken: str = ""  # why it cannot be used, though it is there


def engine_python(home: Path) -> Path:
    """The Python that engines are started with. Raises EngineMissing.

    In a checkout it is this very Python, unless FOXDEN_ENGINE=installed is set.
    """
    if not frozen() and os.environ.get("FOXDEN_ENGINE") != "installed":
        return Path(sys.executable)
    found = _finished(home / ENGINES)
    if found is None:
        raise EngineMissing
    return _python_of(found)


def this_machine() -> Machine:
    """What the driver and the system say of this PC."""
    told = ask_driver()
    cards = tuple(CardFacts(*card) for card in told.cards)
    return Machine(platform.system(), platform.machine(), told.version, cards)


class EngineInstaller:
    """Plans, makes and removes the engine's environment of one home folder."""

    def __init__(
        self,
        home: Path,
        *,
        wheel: Path | None = None,
        machine: Callable[[], Machine] = this_machine,
        environ: Mapping[str, str] | None = None,
    ) -> None:
        self._folder = home / ENGINES
        self._wheel = wheel
        self._machine = machine
        self._environ = os.environ if environ is None else environ

    def plan(self, *, processor_only: bool = False) -> InstallPlan | Refusal:
        """What `install` would do, with sizes. Asks the driver and the disk, not the network."""
        build = choose(self._machine(), processor_only=processor_only)
        if isinstance(build, Refusal):
            return build
        common = _locked_sizes().get("engine.txt", 120 * 1000**2)
        return InstallPlan(
            f"torch {build.version} ({build.label})",
            build,
            download=common + build.download,
            disk=_COMMON_DISK + build.disk + _PYTHON_DISK,
            exact=build.exact,
            free=_free(self._folder),
        )

    def install(
        self, plan: InstallPlan, progress: Callable[[Progress], None] = lambda told: None
    ) -> Status:
        """Make the environment; the one that is there is used until this one has proved itself.

        Raises InstallFailed. It can be killed at any moment and called again: files that were
        complete are not fetched a second time. An exception out of `progress` ends it.
        """
        wheel = self._own_wheel()
        try:
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            taken = InstallFailed(
                "Another installation of the engine is running.",
                "Wait for it: `foxden engine status` says when it is done.",
            )
            with identity.locked(self._folder / "lock", taken):
                return self._make(plan, wheel, progress)
        except OSError as error:
            raise uv_run.failure([f"{error} (os error {error.errno})"], 1) from error

    def ready(self) -> bool:
        """Whether `engine_python` would find one that can be started; costs no look at its size."""
        found = _finished(self._folder)
        return found is not None and _python_of(found).exists()

    def status(self) -> Status:
        """The environment that this version would use now."""
        size = _bytes_under(self._folder)
        found = _finished(self._folder)
        if found is None:
            return Status(bytes=size)
        python = _python_of(found)
        told = told_in(found / _TOLD)
        broken = "" if python.exists() else f"{python} is gone: run `foxden engine install`"
        return Status(
            str(python),
            version("foxden"),
            str(told.get("build", "")),
            str(told.get("torch", "")),
            str(told.get("diffusers", "")),
            int(told.get("usable_cards", 0)),
            float(told.get("installed_at", 0.0)),
            size,
            broken,
        )

    def remove(self) -> int:
        """Remove all environments, caches and Pythons of this home. Returns the bytes freed."""
        size = _bytes_under(self._folder)
        if not self._folder.exists():
            return 0
        taken = InstallFailed("The engine is being installed just now.", "Wait for its end.")
        with identity.locked(self._folder / "lock", taken):
            for one in self._folder.iterdir():
                if one.name != "lock":
                    _remove(one)
        shutil.rmtree(self._folder, ignore_errors=True)
        return size

    def keep_only(self, versions: set[str]) -> None:
        """Remove the environments of other versions of Foxden; the cache stays."""
        for one in self._folder.glob("*-*"):
            told = told_in(one / _TOLD)
            if told and told.get("version") not in versions:
                _remove(one)

    def _make(self, plan: InstallPlan, wheel: Path, progress: Callable[[Progress], None]) -> Status:
        if not plan.fits and not (self._folder / "cache").exists():
            need, free = (plan.disk + _RESERVE) / 1e9, plan.free / 1e9
            raise InstallFailed(
                f"The engine needs {need:.1f} GB in {self._folder}, and {free:.1f} GB are free.",
                "Make space, or choose another disk with --home, then start it again.",
            )
        for rest in self._folder.glob("*.new-*"):
            _remove(rest)
        # A name of its own for every try: a uv that outlived its killed parent may write into the
        # folder of the try before.
        final = self._folder / f"{version('foxden')}-{plan.build.label}"
        new = final.with_name(f"{final.name}.new-{os.getpid()}")
        variables = uv_run.environment(self._folder, self._environ)
        steps = _steps(plan.build, new, wheel, variables)
        teller = _Teller(self._folder, new, plan, len(steps) + 1, progress)
        try:
            for number, (name, words) in enumerate(steps, 1):
                teller.begin(number, name)
                uv_run.run(words, variables, teller.said, teller.look)
            teller.begin(len(steps) + 1, "test")
            told = _probe(_python_of(new))
            _prove(told, plan.build)
            about = {
                **told,
                "version": version("foxden"),
                "build": plan.build.label,
                "torch": told["version"],
                "plan": asdict(plan.build),
                "installed_at": time.time(),
            }
            (new / _TOLD).write_text(json.dumps(about, indent=1))
            _replace(new, final)
        except BaseException:
            _remove(new)
            raise
        for other in self._folder.glob(f"{version('foxden')}-*"):
            if other != final:
                _remove(other)
        teller.end()
        return self.status()

    def _own_wheel(self) -> Path:
        wheel = self._wheel
        if wheel is None and (folder := shell_file("engine_wheel")) is not None:
            wheel = next(iter(sorted(folder.glob("foxden-*.whl"))), None)
        if wheel is None or not wheel.is_file():
            raise InstallFailed(
                "This is not the installed program, and its engine is its own Python.",
                "pip install 'foxden[engine]' makes it complete; --wheel FILE makes an environment "
                "of a wheel.",
                again=False,
            )
        return wheel


class _Teller:
    """Turns what uv writes, and what grows on the disk, into Progress."""

    def __init__(
        self,
        folder: Path,
        new: Path,
        plan: InstallPlan,
        steps: int,
        progress: Callable[[Progress], None],
    ) -> None:
        self._places = (folder / "cache", folder / "python")
        self._before = sum(map(_bytes_under, self._places))
        self._plan, self._steps, self._progress = plan, steps, progress
        self._step, self._name, self._text, self._done = 0, "", "", 0

    def begin(self, step: int, name: str) -> None:
        self._step, self._name, self._text = step, name, name
        self.look()

    def said(self, line: str) -> None:
        words = line.split()
        if len(words) >= 2 and words[0] in ("Downloading", "Downloaded", "Installing"):
            self._text = f"{self._name}: {words[1]}"
            self._tell()

    def look(self) -> None:
        written = sum(map(_bytes_under, self._places)) - self._before
        share = min(1.0, max(0.0, written / max(1, self._plan.disk)))
        self._done = max(self._done, int(share * self._plan.download))
        self._tell()

    def end(self) -> None:
        self._text, self._done = "done", self._plan.download
        self._tell()

    def _tell(self) -> None:
        self._progress(
            Progress(self._step, self._steps, self._text, self._done, self._plan.download)
        )


def _steps(
    build: Build, new: Path, wheel: Path, variables: Mapping[str, str]
) -> list[tuple[str, list[str]]]:
    """The calls of uv, each with its name for people."""
    install = ["pip", "install", "--python", str(_python_of(new)), "--only-binary", ":all:"]
    hashed = [*install, "--no-deps", "--require-hashes"]
    if build.locked:
        torch = [*hashed, "-r", str(LOCK / "torch.txt")]
    else:
        torch = [*install, f"torch=={build.version}"]
        if not uv_run.has_wheel(variables.get("UV_FIND_LINKS", ""), f"torch-{build.version}-"):
            torch += ["--index", build.index]
        # What a CUDA build needs on Linux is named in its wheel alone. The other builds need
        # nothing that is not there already.
        if not (build.label.startswith("cu") and platform.system() == "Linux"):
            torch += ["--no-deps"]
    return [
        (
            "Python",
            ["venv", "--relocatable", "--no-project", "--python", _PYTHONS, str(new)],
        ),
        ("packages", [*hashed, "-r", str(LOCK / "engine.txt")]),
        ("torch", torch),
        ("Foxden's engine", [*install, "--no-deps", "--no-index", str(wheel)]),
    ]


def _probe(python: Path) -> dict[str, Any]:
    """What the engine's Python says of its torch. Raises InstallFailed."""
    try:
        done = subprocess.run(
            [str(python), "-I", "-m", "foxden_agent.engine.probe"],
            capture_output=True,
            text=True,
            timeout=_CHECK_SECONDS,
            env=engine_environment(python, os.environ),
            check=False,
        )
        told = json.loads(done.stdout.strip().splitlines()[-1])
    except subprocess.TimeoutExpired:
        told = {"error": f"it gave no answer within {_CHECK_SECONDS:g} s"}
    except (IndexError, ValueError):
        told = {"error": (done.stderr.strip().splitlines() or [f"code {done.returncode}"])[-1]}
    if not isinstance(told, dict) or told.get("error"):
        raise InstallFailed(
            f"The new engine does not start: {str(told.get('error'))[:300]}.",
            "Start the installation again; if it stays so, `foxden doctor --bundle FILE` for who "
            "helps you. The engine that was there before is still used.",
        )
    return told


def _prove(told: Mapping[str, object], build: Build) -> None:
    """Raises InstallFailed where it is not the torch that was planned."""
    got = str(told.get("version", ""))
    if got.split("+")[0] != build.version.split("+")[0] or (
        build.label.startswith("cu") != bool(told.get("cuda"))
    ):
        raise InstallFailed(
            f"torch {got} was installed, and {build.version} is needed.",
            "Look at UV_INDEX and UV_FIND_LINKS, or unset them, and start it again.",
        )


def _finished(folder: Path) -> Path | None:
    """The whole environment of this version of Foxden; the newest where there are two."""
    found = [one for one in folder.glob(f"{version('foxden')}-*") if (one / _TOLD).exists()]
    found = [one for one in found if ".new-" not in one.name and ".old-" not in one.name]
    return max(found, key=lambda one: (one / _TOLD).stat().st_mtime, default=None)


def _python_of(folder: Path) -> Path:
    return folder / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")


def _replace(new: Path, final: Path) -> None:
    """Put `new` in the place of `final`; a crash leaves one of the two under its name or aside."""
    old = final.with_name(f"{final.name}.old-{os.getpid()}")
    if final.exists():
        final.replace(old)
    try:
        new.replace(final)
    except OSError:
        if old.exists():
            old.replace(final)
        raise
    _remove(old)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _free(folder: Path) -> int:
    existing = next(one for one in (folder, *folder.parents) if one.exists())
    return shutil.disk_usage(existing).free


def _bytes_under(folder: Path) -> int:
    """Bytes on disk, a file with several names counted once."""
    total, seen = 0, set()
    for at, _, names in os.walk(folder):
        for name in names:
            with suppress(OSError):
                told = os.lstat(os.path.join(at, name))
                if told.st_nlink > 1:
                    if (told.st_dev, told.st_ino) in seen:
                        continue
                    seen.add((told.st_dev, told.st_ino))
                total += told.st_size
    return total


def _locked_sizes() -> dict[str, int]:
    """Bytes of each part of the lock on this system; empty where it is not in the lock."""
    machine = {"AMD64": "x86_64"}.get(platform.machine(), platform.machine())
    sizes = json.loads((LOCK / "sizes.json").read_text())
    found: dict[str, int] = sizes.get(f"{platform.system()} {machine}", {})
    return found
