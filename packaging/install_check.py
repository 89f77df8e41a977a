"""`make install-check`: install, use, update and remove Foxden as an ordinary user would.

    python packaging/install_check.py [--bundle dist/foxden --next DIR --keys DIR]

Needs root, for a root of its own: an overlay over this system, where the checkout and root's home
are hidden and a new user has an empty home. What Foxden leaves is what the overlay holds at the end
and did not at the beginning. Prints each step with its seconds and sizes; exit code 1 where one
fails or something is left.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

sys.path.append(str(Path(__file__).parent / "linux"))

import build_bundle
import build_deb
import sign_release
from clean_root import HOME, Clean, mount

ROOT = Path(__file__).resolve().parents[1]
LARGEST_INSTALLER, SLOWEST_START = 90e6, 1.0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--bundle", type=Path, help="a bundle that is there, with --keys and --next"
    )
    parser.add_argument("--next", type=Path, help="one of the next version")
    parser.add_argument("--keys", type=Path, help="folder with the root.key that they know")
    args = parser.parse_args()
    if os.geteuid() != 0:
        print("This needs root (for a root folder of its own): sudo make install-check.")
        return 2
    if os.environ.get("FOXDEN_IN_NAMESPACE") != "1":  # mounts are ours alone, and end with us
        environment = {**os.environ, "FOXDEN_IN_NAMESPACE": "1"}
        words = ["unshare", "--mount", "--propagation", "private", sys.executable, *sys.argv]
        return subprocess.call(words, env=environment)
    began = time.monotonic()
    with ExitStack() as stack:
        folder = Path(tempfile.mkdtemp(prefix="foxden-install-check-"))
        folder.chmod(0o755)
        mount("-t", "tmpfs", "-o", "mode=755,size=8g", "tmpfs", str(folder))
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        stack.callback(subprocess.run, ["umount", "-R", "-l", str(folder)], check=False)
        code = check(args, folder, stack)
        print(f"in {time.monotonic() - began:.0f} s")
        return code


def check(args: argparse.Namespace, folder: Path, stack: ExitStack) -> int:
    keys = args.keys or folder
    if not args.bundle:
        sign_release.main(["root-key", str(keys / "root.key")])
    if not (keys / "signing.key").exists():
        sign_release.main(["sign-key", str(keys / "root.key"), str(keys / "signing.key")])
    public = sign_release.public(sign_release.load(keys / "root.key")).hex()
    (folder / "root.pub").write_text(public + "\n")
    bundles = args.bundle, args.next
    if not args.bundle:
        with step("build the bundle, twice"):
            new = next_version(this_version())
            bundles = tuple(
                build_bundle.build(folder / f"built-{v or 'this'}", v, folder / "root.pub")
                for v in ("", new)
            )
    with step("pack: .tar.xz of both, .deb of the first"):
        server = folder / "server"
        words = [sys.executable, str(ROOT / "packaging/linux/build_deb.py")]
        subprocess.run([*words, str(bundles[0]), "--out", str(folder / "first")], check=True)
        more = ["--out", str(server), "--archive-only", "--level", "1"]
        subprocess.run([*words, str(bundles[1]), *more], check=True)
    archive = next((folder / "first").glob("*.tar.xz"))
    deb = next((folder / "first").glob("*.deb"))
    new = next(server.glob("*.tar.xz")).name.split("-")[1]
    sign_release.main(["release", str(keys / "signing.key"), str(server), "--version", new])
    said = [
        (f"installer {archive.stat().st_size / 1e6:.1f} MB", archive.stat().st_size),
        (f".deb {deb.stat().st_size / 1e6:.1f} MB", deb.stat().st_size),
    ]
    problems = [f"{text} is more than 90 MB" for text, size in said if size > LARGEST_INSTALLER]

    clean = Clean(folder)
    stack.callback(clean.end_all)
    with step("a clean root and a new user, who is logged in"):
        clean.make()
        before = clean.files()
        session = stack.enter_context(clean.session())
        if not session:
            print("    no systemd for a user starts here: foxden service is started by hand")
    user = User(clean, server, keys / "signing.key", session, stack)
    problems += user.installs(archive)
    problems += user.draws()
    problems += user.updates(new)
    problems += user.is_spared_a_broken_update(bundles[1], new)
    problems += user.uninstalls()
    problems += report_rest(clean, before, "per-user installation")
    problems += debian(clean, deb, session)
    problems += report_rest(clean, before, "package")
    for problem in problems:
        print(f"PROBLEM: {problem}")
    print("All of it worked, and nothing is left." if not problems else "NOT ALL WELL.")
    return 1 if problems else 0


class User:
    """One user without root, from the archive to the uninstallation. Each step says what went
    wrong; where the next ones could not be taken, it raises SystemExit."""

    def __init__(
        self, clean: Clean, server: Path, key: Path, session: bool, stack: ExitStack
    ) -> None:
        self._clean, self._server, self._key, self._session = clean, server, key, session
        self._broker = stack.enter_context(broker_running())
        self._url = stack.enter_context(served(server))
        self._program = f"{HOME}/.local/bin/foxden"
        self._folder = clean.path(f"{HOME}/.local/share/foxden/program")

    def installs(self, archive: Path) -> list[str]:
        clean, program = self._clean, self._program
        problems = []
        settings = clean.path(f"{HOME}/.config/foxden/environment")
        clean.as_user("mkdir", "-p", str(Path(HOME, ".config/foxden")))
        settings.write_text(f"FOXDEN_UPDATE_URL={self._url}\n")
        with step("unpack and install.sh"):
            shutil.copy(archive, clean.path("/tmp"))
            clean.as_user("tar", "-C", "/tmp", "-xf", f"/tmp/{archive.name}")
            print("   ", clean.as_user("/tmp/foxden/install.sh").replace("\n", "\n    ").strip())
            for name in ("foxden", archive.name):
                clean.as_root("rm", "-r", f"/tmp/{name}")
        if not self._session:
            words = clean.words(program, "service", FOXDEN_UPDATE_URL=self._url)
            subprocess.Popen(words, stdin=subprocess.DEVNULL, start_new_session=True)
        for words in (["--version"], ["agent", "--help"], ["broker", "--help"], ["up", "--help"]):
            seconds = cpu_seconds(clean.words(program, *words))
            print(f"    foxden {' '.join(words)}: {seconds:.2f} s of processor time")
            if seconds > SLOWEST_START:
                problems.append(f"foxden {words[0]} took {seconds:.2f} s to start")
        told = clean.as_user(program, "engine", "install", "--dry-run", "--json")
        plan = json.loads(told)["plan"]
        print(f"    the engine: {plan['name']}, {plan['download'] / 1e6:.0f} MB to download")
        with step("foxden engine install"):
            clean.as_user(program, "engine", "install", "--yes")
        told = json.loads(clean.as_user(program, "engine", "status", "--json"))
        print(
            f"    torch {told['torch']} in {told['python']}: {told['bytes'] / 1e6:.0f} MB on disk"
        )
        return problems

    def draws(self) -> list[str]:
        """Join by a link while the service runs; it goes online by itself."""
        clean, broker = self._clean, self._broker
        with step("foxden join, and the service goes online"):
            words = [sys.executable, "-m", "foxden", "join-link", "--json"]
            given = {"FOXDEN_URL": broker["url"], "FOXDEN_TOKEN": broker["token"]}
            made = subprocess.run(
                words, env={**os.environ, **given}, capture_output=True, check=True
            )
            link = json.loads(made.stdout)["text"]
            said = clean.as_user(self._program, "join", link, "--yes")
            print("   ", said.replace("\n", "\n    ").strip())
            wait_for(lambda: cards_of(broker), 120, "the agent did not come online")
        with step("foxden doctor"):
            findings = subprocess.run(
                clean.words(self._program, "doctor", "--json"), capture_output=True, check=False
            )
            lines = json.loads(findings.stdout)["findings"]
            for one in lines:
                print(f"    {one['level']}: {one['found']}")
        with step("the demo picture through the broker"):
            draw(broker)
        return [one["found"] for one in lines if one["level"] == "problem"]

    def updates(self, new: str) -> list[str]:
        self._takes(new)
        with step(f"the service tries {new}, and it gets online"):
            wait_for(lambda: "updated" in self._known()["said"], 300, f"{new} was not taken")
            print(f"    {self._known()['said']}")
            wait_for(lambda: cards_of(self._broker), 60, "the new version is not online")
        with step("the demo picture again"):
            draw(self._broker)
        return self._runs(new)

    def is_spared_a_broken_update(self, bundle: Path, good: str) -> list[str]:
        """One that starts, and whose agent cannot: a library was left out of it."""
        bad = next_version(good)
        with step(f"{bad} is packed, without the library grpc"):
            self._server.joinpath("release.json").unlink()
            made = self._server.parent / "broken/foxden"
            shutil.copytree(bundle, made, symlinks=True)
            inside = made / "_internal"
            (inside / f"foxden-{good}.dist-info").rename(inside / f"foxden-{bad}.dist-info")
            about = inside / f"foxden-{bad}.dist-info/METADATA"
            about.write_text(about.read_text().replace(f"Version: {good}", f"Version: {bad}", 1))
            shutil.rmtree(inside / "grpc")
            build_deb.archive(made, bad, self._server, 1)
            shutil.rmtree(made.parent)
            words = ["release", str(self._key), str(self._server), "--version", bad]
            sign_release.main(words)
        self._takes(bad)
        with step(f"the service tries {bad}, and goes back to {good}"):
            wait_for(lambda: self._blame(bad), 300, f"{bad} was not given up, or nobody blamed")
            print(f"    {self._known()['said']}")
            wait_for(lambda: cards_of(self._broker), 60, f"{good} is not online again")
        with step("the demo picture, with the version before"):
            draw(self._broker)
        problems = self._runs(good)
        if self._known()["ready"] or self._known()["trial"]:
            problems.append(f"{bad} would be started again at once: {self._known()}")
        return problems

    def uninstalls(self) -> list[str]:
        with step("uninstall.sh --purge, while it runs"):
            script = f"{HOME}/.local/share/foxden/program/current/uninstall.sh"
            print("   ", self._clean.as_user(script, "--purge").strip())
        if cards_of(self._broker):
            return ["the broker was not told that the machine left"]
        return []

    def _takes(self, version: str) -> None:
        """Also where the service, which looks by itself after some minutes, has begun to."""
        with step(f"foxden update: {version} is downloaded and made ready"):
            words = self._clean.words(
                self._program, "update", "--json", FOXDEN_UPDATE_URL=self._url
            )
            done = subprocess.run(words, capture_output=True, text=True, check=False)
            told = json.loads(done.stdout)
            text = told.get("error", told)["text"]
            print(f"    {text}")
            if done.returncode and "is being fetched already" not in text:
                raise SystemExit(f"{version} cannot be had: {text}")

    def _known(self) -> dict[str, Any]:
        return {"said": "", "tried": [], **read_json(self._folder / "updates.json")}

    def _blame(self, version: str) -> bool:
        """Whether a version was tried, and the one before got online where it did not."""
        return any(t["version"] == version and t["failures"] for t in self._known()["tried"])

    def _runs(self, version: str) -> list[str]:
        """Whether it is this version in every respect: the command, the service, its agent."""
        listed = sorted(path.name for path in (self._folder / "versions").glob("[0-9]*"))
        print(f"    versions that lie there: {', '.join(listed)}")
        problems = []
        said = self._clean.as_user(self._program, "--version").strip()
        if said != version:
            problems.append(f"foxden says it is {said}, not {version}")
        program = f"{HOME}/.local/share/foxden/program/versions/{version}/foxden"
        # The service goes on as that version when nobody minds, some time after its agent, which it
        # starts once more then.
        deadline = time.monotonic() + 120
        while True:
            running = self._clean.programs()
            right = set(running.values()) == {program} and len(running) > 1
            if right or time.monotonic() > deadline:
                break
            time.sleep(0.5)
        if not right:
            problems.append(f"not (only) {version} runs: {running}")
        if self._session:
            state = self._clean.as_user("systemctl", "--user", "is-active", "foxden").strip()
            print(f"    the unit is {state}")
        return problems


def debian(clean: Clean, deb: Path, session: bool) -> list[str]:
    """Install the package, start it, install it over itself, take it away again."""
    shutil.copy(deb, clean.path("/tmp"))
    problems = []
    with step("dpkg -i"):
        clean.as_root("dpkg", "-i", f"/tmp/{deb.name}")
    version = clean.as_user("foxden", "--version").strip()
    print(f"    /usr/bin/foxden says {version}; {clean.as_user('foxden', 'update').strip()}")

    def runs() -> bool:
        return len(clean.programs()) >= 2  # the service and its agent

    if session:
        with step("systemctl --user enable --now foxden"):
            clean.as_user("systemctl", "--user", "enable", "--now", "foxden")
            wait_for(runs, 30, "the unit starts nothing")
        before = set(clean.programs())
        with step("dpkg -i over it, while it runs"):
            clean.as_root("dpkg", "-i", f"/tmp/{deb.name}")
            wait_for(runs, 30, "the user's service did not come back")
        if before & set(clean.programs()):
            problems.append("what ran before the update of the package still runs")
    (clean.path("/tmp") / deb.name).unlink()
    with step("/usr/lib/foxden/uninstall.sh --purge"):
        print("   ", clean.as_user("/usr/lib/foxden/uninstall.sh", "--purge").strip())
    words = clean.words("foxden", "service", FOXDEN_HOME="/tmp/other")
    subprocess.Popen(words, stdin=subprocess.DEVNULL, start_new_session=True)
    wait_for(runs, 30, "foxden service does not start")
    with step("dpkg -P, while a service runs that was started by hand"):
        clean.as_root("dpkg", "-P", "foxden")
    shutil.rmtree(clean.path("/tmp/other"))
    return problems


def report_rest(clean: Clean, before: set[str], what: str) -> list[str]:
    rest = sorted(clean.files() - before)
    print(f"    left of the {what}: {', '.join(rest[:20]) or 'nothing'}")
    problems = [f"the {what} left {len(rest)} files and folders: {rest[0]} …"] if rest else []
    running = [told for told in clean.processes().values() if "foxden" in told]
    return problems + [f"{told}, of the {what}, still runs" for told in running]


@contextmanager
def step(name: str) -> Iterator[None]:
    print(f"== {name}", flush=True)
    began = time.monotonic()
    yield
    print(f"   {time.monotonic() - began:.1f} s", flush=True)


@contextmanager
def broker_running() -> Iterator[dict[str, str]]:
    """A broker of the checkout, as another machine would run it, on loopback."""
    with tempfile.TemporaryDirectory() as home:
        words = [sys.executable, "-m", "foxden_broker", "--home", home, "--json", "--supervised"]
        words += ["--grpc-port", "0", "--http-port", "0"]
        with subprocess.Popen(
            words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        ) as broker:
            assert broker.stdout is not None
            assert broker.stdin is not None
            try:
                yield json.loads(broker.stdout.readline())
            finally:
                broker.stdin.close()
                broker.wait(20)


@contextmanager
def served(folder: Path) -> Iterator[str]:
    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/release.json"
    finally:
        server.shutdown()


def cards_of(broker: dict[str, str]) -> bool:
    """Whether a card is online at the broker."""
    from foxden import Client

    with Client(broker["url"], broker["token"]) as client:
        return any(card.online for card in client.cards())


def draw(broker: dict[str, str]) -> None:
    from foxden import Client

    with Client(broker["url"], broker["token"]) as client:
        picture = client.generate("a red cube on a blue background", timeout=180)[0]
    print(f"    {picture.width} x {picture.height} from {picture.card}, {picture.seconds:.1f} s")


def cpu_seconds(words: list[str]) -> float:
    """User and system time of a command: what it would take on a quiet machine."""
    before = os.times()
    subprocess.run(words, capture_output=True, check=True)
    after = os.times()
    return (
        after.children_user
        + after.children_system
        - (before.children_user + before.children_system)
    )


def wait_for(done: Callable[[], bool], seconds: float, problem: str) -> None:
    deadline = time.monotonic() + seconds
    while not done():
        if time.monotonic() > deadline:
            raise SystemExit(f"{problem} within {seconds:g} s")
        time.sleep(0.3)


def read_json(path: Path) -> dict[str, Any]:
    try:
        told: dict[str, Any] = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return told


def next_version(version: str) -> str:
    head, _, last = version.rpartition(".")
    return f"{head}.{int(last) + 1}"


def this_version() -> str:
    found = re.search(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(), re.M)
    assert found is not None
    return found[1]


if __name__ == "__main__":
    sys.exit(main())
