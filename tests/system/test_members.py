"""Limits, retry, cards set aside, use, revoked tokens: through every layer, with real processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time

import grpc
import httpx
import pytest
from drawn import after_step, tries
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from real_pool import BRIEF, Pool, wait_until

import foxden
from foxden import events
from foxden._transport import Transport
from foxden.config import Config
from foxden_proto.address import parse
from foxden_proto.v1 import generation_pb2 as gen

pytestmark = [pytest.mark.system, pytest.mark.engine]

PROMPT = "a red cube on a blue background"


def command(pool: Pool, *words: str, token: str = "") -> tuple[int, dict]:
    done = subprocess.run(
        [sys.executable, "-m", "foxden", *words, "--json"],
        capture_output=True,
        text=True,
        timeout=60,
        stdin=subprocess.DEVNULL,
        env={**os.environ, "FOXDEN_URL": pool.url, "FOXDEN_TOKEN": token or pool.token},
    )
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout)


def test_member_over_its_limit_is_told_which_and_when(pool):
    pool.start_broker("--most-queued", "5")
    ann = pool.client(pool.client().create_token("ann", ["generate"]).secret)
    ann.submit(PROMPT, count=4)
    with pytest.raises(foxden.QuotaExceeded, match="ann may have 5 images") as caught:
        ann.submit(PROMPT, count=2)
    assert caught.value.retry_after == 60  # nothing moves: there is no card
    code, told = command(pool, "quotas", "set", "ann", "--queued", "8", "--running", "1")
    assert (code, told["most_queued"], told["most_running"]) == (0, 8, 1)
    ann.submit(PROMPT, count=4)
    _, told = command(pool, "quotas", "list")
    (member,) = [one for one in told["members"] if one["quota"]["member"] == "ann"]
    assert (member["most_queued"], member["queued"], member["running"]) == (8, 8, 0)
    pool.start_agent()
    wait_until(lambda: pool.client().quotas().members[0].running == 1)
    for job in ann.jobs():
        job.result(timeout=90)
    code, told = command(pool, "usage", "--member", "ann", "--days", "2")
    assert sum(row["images"] for row in told["usage"]) == 8
    assert sum(row["gpu_seconds"] for row in told["usage"]) > 0
    code, told = command(pool, "usage", token=ann._client._transport.metadata[0][1].split()[1])
    assert (code, told["error"]["type"]) == (4, "PermissionDenied")


async def test_refusal_carries_retry_info_for_tools_that_know_it(pool):
    pool.start_broker("--most-queued", "1")
    transport = Transport(Config(parse(pool.url), pool.token))
    stubs = await transport.stubs()
    request = gen.SubmitRequest(request=gen.ImageRequest(prompt=PROMPT))
    await stubs.generation.Submit(request, metadata=transport.metadata)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stubs.generation.Submit(request, metadata=transport.metadata)
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    retry = error_details_pb2.RetryInfo()
    assert any(detail.Unpack(retry) for detail in rpc_status.from_call(caught.value).details)
    assert retry.retry_delay.ToTimedelta().total_seconds() == 60
    await transport.close()


def test_dead_letter_shows_every_attempt_and_is_retried(pool):
    pool.start_broker()
    pool.start_agent()
    client = pool.client()
    job = client.submit(PROMPT, seed=7, **BRIEF)
    for number in range(3):
        wait_until(lambda: job.refresh().info.tasks[0].state == "running", 60)
        pool.engine_of().kill()
        wait_until(lambda n=number: job.refresh().info.tasks[0].failures > n, 60)
    assert job.state == "failed"
    assert [tried.outcome for tried in tries(job)] == ["fail", "fail", "give_up"]
    assert all(a.card and "died" in a.reason and a.started < a.ended for a in tries(job))
    with pytest.raises(foxden.JobFailed) as caught:
        job.result(timeout=30)
    assert caught.value.attempts == job.attempts
    _, listed = command(pool, "jobs", "list", "--state", "failed")
    assert [one["id"] for one in listed["jobs"]] == [job.id]
    _, shown = command(pool, "jobs", "show", job.id)
    assert len(shown["tasks"][0]["attempts"]) == len(job.attempts)
    code, told = command(pool, "jobs", "retry", job.id)
    assert (code, told["state"] in ("queued", "running")) == (0, True)
    assert len(job.result(timeout=90)) == 1
    code, told = command(pool, "jobs", "retry", job.id)
    assert (code, told["error"]["type"]) == (2, "InvalidRequest")


def test_queued_and_running_images_are_cancelled_by_command(calm_pool):
    client = calm_pool.client()
    job = client.submit(PROMPT, count=8, steps=150, width=256, height=256)
    wait_until(lambda: job.refresh().state == "running", 60)
    code, _ = command(calm_pool, "jobs", "cancel", job.id)
    assert code == 0
    with pytest.raises(foxden.JobCancelled):
        job.result(timeout=30)
    assert {task.state for task in job.refresh().info.tasks} <= {"cancelled", "done"}


def test_drained_card_gives_back_what_waits_and_finishes_what_runs(pool):
    pool.start_broker()
    pool.start_agent("one")
    client = pool.client()
    job = client.submit(PROMPT, count=3, seed=1, **BRIEF)
    after_step(job)
    code, card = command(pool, "cards", "drain", "--wait", _card_id(client))
    assert (code, card["running"], card["standing"]) == (0, 0, "draining")
    assert job.refresh().state == "running"
    assert job.info.done >= 1
    assert any(task.state == "queued" for task in job.info.tasks)
    told = next(e for e in client.submit(PROMPT).watch() if isinstance(e, events.Queued))
    assert "draining" in told.waiting_for
    pool.start_agent("two")
    assert len(job.result(timeout=90)) == 3
    code, card = command(pool, "cards", "uncordon", _card_id(client, "one"))
    assert (code, card["standing"]) == (0, "")
    code, told = command(pool, "cards", "forget", _card_id(client, "one"))
    assert (code, told["error"]["field"]) == (2, "card")
    pool.agents["one"].stop()
    wait_until(lambda: not next(c for c in client.cards() if c.agent == "one").online)
    code, told = command(pool, "cards", "forget", _card_id(client, "one"))
    assert code == 0
    assert [card.agent for card in client.cards()] == ["two"]


def _card_id(client, agent="one"):
    return next(card.id for card in client.cards() if card.agent == agent)


def test_stream_of_a_revoked_token_ends_within_seconds(pool):
    pool.start_broker()
    admin = pool.client()
    made = admin.create_token("ann", ["generate"])
    job = pool.client(made.secret).submit(PROMPT)
    seen = job.watch(timeout=30)
    next(seen)
    admin.revoke_token(made.token.id)
    began = time.monotonic()
    with pytest.raises(foxden.Unauthorized):
        list(seen)
    assert time.monotonic() - began < 8


def test_metrics_of_a_real_broker(calm_pool):
    calm_pool.client().generate(PROMPT, seed=3, progress=False)
    bearer = {"Authorization": f"Bearer {calm_pool.token}"}
    assert httpx.get(f"{calm_pool.http}/metrics").status_code == 401
    text = httpx.get(f"{calm_pool.http}/metrics", headers=bearer).text
    assert 'foxden_grpc_calls_total{code="OK",method="Submit"}' in text
    assert 'foxden_images_total{outcome="done"}' in text
    assert 'foxden_store_seconds_count{call="submit"}' in text
