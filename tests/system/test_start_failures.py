"""What cannot start, or cannot go on, says so in one clear sentence and a non-zero exit code."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from chaos.invariants import check
from chaos.load import Load
from tiny_disk import fill, tiny_disk

import foxden

pytestmark = pytest.mark.system

PROMPT = "a red cube on a blue background"


def run(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", *words],
        capture_output=True,
        text=True,
        timeout=60,
        stdin=subprocess.DEVNULL,
        env={**os.environ, "FOXDEN_TOKEN": "", **environment},
    )


def last_line(done: subprocess.CompletedProcess[str]) -> str:
    assert "Traceback" not in done.stderr, done.stderr
    return done.stderr.strip().splitlines()[-1]


@pytest.fixture
def taken_port() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


@pytest.mark.parametrize("kind", ["grpc", "http"])
def test_port_taken(tmp_path: Path, taken_port: int, kind: str):
    other = "http" if kind == "grpc" else "grpc"
    ports = [f"--{kind}-port", str(taken_port), f"--{other}-port", "0"]
    done = run("foxden_broker", "--home", str(tmp_path), *ports)
    assert done.returncode == 1
    assert str(taken_port) in last_line(done)
    assert f"--{kind}-port" in last_line(done)


def test_two_brokers_on_one_home(pool):
    pool.start_broker()
    home = str(pool.folder / "broker")
    done = run("foxden_broker", "--home", home, "--grpc-port", "0", "--http-port", "0")
    assert done.returncode == 1
    assert "another broker" in last_line(done).lower()


@pytest.mark.parametrize("program", ["foxden_broker", "foxden_agent"])
def test_home_that_cannot_be_written(tmp_path: Path, program: str):
    blocked = tmp_path / "file"
    blocked.write_text("a file where a folder should be")
    words = [program, "--home", str(blocked)]
    if program == "foxden_agent":
        words += ["--broker", "foxden://127.0.0.1:1", "--token", "fxd_x"]
    done = run(*words)
    assert done.returncode == 1
    assert str(blocked) in last_line(done)
    assert "--home" in last_line(done)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--broker", "http://x", "--token", "t"], "foxden://"),
        (["--broker", "foxden://127.0.0.1:1"], "FOXDEN_TOKEN"),
        (["--no-page"], "nobody to serve"),
        (["--broker", "foxden://h?pin=12", "--token", "t"], "pin"),
    ],
)
def test_agent_called_wrong(tmp_path: Path, words: list[str], says: str):
    done = run("foxden_agent", "--home", str(tmp_path), *words)
    assert done.returncode in (1, 2)
    assert says in last_line(done)


def test_agent_refused_by_its_broker_ends_with_code_4(pool):
    pool.start_broker()
    words = ["--home", str(pool.folder / "x"), "--broker", pool.url, "--token", pool.token]
    done = run("foxden_agent", *words, "--device", "cpu")
    assert done.returncode == 4
    assert "scope agent" in last_line(done)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    with tiny_disk(tmp_path / "disk") as folder:
        yield folder


def test_full_disk_refuses_a_submit_in_words_and_goes_on_when_there_is_space(pool, disk):
    pool.folder = disk
    pool.start_broker()
    client = pool.client()
    client.submit(PROMPT)
    filler = fill(disk)

    def submit_until_refused() -> None:
        for _ in range(2000):  # until the pages that SQLite has in hand are used up
            client.submit(PROMPT + " " * 5000 + "x")

    with pytest.raises(foxden.FoxdenError, match="disk is full"):
        submit_until_refused()

    filler.unlink()
    assert client.submit(PROMPT).state == "queued"
    jobs = len(client.jobs(limit=200))
    pool.broker.kill()
    pool.start_broker()
    assert len(pool.client().jobs(limit=200)) == jobs


def test_disk_that_fills_up_under_load_delays_and_loses_nothing(pool, disk, tmp_path):
    pool.folder = disk
    pool.start_broker()
    pool.folder = tmp_path  # the agent's disk is another one
    pool.start_agent()
    pool.folder = disk
    load = Load(pool.url, pool.token, seed=1)
    load.wait_for_news(0.0)
    filler = fill(disk)
    time.sleep(2)
    filler.unlink()
    load.wait_for_news(time.monotonic())
    load.drain()
    # A submit that finds the disk full is refused in these words; nothing else goes wrong.
    load.seen.errors[:] = [said for said in load.seen.errors if "disk is full" not in said]
    for verdict in check(pool, load.seen):
        assert verdict.looked_at
        assert verdict.holds, str(verdict)


def test_full_disk_at_the_start_is_one_sentence(disk):
    fill(disk)
    done = run("foxden_broker", "--home", str(disk), "--grpc-port", "0", "--http-port", "0")
    assert done.returncode == 1
    assert len(last_line(done)) > 20
