"""The benchmarks' simulator, small and with a seed: everything is done, and sensibly."""

from __future__ import annotations

import random
import sys
from pathlib import Path

import pytest

pytest.importorskip("scipy")
sys.path.insert(0, str(Path(__file__).resolve().parents[4] / "tests" / "bench"))

from fleet_sim import bound
from fleet_sim.baselines import Fifo, LoadedFirst, Pressure, Pull
from fleet_sim.measures import batch, churn, jain, lone_jobs
from fleet_sim.ours import Foxden
from fleet_sim.simulator import simulate
from fleet_sim.world import batch_of_work, fleet, models


def test_no_policy_beats_the_bound_and_foxden_comes_closest() -> None:
    of = models(4)
    ratios = {}
    for policy in (Fifo(), LoadedFirst(), Pressure(), Pull(), Foxden(models=of)):
        random_ = random.Random(7)
        cards = fleet(8, random_)
        images = batch_of_work(80, of, random_)
        least = bound.makespan(cards, images, of)
        result = simulate(policy, cards, images)
        assert all(image.done_at > 0 for image in images), policy.name
        ratios[policy.name] = result.makespan / least
    assert min(ratios.values()) >= 1.0
    assert min(ratios, key=lambda name: ratios[name]) == "Foxden", ratios


def test_a_batch_of_work_stays_near_its_bound() -> None:
    found = batch(3, 6, 200, ["Foxden"])["Foxden"]
    assert 1.0 <= found.ratio <= 1.4
    assert found.switches <= 0.3


def test_owners_who_take_their_cards_back_lose_no_job() -> None:
    found = churn(1, 12, 0.6, 150)
    assert found["Foxden"].slowdown <= 1.1 * found["loaded model first"].slowdown


def test_a_lone_image_behind_a_thousand_starts_within_two_task_lengths() -> None:
    assert max(lone_jobs(1)) <= 2


def test_jain_of_equal_shares_is_one_and_of_one_taker_a_share() -> None:
    assert jain([5, 5, 5]) == pytest.approx(1)
    assert jain([5, 0, 0, 0]) == pytest.approx(0.25)
