"""`foxden demo` and `foxden up`, as a newcomer runs them."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest
from pictures import matches_prompt
from PIL import Image
from real_pool import gone, wait_until

import foxden

pytestmark = [pytest.mark.system, pytest.mark.engine]


def foxden_command(*words: str, home: Path, timeout: float = 120) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "foxden", *words],
        capture_output=True,
        text=True,
        timeout=timeout,
        stdin=subprocess.DEVNULL,
        env={**os.environ, "FOXDEN_HOME": str(home), "FOXDEN_URL": "", "FOXDEN_TOKEN": ""},
    )


def command_lines(pids: set[int]) -> list[str]:
    """Of those that still run; others may come and go on this machine meanwhile."""
    lines = []
    for pid in pids:
        with suppress(psutil.NoSuchProcess):  # ended, or a zombie
            lines.append(" ".join(psutil.Process(pid).cmdline()))
    return lines


@contextmanager
def up(home: Path) -> Iterator[tuple[subprocess.Popen[str], dict[str, str]]]:
    words = ["up", "--json", "--home", str(home), "--grpc-port", "0", "--http-port", "0"]
    with subprocess.Popen(
        [sys.executable, "-m", "foxden", *words, "--device", "cpu"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            line = process.stdout.readline()
            assert line, process.stderr.read()
            yield process, json.loads(line)
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGINT)
                process.wait(30)


def test_demo_draws_a_picture_and_leaves_nothing_but_it(tmp_path: Path):
    out = tmp_path / "cube.png"
    before = set(psutil.pids())

    done = foxden_command("demo", "--json", "--out", str(out), home=tmp_path / "home")

    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert str(out) in json.dumps(told)
    assert matches_prompt(Image.open(out))
    left = command_lines(set(psutil.pids()) - before)
    assert not [words for words in left if "foxden" in words and str(tmp_path) in words]
    assert not (tmp_path / "home").exists()


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, int, dict[str, str]]]:
    """An `up` that all tests below share: its home, its process, and what it told."""
    home = tmp_path_factory.mktemp("up") / "home"
    with up(home) as (process, told):
        yield home, process.pid, told


def test_up_serves_the_sdk_and_the_command_without_any_address(
    running: tuple[Path, int, dict[str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    home, _, told = running
    assert set(told) >= {"url", "http", "token"}
    monkeypatch.setenv("FOXDEN_HOME", str(home))
    monkeypatch.delenv("FOXDEN_URL", raising=False)
    monkeypatch.delenv("FOXDEN_TOKEN", raising=False)
    with foxden.Client() as client:
        assert len(client.generate("a yellow star", seed=1, progress=False)) == 1
    done = foxden_command(
        "generate", "a green circle", "--count", "2", "--out", str(tmp_path / "out"), home=home
    )
    assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "out").glob("*.png"))) == 2
    for words in (["cards"], ["models", "list"], ["jobs", "list"], ["tokens", "list"]):
        listed = foxden_command(*words, "--json", home=home)
        assert listed.returncode == 0, listed.stderr
        json.loads(listed.stdout)
    made = foxden_command(
        "tokens", "create", "--member", "ann", "--scopes", "generate", "--json", home=home
    )
    assert "fxd_" in made.stdout


def test_the_readmes_example_works_against_up(
    running: tuple[Path, int, dict[str, str]], tmp_path: Path
):
    readme = Path(__file__).parents[2] / "README.md"
    example = re.search(r"```python\n(.*?)```", readme.read_text(), re.DOTALL)
    assert example, "the README has no Python example"
    done = subprocess.run(
        [sys.executable, "-c", example[1]],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "FOXDEN_HOME": str(running[0])},
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "cube.png").exists()


def test_up_restarts_a_broker_that_dies(running: tuple[Path, int, dict[str, str]]):
    _, pid, told = running
    children = psutil.Process(pid).children()
    broker = next(p for p in children if "foxden_broker" in " ".join(p.cmdline()))
    broker.kill()
    with foxden.Client(told["url"], token=told["token"]) as client:
        assert len(client.generate("a red ball", seed=1, progress=False, timeout=90)) == 1


def test_up_killed_leaves_no_process(running: tuple[Path, int, dict[str, str]]):
    process = psutil.Process(running[1])
    children = process.children(recursive=True)
    assert len(children) >= 3  # broker, agent, engine
    process.kill()  # the last test: there is no `up` after it
    wait_until(lambda: gone(children), 15, f"still there: {children}")
