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
import signal
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

import build_bundle
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
            new = next_version()
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
    with step("a clean root and a new user"):
        clean.make()
        before = clean.files()
    problems += per_user(clean, archive, server, new, stack)
    problems += report_rest(clean, before, "per-user installation")
    problems += debian(clean, deb)
    problems += report_rest(clean, before, "package")
    for problem in problems:
        print(f"PROBLEM: {problem}")
    print("All of it worked, and nothing is left." if not problems else "NOT ALL WELL.")
    return 1 if problems else 0


def per_user(clean: Clean, archive: Path, server: Path, new: str, stack: ExitStack) -> list[str]:
    """Install for the user, join, draw, update, draw, uninstall; returns what went wrong."""
    problems = []
    with step("unpack and install.sh"):
        shutil.copy(archive, clean.path("/tmp"))
        clean.as_user("tar", "-C", "/tmp", "-xf", f"/tmp/{archive.name}")
        print("   ", clean.as_user("/tmp/foxden/install.sh").replace("\n", "\n    ").strip())
        for name in ("foxden", archive.name):
            clean.as_root("rm", "-r", f"/tmp/{name}")
    program = f"{HOME}/.local/bin/foxden"
    for words in (["--version"], ["agent", "--help"], ["broker", "--help"], ["up", "--help"]):
        seconds = cpu_seconds(clean.words(program, *words))
        print(f"    foxden {' '.join(words)}: {seconds:.2f} s of processor time")
        if seconds > SLOWEST_START:
            problems.append(f"foxden {words[0]} took {seconds:.2f} s to start")
    plan = json.loads(clean.as_user(program, "engine", "install", "--dry-run", "--json"))["plan"]
    print(f"    the engine: {plan['name']}, {plan['download'] / 1e6:.0f} MB to download")
    with step("foxden engine install"):
        clean.as_user(program, "engine", "install", "--yes")
    told = json.loads(clean.as_user(program, "engine", "status", "--json"))
    print(f"    torch {told['torch']} in {told['python']}: {told['bytes'] / 1e6:.0f} MB on disk")
    with step("foxden doctor"):
        findings = subprocess.run(
            clean.words(program, "doctor", "--json"), capture_output=True, check=False
        )
        lines = json.loads(findings.stdout)["findings"]
        problems += [one["found"] for one in lines if one["level"] == "problem"]

    broker = stack.enter_context(broker_running())
    url = stack.enter_context(served(server))
    with step("the service, until it is online"):
        service = join_and_start(clean, program, broker, url)
        stack.callback(end, service)
        wait_for(lambda: cards_of(broker), 120, "the agent did not come online")
    with step("the demo picture through the broker"):
        draw(broker)
    with step(f"foxden update: {new} is downloaded and made ready"):
        told = clean.as_user(program, "update", "--json", FOXDEN_UPDATE_URL=url)
        print(f"    {json.loads(told)['text']}")
    folder = clean.path(f"{HOME}/.local/share/foxden/program")
    known = partial(read_json, folder / "updates.json")
    with step(f"the service tries {new}, and it gets online"):
        wait_for(lambda: "updated" in known().get("said", ""), 120, f"{new} was not taken")
        wait_for(lambda: cards_of(broker), 60, "the new version is not online")
    with step("the demo picture again"):
        draw(broker)
    version = clean.as_user(program, "--version").strip()
    if version != new:
        problems.append(f"after the update foxden says it is {version}")
    listed = sorted(path.name for path in (folder / "versions").iterdir())
    print(f"    versions that lie there: {', '.join(listed)}")
    with step("uninstall.sh --purge, while it runs"):
        script = f"{HOME}/.local/share/foxden/program/current/uninstall.sh"
        print("   ", clean.as_user(script, "--purge").strip())
        if service.poll() is None:
            try:
                service.wait(10)
            except subprocess.TimeoutExpired:
                problems.append("the service still runs after its uninstallation")
    return problems


def join_and_start(
    clean: Clean, program: str, broker: dict[str, str], url: str
) -> subprocess.Popen[bytes]:
    """Join by a link, and start the service as autostart would."""
    words = [sys.executable, "-m", "foxden", "join-link", "--json"]
    given = {"FOXDEN_URL": broker["url"], "FOXDEN_TOKEN": broker["token"]}
    made = subprocess.run(words, env={**os.environ, **given}, capture_output=True, check=True)
    clean.as_user(program, "join", json.loads(made.stdout)["text"], "--yes")
    words = clean.words(program, "service", "--", "--device", "cpu", FOXDEN_UPDATE_URL=url)
    return subprocess.Popen(words, stdin=subprocess.DEVNULL, start_new_session=True)


def debian(clean: Clean, deb: Path) -> list[str]:
    """Install the package, start it, take it away again."""
    shutil.copy(deb, clean.path("/tmp"))
    with step("dpkg -i"):
        clean.as_root("dpkg", "-i", f"/tmp/{deb.name}")
    (clean.path("/tmp") / deb.name).unlink()
    version = clean.as_user("foxden", "--version").strip()
    print(f"    /usr/bin/foxden says {version}; {clean.as_user('foxden', 'update').strip()}")
    unit = clean.path("/usr/lib/systemd/user/foxden.service").read_text()
    problems = [] if "ExecStart=/usr/bin/foxden service" in unit else ["the unit starts nothing"]
    with step("dpkg -P"):
        clean.as_root("dpkg", "-P", "foxden")
    return problems


def report_rest(clean: Clean, before: set[str], what: str) -> list[str]:
    rest = sorted(clean.files() - before)
    print(f"    left of the {what}: {', '.join(rest[:20]) or 'nothing'}")
    return [f"the {what} left {len(rest)} files and folders: {rest[0]} …"] if rest else []


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


def end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)


def next_version() -> str:
    found = re.search(
        r'^version = "(\d+\.\d+\.)(\d+)"$', (ROOT / "pyproject.toml").read_text(), re.M
    )
    assert found is not None
    return f"{found[1]}{int(found[2]) + 1}"


if __name__ == "__main__":
    sys.exit(main())
