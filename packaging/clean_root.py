"""A root folder of its own with a new user in it, for whoever tries an installation.

An overlay over this system, where the checkout and root's home are hidden and the user has an empty
home: what differs at the end is what was written. Needs root.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
USER = "foxden-check"
HOME = f"/home/{USER}"
# What the machine's network needs, and where its packages come from.
PASSED_ON = re.compile(r"(PIP|UV|SSL)_.*|(?i:https?|all|no)_proxy")
# The package manager's own records: they are kept of every package that ever was there.
RECORDS = re.compile(
    r"var/lib/dpkg|var/log|var/cache|var/lib/(systemd|apt)|etc/(passwd|group|g?shadow|sub[ug]id)"
    r"|run|proc|sys|dev|root|etc/\.pwd|usr/share/icons/hicolor/icon-theme.cache"
)
MANAGER = Path("/lib/systemd/systemd")
_CGROUPS = Path("/sys/fs/cgroup")
_CLEARED = 20.0  # seconds for a user's processes to end


class Clean:
    """The root of our own, and the user in it; `folder` is empty and holds all of it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.root = folder / "root"
        self._upper = folder / "upper"

    def make(self) -> None:
        for name in ("root", "upper", "work"):
            (self._folder / name).mkdir()
        options = f"lowerdir=/,upperdir={self._upper},workdir={self._folder / 'work'}"
        mount("-t", "overlay", "overlay", "-o", options, str(self.root))
        for name in ("proc", "sys", "dev"):
            mount("--rbind", f"/{name}", str(self.root / name))
            mount("--make-rslave", str(self.root / name))  # what goes here stays there
        for name in ("tmp", "run", "root", str(ROOT).lstrip("/")):
            if not (self.root / name).is_dir():  # a checkout below one that is hidden already
                continue
            mount("-t", "tmpfs", "tmpfs", str(self.root / name))
            (self.root / name).chmod(0o1777 if name == "tmp" else 0o755)
        self.as_root("useradd", "--create-home", "--home-dir", HOME, "--shell", "/bin/sh", USER)
        for path in (self.root / HOME.lstrip("/")).iterdir():  # from /etc/skel
            path.unlink()

    def as_root(self, *words: str) -> str:
        return _output(["chroot", str(self.root), *words])

    def words(self, *command: str, **variables: str) -> list[str]:
        """A command line that runs as the user, with a login's environment and no more."""
        passed = {name: value for name, value in os.environ.items() if PASSED_ON.fullmatch(name)}
        path = f"{HOME}/.local/bin:/usr/local/bin:/usr/bin:/bin"
        given = {**passed, "HOME": HOME, "USER": USER, "PATH": path, "LANG": "C.UTF-8"}
        given |= {"XDG_RUNTIME_DIR": self._runtime} | variables
        settings = [f"{name}={value}" for name, value in given.items()]
        user = ["chroot", f"--userspec={USER}:{USER}", str(self.root), "env", "-i", "-C", HOME]
        return [*user, *settings, *command]

    def as_user(self, *command: str, **variables: str) -> str:
        return _output(self.words(*command, **variables))

    def path(self, inside: str) -> Path:
        return self.root / inside.lstrip("/")

    def files(self) -> set[str]:
        """All that differs from the system, but for records of the package manager."""
        found = set()
        for path in self._upper.rglob("*"):
            name = str(path.relative_to(self._upper))
            # A folder of the system is here too once something was made in it.
            if not RECORDS.match(name) and not (path.is_dir() and Path("/", name).is_dir()):
                found.add(name)
        more = [*self.path("/tmp").rglob("*"), *self.path("/run").glob("*foxden*")]
        return found | {str(path.relative_to(self.root)) for path in more}

    def processes(self) -> dict[int, str]:
        """What runs in this root, by process id: the command lines."""
        found = {}
        for process in self._own():
            with suppress(OSError):
                words = process.joinpath("cmdline").read_bytes()
                found[int(process.name)] = words.replace(b"\0", b" ").decode().strip()
        return found

    def programs(self) -> dict[int, str]:
        """Foxden's programs that run in this root, by process id: their files."""
        found = {}
        for process in self._own():
            with suppress(OSError):
                file = os.readlink(process / "exe").removeprefix(str(self.root))
                if Path(file).name == "foxden":
                    found[int(process.name)] = file
        return found

    def _own(self) -> Iterator[Path]:
        for process in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                if process.joinpath("root").samefile(self.root):
                    yield process

    def end_all(self) -> None:
        """Kill what runs in this root."""
        for pid in self.processes():
            with suppress(OSError):
                os.kill(pid, signal.SIGKILL)

    @property
    def _runtime(self) -> str:
        return f"/run/user/{self._uid}"

    @property
    def _uid(self) -> int:
        return self.path(HOME).stat().st_uid

    @contextmanager
    def session(self) -> Iterator[bool]:
        """The user is logged in: a systemd of his own runs. False where there can be none here."""
        runtime = self.path(self._runtime)
        runtime.mkdir(parents=True, mode=0o755)
        runtime.chmod(0o700)
        os.chown(runtime, self._uid, self._uid)
        groups = self._groups()
        if not MANAGER.exists() or not groups:
            yield False
            return
        self.path("/run/systemd/system").mkdir(parents=True)  # it asks whether systemd runs here
        into = [f"echo $$ > {group}/cgroup.procs;" for group in groups]
        words = ["sh", "-ec", f'{" ".join(into)} exec "$@"', "sh"]
        words += self.words(str(MANAGER), "--user")
        quiet = subprocess.DEVNULL
        manager = subprocess.Popen(words, stdin=quiet, stdout=quiet, stderr=quiet)
        try:
            yield self._answers(manager)
        finally:
            manager.send_signal(signal.SIGTERM)  # stops the units, and then itself
            with suppress(subprocess.TimeoutExpired):
                manager.wait(_CLEARED)
            manager.kill()
            manager.wait()
            for group in groups:
                _end_group(group)

    def _groups(self) -> list[Path]:
        """Control groups for the user, one in each tree; none where they cannot be made."""
        trees = [_CGROUPS / name for name in ("systemd", "unified", "") if _is_tree(name)]
        groups = [tree / f"foxden-check-{os.getpid()}" for tree in trees]
        try:
            for group in groups:
                group.mkdir()
        except OSError:
            return []
        for path in (path for group in groups for path in (group, *group.iterdir())):
            with suppress(OSError):
                os.chown(path, self._uid, self._uid)
        return groups

    def _answers(self, manager: subprocess.Popen[bytes]) -> bool:
        for _ in range(50):
            words = self.words("systemctl", "--user", "show-environment")
            if subprocess.run(words, capture_output=True, check=False).returncode == 0:
                return True
            if manager.poll() is not None:
                break
            time.sleep(0.1)
        return False


def mount(*words: str) -> None:
    subprocess.run(["mount", *words], check=True)


def _output(words: list[str]) -> str:
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(words)} failed:\n{done.stdout}{done.stderr}")
    return done.stdout


def _is_tree(name: str) -> bool:
    return (_CGROUPS / name / "cgroup.procs").exists()


def _end_group(group: Path) -> None:
    """Kill what is left in a control group, and remove it."""
    deadline = time.monotonic() + _CLEARED
    while group.exists() and time.monotonic() < deadline:
        for listed in group.rglob("cgroup.procs"):
            with suppress(OSError):
                for pid in listed.read_text().split():
                    os.kill(int(pid), signal.SIGKILL)
        for path in (*sorted(group.rglob("*/"), reverse=True), group):
            with suppress(OSError):
                path.rmdir()
        time.sleep(0.1)
