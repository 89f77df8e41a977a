"""Ctrl-C, cancelled tasks, forks, threads and running loops."""

from __future__ import annotations

import asyncio
import concurrent.futures
import os
import signal
import subprocess
import sys
import threading

import pytest

import foxden
from foxden_proto.v1 import generation_pb2 as pb

DONE = pb.JOB_STATE_DONE


def ctrl_c_when(hold, *, release_after: float | None = None) -> None:
    """Press it once the broker has the call; let that go on so many seconds after."""

    def press() -> None:
        hold.reached.wait(10)
        os.kill(os.getpid(), signal.SIGINT)
        if release_after is not None:
            threading.Timer(release_after, hold.release.set).start()

    threading.Thread(target=press).start()


@pytest.mark.skipif(os.name != "posix", reason="sends itself SIGINT")
def test_ctrl_c_while_waiting_cancels_the_job_and_is_raised_again(broker, client, say):
    hold = say.Hold()
    broker.scripts = [[say.started(1, 0), hold]]
    ctrl_c_when(hold)
    with pytest.raises(KeyboardInterrupt):
        client.generate("a fox")
    assert broker.cancelled.is_set()
    assert client.cards()  # and the client still works


@pytest.mark.skipif(os.name != "posix", reason="sends itself SIGINT")
def test_ctrl_c_while_submitting_cancels_a_job_that_was_made(broker, client, say):
    hold = broker.submit_hold = say.Hold()
    ctrl_c_when(hold, release_after=0.5)
    with pytest.raises(KeyboardInterrupt):
        client.generate("a fox")
    assert broker.cancelled.is_set()


def test_a_callback_that_fails_cancels_the_job(broker, client, say):
    broker.scripts = [[say.started(1, 0), say.Hold()]]

    def fail(event: object) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        client.generate("a fox", on_event=fail)
    assert broker.cancelled.is_set()


async def test_a_cancelled_task_cancels_the_job_it_waits_for(broker, say):
    hold = say.Hold()
    broker.scripts = [[say.started(1, 0), hold]]
    async with foxden.AsyncClient(broker.url, say.TOKEN) as client:
        waiting = asyncio.create_task(client.generate("a fox"))
        await asyncio.to_thread(hold.reached.wait, 5)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
    assert broker.cancelled.is_set()


async def test_the_asynchronous_client_has_the_same_verbs(broker, say):
    broker.scripts = [[say.picture(0, 1), say.ended(2, DONE)]] * 4
    async with foxden.AsyncClient(broker.url, say.TOKEN) as client:
        assert len(await client.generate("a fox", seed=7)) == 1
        job = await client.submit("a fox")
        assert [type(event).__name__ async for event in job.watch()] == ["PictureReady", "Done"]
        assert len(await job.result(timeout=5)) == 1
        assert [picture.index async for picture in client.stream("a fox")] == [0]
        assert (await (await client.get(job.id)).refresh()).id == say.JOB
        assert [found.id for found in await client.jobs()] == [say.JOB]
        assert (await client.cancel(job.id)).state == "cancelled"


async def test_the_blocking_client_works_where_a_loop_runs(broker, client, say):
    broker.scripts = [[say.picture(0, 1), say.ended(2, DONE)]]
    assert len(client.generate("a fox")) == 1


def test_every_verb_of_one_client_is_a_verb_of_the_other():
    def verbs(kind: type) -> set[str]:
        return {name for name in dir(kind) if not name.startswith("_")}

    assert verbs(foxden.Client) == verbs(foxden.AsyncClient)
    assert verbs(foxden.Job) == verbs(foxden.AsyncJob)


def test_threads_may_share_a_client(broker, client):
    found: list[int] = []
    threads = [threading.Thread(target=lambda: found.append(len(client.cards()))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert found == [1] * 8


def test_a_closed_client_connects_again(client):
    client.close()
    client.close()
    assert client.cards()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_fork_before_the_first_call_works_and_one_after_it_is_told_why_not(broker, say):
    program = f"""
import os, foxden
client = foxden.Client({broker.url!r}, {say.TOKEN!r}, retry_for=3)
def in_a_child():
    pid = os.fork()
    if pid:
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    try:
        os._exit(0 if client.cards() else 1)
    except foxden.FoxdenError as error:
        client.close()
        os._exit(7 if "fork" in error.message else 2)
assert in_a_child() == 0
assert client.cards()
assert in_a_child() == 7
"""
    done = subprocess.run([sys.executable, "-c", program], timeout=30, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()


def test_a_program_that_forgets_to_close_ends_quietly(broker, say):
    program = f"import foxden; foxden.Client({broker.url!r}, {say.TOKEN!r}).cards()"
    done = subprocess.run([sys.executable, "-c", program], timeout=30, capture_output=True)
    assert (done.returncode, done.stderr) == (0, b"")


def test_a_step_that_nobody_waits_for_is_ended_before_its_generator_is_closed():
    """What Ctrl-C leaves behind where it strikes between handing a step over and its future."""
    from foxden._portal import portal
    from foxden.sync import _Steps

    closed = threading.Event()

    async def items():
        try:
            await asyncio.sleep(60)
            yield 1
        finally:
            closed.set()

    steps = _Steps(items())
    lost = portal().start(steps.next())

    portal().call(steps.close())

    assert closed.is_set()
    with pytest.raises(concurrent.futures.CancelledError):
        lost.result(1)
