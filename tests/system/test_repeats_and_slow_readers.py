"""Messages that arrive twice change nothing more; clients that hardly read hold up nobody else."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pytest
import slow_readers as slow_readers_program
from chaos.den import Den
from real_pool import Pool

from foxden_proto.address import parse

pytestmark = [pytest.mark.system, pytest.mark.engine]

PROMPT = "a red cube on a blue background"


@pytest.fixture
def stammering_den(sqlite_den: Den) -> Iterator[Den]:
    """The den, each of whose agents' WebSocket messages arrives twice, in both directions."""
    den = sqlite_den
    for relay in den.relays.values():
        relay.twice = True
        relay.cut()
    den.wait_until_online()
    yield den
    for relay in den.relays.values():
        relay.twice = False
        relay.cut()


def test_every_message_delivered_twice_changes_nothing(stammering_den: Den):
    den = stammering_den
    with den.load(2) as load:
        time.sleep(3)
        for relay in den.relays.values():
            relay.cut()  # also what is said again after a reconnect arrives twice
        load.wait_for_news(time.monotonic())
    for verdict in den.verdicts(load):
        assert verdict.looked_at
        assert verdict.holds, str(verdict)
    assert all(relay.repeated > 10 for relay in den.relays.values())
    # Nothing was drawn again: a lease that is said twice is the same lease.
    query = "SELECT job_id, idx, reason FROM attempt WHERE outcome IN ('fail', 'lose')"
    assert [row for row in den.pool.rows(query) if row[0] in load.seen.acknowledged] == []


CALLS, ROUNDS = 100, 7


@contextmanager
def slow_readers(pool: Pool, job_id: str) -> Iterator[None]:
    """Programs that read 1 KB a second, and ask for pictures again and again all the same."""
    port = str(parse(pool.url).grpc_port)
    words = [sys.executable, slow_readers_program.__file__, port, pool.token, job_id]
    readers = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert readers.stdin is not None
    assert readers.stdout is not None
    try:
        assert readers.stdout.readline() == b"reading\n"
        yield
        assert readers.poll() is None, "they have stopped reading"
    finally:
        readers.kill()
        readers.communicate()


@dataclass(frozen=True)
class Round:
    """Seconds that calls took with nobody else there, and right after that beside slow readers."""

    quiet: list[float]
    beside: list[float]

    @property
    def medians(self) -> float:
        return statistics.median(self.beside) / statistics.median(self.quiet)

    @property
    def p99s(self) -> float:
        """Allowing for 10 ms, which is what one turn of the scheduler costs."""
        return (_p99(self.beside) - 0.01) / _p99(self.quiet)


def _p99(seconds: list[float]) -> float:
    return sorted(seconds)[int(len(seconds) * 0.99) - 1]


@pytest.mark.alone
def test_clients_that_read_1_kb_a_second_do_not_hold_up_others(calm_pool: Pool):
    client = calm_pool.client()
    big = client.submit(PROMPT, seed=1, steps=2, width=256, height=256)
    assert len(big.result(timeout=60)[0].data) > 20_000

    def call() -> float:
        began = time.perf_counter()
        client.get(big.id)
        return time.perf_counter() - began

    rounds = []
    for _ in range(ROUNDS):
        quiet = [call() for _ in range(CALLS)]
        with slow_readers(calm_pool, big.id):
            rounds.append(Round(quiet, [call() for _ in range(CALLS)]))
    # What slow readers cost others they cost in every round; what else the machine has to do falls
    # into some of them, and into quiet ones as well.
    medians = statistics.median(one.medians for one in rounds)
    p99s = statistics.median(one.p99s for one in rounds)
    told = f"p99 {p99s:.2f}, median {medians:.2f} of what it was; {rounds}"
    assert medians <= 1.5, told
    assert p99s <= 1.5, told
