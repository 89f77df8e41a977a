"""What holds after any sequence of events."""

from __future__ import annotations

import random
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from foxden_broker.scheduler.facts import CardFacts, Give, Image, JobFacts, Kind, Outcome
from foxden_broker.scheduler.planning import plan
from foxden_broker.scheduler.queue import State

MODELS = "abc"
CARDS = 4


def capable(card_id: str, kind: Kind) -> bool:
    return not (card_id == "c0" and kind.model == "a")


class Follower:
    """Random events beside a plain model of what should be so."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.now = 0.0
        self.state = State(capable)
        self.jobs: dict[str, JobFacts] = {}
        self.waiting: set[Image] = set()
        self.held: dict[Image, tuple[str, int]] = {}  # card, number of its batch
        self.batches = 0
        self.here: dict[str, bool] = {}

    def step(self) -> None:
        self.now += self.random.choice((0.0, 0.5, 3.0))
        name = self.random.choice(
            ("add", "add", "card", "card", "gone", "end", "end", "end", "leave", "cancel", "plan")
        )
        getattr(self, name)()
        self.plan()
        self.check()

    def add(self) -> None:
        random_ = self.random
        kind = Kind(random_.choice(MODELS), 512, 512, random_.choice((10, 20)))
        facts = JobFacts(
            f"j{len(self.jobs)}", random_.choice("xyz"), kind, self.now, random_.choice((1, 2, 3))
        )
        self.jobs[facts.job_id] = facts
        indices = range(random_.randrange(1, 6))
        self.state.add_job(facts, indices, self.now)
        self.waiting |= {(facts.job_id, index) for index in indices}

    def card(self) -> None:
        name = f"c{self.random.randrange(CARDS)}"
        self.here[name] = self.random.random() < 0.8
        facts = CardFacts(name, "RTX 3060", most_together=self.random.choice((1, 3)))
        self.state.card_here(facts, self.now, accepting=self.here[name])

    def gone(self) -> None:
        name = f"c{self.random.randrange(CARDS)}"
        self.here.pop(name, None)
        self.state.card_gone(name, self.now)
        for image in [image for image, (card, _) in self.held.items() if card == name]:
            self.over(image, Outcome.LOST, waits=True)

    def end(self) -> None:
        if self.held:
            image = self.random.choice(sorted(self.held))
            outcome = self.random.choice((Outcome.DONE, Outcome.DONE, *Outcome))
            again = outcome is not Outcome.DONE and outcome is not Outcome.STOPPED
            self.over(image, outcome, waits=again)

    def over(self, image: Image, outcome: Outcome, *, waits: bool) -> None:
        if self.random.random() < 0.5:
            self.state.image_started(*image, self.now)
        self.state.image_ended(*image, self.now, outcome, waits=waits)
        self.state.image_ended(*image, self.now, outcome)  # told twice
        del self.held[image]
        if waits:
            self.waiting.add(image)

    def leave(self) -> None:
        if self.waiting:
            image = self.random.choice(sorted(self.waiting))
            self.state.image_left(*image, self.now)
            self.waiting.discard(image)

    def cancel(self) -> None:
        if self.jobs:
            job_id = self.random.choice(sorted(self.jobs))
            self.state.job_cancelled(job_id, self.now)
            self.waiting = {image for image in self.waiting if image[0] != job_id}

    def plan(self) -> None:
        while (todo := plan(self.state, self.now)).actions:
            for action in todo.actions:
                assert isinstance(action, Give)
                self.state.given(action, self.now)
                self.batches += 1
                assert self.here.get(action.card_id), "given to a card that takes nothing"
                assert len({self.jobs[job].kind for job, _ in action.images}) == 1
                for image in action.images:
                    assert image in self.waiting, f"{image} does not wait"
                    assert capable(action.card_id, self.jobs[image[0]].kind)
                    self.waiting.discard(image)
                    self.held[image] = (action.card_id, self.batches)
        self.wake_at = todo.wake_at

    def check(self) -> None:
        state = self.state
        per_card: dict[str, set[int]] = {}
        for card, batch in self.held.values():
            per_card.setdefault(card, set()).add(batch)
        assert all(len(batches) <= 2 for batches in per_card.values()), "running, staged, and more"
        assert {(j, i) for j, job in state.jobs.items() for i in job.waiting} == self.waiting
        assert state.holders == {image: card for image, (card, _) in self.held.items()}
        assert state.lines.images == len(self.waiting)
        assert described(state) == described(self.rebuilt())

    def rebuilt(self) -> State:
        """The same from scratch, as after a broker's restart."""
        state = State(capable)
        for facts in self.jobs.values():
            indices = sorted(i for j, i in self.waiting if j == facts.job_id)
            held = [i for j, i in self.held if j == facts.job_id]
            if indices or held:
                state.add_job(facts, indices, self.now)
        return state


def described(state: State) -> dict[str, Any]:
    """The indices, without what a rebuilt state cannot know (fairness, estimates)."""
    lines = state.lines
    return {
        "work": {where: (n, round(work)) for where, (n, work) in lines.work.items()},
        "models": lines.models,
        "lines": {
            (key, need): [job.facts.job_id for job in line.oldest()]
            for key, needs in lines.by_member.items()
            for need, line in needs.items()
        },
        "ahead": {
            (key, job_id): ahead.before(job_id)[0]
            for key, ahead in state.ahead.items()
            if ahead.images
            for job_id, job in state.jobs.items()
            if job.waiting and (job.facts.priority, job.facts.member) == key
        },
        "waiting members": {
            (priority, member)
            for priority in (1, 2, 3)
            for _, member in state.fairness.members(priority)
        },
    }


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32))
def test_any_events_no_image_twice_no_third_batch_and_the_state_as_if_built_anew(seed: int) -> None:
    follower = Follower(seed)
    for _ in range(40):
        follower.step()


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32))
def test_any_events_then_quiet_every_image_that_a_card_can_run_is_given(seed: int) -> None:
    follower = Follower(seed)
    for _ in range(30):
        follower.step()
    for number in range(CARDS):
        name = f"c{number}"
        follower.here[name] = True
        follower.state.card_here(CardFacts(name, "RTX 3060"), follower.now, accepting=True)
    for _ in range(600):
        follower.plan()
        if not follower.held and not follower.waiting:
            break
        if follower.held:
            follower.now += 2.0
            follower.over(sorted(follower.held)[0], Outcome.DONE, waits=False)
        else:
            assert follower.wake_at < float("inf"), "images wait, and nothing is planned for them"
            follower.now = max(follower.now + 1e-6, follower.wake_at)
    assert not follower.waiting
