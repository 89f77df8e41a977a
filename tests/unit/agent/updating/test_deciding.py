"""Which release an agent takes."""

from __future__ import annotations

from dataclasses import replace

import pytest

from foxden_agent.updating.deciding import ANY, Fetch, Here, Nothing, Start, decide, place
from foxden_agent.updating.manifest import Manifest, ReleaseFile
from foxden_agent.updating.trial import Tried

FILE = ReleaseFile("foxden.tar.xz", "ab" * 32, 1000)
RELEASE = Manifest(7, "0.2.0", "0.1.0", 1.0, {"linux-x86_64": FILE}, 0.0)
HERE = Here("0.1.0", "linux-x86_64", "agent-1", serial=6)


def test_newer_release_is_fetched_then_started() -> None:
    assert decide(RELEASE, HERE) == Fetch("0.2.0", FILE)
    assert decide(RELEASE, replace(HERE, ready="0.2.0")) == Start("0.2.0")
    assert decide(RELEASE, replace(HERE, ready="0.1.5")) == Fetch("0.2.0", FILE)


@pytest.mark.parametrize(
    ("release", "here", "why"),
    [
        (replace(RELEASE, version="0.1.0"), HERE, "newest"),
        (replace(RELEASE, version="0.0.9"), HERE, "newest"),  # never back
        (replace(RELEASE, serial=5), HERE, "old description"),
        (RELEASE, replace(HERE, tried=(Tried("0.2.0", 3, failures=3),)), "not tried again"),
        (RELEASE, replace(HERE, tried=(Tried("0.2.0", 1),), pause=60.0, now=9.0), "in 1 h"),
        (replace(RELEASE, minimum="0.1.1"), HERE, "install it anew"),
        (RELEASE, replace(HERE, platform="windows-x86_64"), "windows-x86_64"),
        (replace(RELEASE, share=0.0), HERE, "0% of all"),
    ],
)
def test_release_that_is_not_for_here_is_left_with_the_reason(
    release: Manifest, here: Here, why: str
) -> None:
    found = decide(release, here)
    assert isinstance(found, Nothing)
    assert why in found.reason


def test_share_takes_its_part_of_the_agents_and_other_ones_each_time() -> None:
    def taking(version: str) -> set[int]:
        release = replace(RELEASE, share=0.1, version=version)
        agents = {n: replace(HERE, agent_id=f"agent-{n}") for n in range(1000)}
        return {n for n, here in agents.items() if isinstance(decide(release, here), Fetch)}

    first, second = taking("0.2.0"), taking("0.2.1")
    assert 70 <= len(first) <= 130
    assert len(first & second) < 30


def test_larger_share_keeps_those_of_the_smaller() -> None:
    assert all(0.0 <= place(f"agent-{n}", "0.2.0") < 1.0 for n in range(100))
    assert place("agent-1", "0.2.0") == place("agent-1", "0.2.0")


def test_person_who_asks_does_not_wait_for_his_share() -> None:
    release = replace(RELEASE, share=0.0)
    assert decide(release, replace(HERE, asked=ANY)) == Fetch("0.2.0", FILE)


def test_what_a_person_asked_for_is_started_though_its_share_has_not_come() -> None:
    here = replace(HERE, asked="0.2.0", ready="0.2.0")
    assert decide(replace(RELEASE, share=0.0), here) == Start("0.2.0")
    assert isinstance(decide(replace(RELEASE, share=0.0, version="0.2.1"), here), Nothing)


def test_release_that_was_withdrawn_is_not_started_any_more() -> None:
    here = replace(HERE, ready="0.2.0")
    for withdrawn in (replace(RELEASE, share=0.0), replace(RELEASE, version="0.1.0")):
        assert isinstance(decide(withdrawn, here), Nothing)


def test_other_versions_failures_count_for_nothing() -> None:
    here = replace(HERE, tried=(Tried("0.1.9", 3, failures=3), Tried("0.2.1", 3, failures=3)))
    assert decide(RELEASE, here) == Fetch("0.2.0", FILE)
