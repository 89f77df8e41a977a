"""plan(): who goes first, to which card, and what always holds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foxden_broker.catalogue import can_run
from foxden_broker.scheduler import SLOTS, Give, OpenCard, WaitingJob, order, plan

Make = Callable[..., Any]


@pytest.fixture
def job(make_request: Make) -> Make:
    def make(name: str, *waiting: int, priority: int = 2, created: int = 0, **rest: Any) -> Any:
        avoid = {index: frozenset(cards) for index, cards in rest.pop("avoid", {}).items()}
        request = make_request(**rest)
        return WaitingJob(name, priority, created, request, list(waiting) or [0], avoid)

    return make


@pytest.fixture
def card(make_card: Make) -> Make:
    def make(name: str, busy: int = 0, loaded: str = "", **rest: Any) -> OpenCard:
        return OpenCard(make_card(name, **rest), busy, frozenset([loaded] if loaded else []))

    return make


def pairs(gives: list[Give]) -> list[str]:
    return [f"{give.job_id}{give.index}>{give.card_id}" for give in gives]


def test_order_is_priority_then_age_then_id(job: Make) -> None:
    jobs = [
        job("young", created=9),
        job("bulk", priority=3, created=1),
        job("b", created=5),
        job("a", created=5),
        job("now", priority=1, created=99),
    ]
    assert [one.job_id for one in order(jobs)] == ["now", "a", "b", "young", "bulk"]
    assert order(reversed(jobs)) == order(jobs)


def test_one_free_card_goes_to_the_first_in_order(job: Make, card: Make) -> None:
    jobs = [job("old", created=1), job("urgent", priority=1, created=9)]
    assert pairs(plan(jobs, [card("x", busy=1)])) == ["urgent0>x"]


def test_images_of_a_job_fan_out_over_idle_cards_first(job: Make, card: Make) -> None:
    gives = plan([job("j", 0, 1, 2)], [card("x"), card("y", busy=1), card("z")])
    assert pairs(gives)[:2] == ["j0>x", "j1>z"]


def test_last_image_is_not_staged_while_several_busy_cards_could_take_it(
    job: Make, card: Make
) -> None:
    assert plan([job("j", 0)], [card("x", busy=1), card("y", busy=1)]) == []
    assert pairs(plan([job("j", 0, 1)], [card("x", busy=1), card("y", busy=1)])) == [
        "j0>x",
        "j1>y",
    ]


def test_image_is_staged_on_the_only_card(job: Make, card: Make) -> None:
    assert pairs(plan([job("j", 0, 1, 2)], [card("x")])) == ["j0>x", "j1>x"]


def test_full_card_gets_nothing(job: Make, card: Make) -> None:
    assert plan([job("j", 0)], [card("x", busy=SLOTS), card("y", busy=SLOTS + 3)]) == []


def test_card_with_the_model_loaded_goes_before_others(job: Make, card: Make) -> None:
    loaded = job("j").request.model_sha256
    assert pairs(plan([job("j")], [card("a"), card("b", loaded=loaded)])) == ["j0>b"]


def test_card_that_failed_on_an_image_is_avoided_while_there_is_another(
    job: Make, card: Make
) -> None:
    poisoned = job("j", 0, avoid={0: ["a"]})
    assert pairs(plan([poisoned], [card("a"), card("b")])) == ["j0>b"]
    assert plan([poisoned], [card("a"), card("b", busy=SLOTS)]) == []
    assert pairs(plan([poisoned], [card("a")])) == ["j0>a"]


def test_image_that_avoids_the_idle_card_does_not_hold_up_its_siblings(
    job: Make, card: Make
) -> None:
    jobs = [job("j", 0, 1, avoid={0: ["b"]})]
    assert pairs(plan(jobs, [card("a", busy=SLOTS), card("b")])) == ["j1>b"]


@pytest.mark.parametrize("lacks", ["models", "samplers", "schedules"])
def test_card_that_lacks_something_gets_nothing(
    lacks: str, job: Make, card: Make, make_model: Make
) -> None:
    values = {"models": [make_model("other")], "samplers": ["LMS"], "schedules": ["beta"]}
    poor = card("poor", **{lacks: values[lacks]})
    assert plan([job("j")], [poor]) == []
    assert pairs(plan([job("j")], [poor, card("rich")])) == ["j0>rich"]


def test_job_that_no_card_can_run_does_not_hold_up_the_next(job: Make, card: Make) -> None:
    jobs = [job("stuck", created=1, sampler="LMS"), job("fine", created=2)]
    assert pairs(plan(jobs, [card("x")])) == ["fine0>x"]


def test_jobs_and_cards_may_come_from_generators(job: Make, card: Make) -> None:
    assert pairs(plan(iter([job("j")]), iter([card("x")]))) == ["j0>x"]


def test_nothing_to_do_plans_nothing(job: Make, card: Make) -> None:
    assert plan([], [card("x")]) == []
    assert plan([job("j")], []) == []


CARDS = st.lists(
    st.tuples(st.integers(0, 3), st.booleans(), st.booleans()), max_size=5
)  # busy, has the model, has the sampler
JOBS = st.lists(
    st.tuples(
        st.integers(1, 3),
        st.integers(0, 5),
        st.sets(st.integers(0, 6), min_size=1),
        st.dictionaries(st.integers(0, 6), st.sets(st.integers(0, 4).map("c{}".format))),
    ),
    max_size=4,
)


@given(JOBS, CARDS)
@settings(deadline=None, max_examples=150)
def test_plan_of_anything_keeps_its_promises(
    make_request: Make, make_card: Make, make_model: Make, jobs: Any, cards: Any
) -> None:
    waiting = [
        WaitingJob(
            f"j{number}",
            priority,
            created,
            make_request(),
            sorted(images),
            {index: frozenset(bad) for index, bad in avoid.items()},
        )
        for number, (priority, created, images, avoid) in enumerate(jobs)
    ]
    open_cards = [
        OpenCard(
            make_card(
                f"c{number}",
                make_model() if has_model else make_model("other"),
                samplers=["Euler"] if has_sampler else ["DDIM"],
            ),
            busy,
        )
        for number, (busy, has_model, has_sampler) in enumerate(cards)
    ]
    gives = plan(waiting, open_cards)
    by_job = {job.job_id: job for job in waiting}
    by_card = {card.info.card_id: card for card in open_cards}

    images = [(give.job_id, give.index) for give in gives]
    assert len(set(images)) == len(images)
    assert all(give.index in by_job[give.job_id].waiting for give in gives)
    given_to = Counter(give.card_id for give in gives)
    for card_id, number in given_to.items():
        assert by_card[card_id].busy + number <= SLOTS
    for give in gives:
        assert not can_run(by_job[give.job_id].request, by_card[give.card_id].info)

    idle = [c for c in open_cards if not c.busy and not given_to[c.info.card_id]]
    for job in waiting:
        capable = {c.info.card_id for c in open_cards if not can_run(job.request, c.info)}
        for index in set(job.waiting) - {index for name, index in images if name == job.job_id}:
            willing = (capable - job.avoid.get(index, frozenset())) or capable
            assert not willing & {c.info.card_id for c in idle}
    for give in gives:
        avoid = by_job[give.job_id].avoid.get(give.index, frozenset())
        if give.card_id in avoid:
            capable = {
                c.info.card_id
                for c in open_cards
                if not can_run(by_job[give.job_id].request, c.info)
            }
            assert capable <= avoid
    assert plan(reversed(waiting), open_cards) == gives
