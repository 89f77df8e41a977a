"""An agent that belongs to nobody, or is no longer wanted: it lives on with its page."""

from __future__ import annotations

import asyncio

import pytest
from page_calls import calls_of
from real_pool import Pool, Process, wait_until

from foxden_agent import joining
from foxden_agent.page.call import NoPage

pytestmark = pytest.mark.system


def start(pool: Pool) -> Process:
    words = ["--home", str(pool.folder / "pc"), "--device", "cpu", "--page-port", "0"]
    agent = Process(["-m", "foxden_agent"], words, pool.folder / "pc.log")
    pool.agents["pc"] = agent
    pool.processes.append(agent)
    return agent


def test_broker_that_wants_it_no_more_x_back_to_the_first_run_with_the_reason(pool: Pool) -> None:
    pool.start_broker()
    folder = pool.folder / "pc" / "agent"
    link = pool.client().create_join_link().text
    joined = asyncio.run(joining.join(folder, link))
    pool.client().revoke_agent(joined.pool.agent_id)
    agent = start(pool)
    calls = calls_of(pool.folder / "pc")
    wait_until(lambda: calls.status()["phase"] == "first_run", 60, "it does not begin anew")
    (join, *_) = calls.status()["first_run"]
    assert "shut out" in join["problem"]
    assert join["state"] == "ready"
    agent.assert_runs()
    assert agent.stop() == 0


def test_broker_away_at_the_first_run_x_a_sentence_and_the_same_link_again(pool: Pool) -> None:
    agent = start(pool)
    calls = calls_of(pool.folder / "pc")
    pool.start_broker()
    link = pool.client().create_join_link().text
    assert pool.broker is not None
    pool.broker.kill()
    (join, *_) = calls.do("first-run/look", link=link)["first_run"]
    assert join["state"] == "failed"
    assert "does not answer" in join["problem"]
    (join, *_) = calls.do("first-run/look", link="http://x")["first_run"]
    assert "foxden://" in join["problem"]
    agent.kill()
    with pytest.raises(NoPage, match="start it again"):
        calls.status()
    start(pool)
    wait_until(lambda: calls_of(pool.folder / "pc").status()["phase"] == "first_run")
    assert link.rpartition("/")[2] not in (pool.folder / "pc.log").read_text()


def test_joined_by_command_while_the_first_run_waits_x_online_without_a_click(pool: Pool) -> None:
    pool.start_broker()
    start(pool)
    calls = calls_of(pool.folder / "pc")
    wait_until(lambda: calls.status()["phase"] == "first_run", 60)
    link = pool.client().create_join_link(approve=True).text
    joined = asyncio.run(joining.join(pool.folder / "pc" / "agent", link))
    wait_until(lambda: calls.status().get("pools", [{}])[0].get("state") == "waits", 60)
    pool.client().approve_agent(joined.pool.agent_id)
    wait_until(lambda: calls.status().get("online"), 60)
    states = {step["step"]: step["state"] for step in calls.status()["first_run"]}
    assert states["join"] == "skipped"
    assert states["online"] == "done"
