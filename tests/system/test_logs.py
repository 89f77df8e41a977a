"""What the programs write about a real job: fields to find it again, never what was asked."""

from __future__ import annotations

import json
from contextlib import suppress

import pytest
from drawn import after_step, outcomes
from real_pool import LONG, wait_until

import foxden

pytestmark = [pytest.mark.system, pytest.mark.engine]

MARK = "zanzibar-quokka-4711"


@pytest.mark.parametrize("form", ["json", "text"])
def test_no_log_of_any_process_holds_a_prompt_or_a_token(pool, form):
    pool.start_broker("--log-format", form)
    pool.start_agent("one", arguments=["--log-format", form])
    admin = pool.client()
    token = admin.create_token("ann", ["generate"]).secret
    client = pool.client(token)
    job = client.submit(f"a red cube {MARK}", negative_prompt=f"text {MARK}", seed=7)
    job.result(timeout=60)
    with pytest.raises(foxden.InvalidRequest):
        client.submit(f"{MARK}", steps=100_000)
    wrong = token[:-1] + ("a" if token[-1] != "a" else "b")
    with pytest.raises(foxden.Unauthorized):
        pool.client(wrong).cards()
    long = client.submit(f"a fox {MARK}", **LONG)
    after_step(long)
    pool.engine_of().kill()
    wait_until(lambda: "fail" in outcomes(long), 60)
    long.cancel()
    with suppress(foxden.JobCancelled):
        long.result(timeout=60)
    pool.agents["one"].stop()
    pool.broker.stop()

    logs = {path.name: path.read_text() for path in pool.folder.glob("*.log")}
    assert set(logs) == {"broker.log", "one.log"}
    secrets = [MARK, token.rpartition("_")[2], pool.token.rpartition("_")[2]]
    secrets.append(pool.agent_token.rpartition("_")[2])
    for name, text in logs.items():
        assert text
        assert not [secret for secret in secrets if secret in text], name
    assert long.id in logs["broker.log"]
    if form == "json":
        for text in logs.values():
            lines = [json.loads(line) for line in text.splitlines()]
            assert all({"time", "level", "logger", "message"} <= set(line) for line in lines)
        told = [json.loads(line) for line in logs["broker.log"].splitlines()]
        assert any(line.get("job") == long.id and "card" in line for line in told)
        assert any("agent" in line for line in told)
