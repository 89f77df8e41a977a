"""Messages that arrive twice change nothing more; clients that hardly read hold up nobody else."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import slow_readers as slow_readers_program
from chaos.den import Den
from real_pool import Pool

from foxden_proto.address import parse

pytestmark = [pytest.mark.system, pytest.mark.engine]

PROMPT = "a red cube on a blue background"


@pytest.fixture
def stammering_den(den: Den) -> Iterator[Den]:
    """The den, each of whose agents' WebSocket messages arrives twice, in both directions."""
    for relay in den.relays.values():
        relay.twice = True
        relay.cut()
    den.wait_until_online()
    yield den
    for relay in den.relays.values():
        relay.twice = False
        relay.cut()
    den.wait_until_online()


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


CALLS, ROUNDS = 150, 4


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


def p99_and_median(seconds: list[float]) -> tuple[float, float]:
    ordered = sorted(seconds)
    return ordered[int(len(ordered) * 0.99)], ordered[len(ordered) // 2]


def test_clients_that_read_1_kb_a_second_do_not_hold_up_others(calm_pool: Pool):
    client = calm_pool.client()
    big = client.submit(PROMPT, seed=1, steps=2, width=256, height=256)
    assert len(big.result(timeout=60)[0].data) > 20_000

    def call() -> float:
        began = time.perf_counter()
        client.get(big.id)
        return time.perf_counter() - began

    quiet, beside = [], []
    for _ in range(ROUNDS):  # by turns: the machine has other things to do
        quiet += [call() for _ in range(CALLS)]
        with slow_readers(calm_pool, big.id):
            beside += [call() for _ in range(CALLS)]
    (p99, median), (p99_beside, median_beside) = p99_and_median(quiet), p99_and_median(beside)
    told = f"p99 {p99_beside / p99:.2f}, median {median_beside / median:.2f} of what it was"
    print(told)
    assert median_beside <= 1.5 * median, told
    assert p99_beside <= 1.5 * p99 + 0.01, told
