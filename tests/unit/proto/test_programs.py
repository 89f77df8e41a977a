"""Programs that die and are started again."""

from __future__ import annotations

import pytest

from foxden_proto.programs import Restarts, started_again


class Unforeseen(Exception):
    pass


class Final(Exception):
    pass


class Program:
    """Ends in each of the given ways, one after the other; None: it returns."""

    def __init__(self, *ends: Exception | None) -> None:
        self._ends = list(ends)
        self.runs = 0
        self.slept: list[float] = []
        self.now = 0.0

    async def run(self) -> None:
        self.runs += 1
        self.now += 1.0
        if (end := self._ends.pop(0)) is not None:
            raise end

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds

    async def started(self, most: int = 4) -> None:
        await started_again(
            self.run, Restarts(most), (Final,), clock=lambda: self.now, sleep=self.sleep
        )


async def test_death_of_something_unforeseen_is_followed_by_a_new_start() -> None:
    program = Program(Unforeseen(), Unforeseen(), None)
    await program.started()
    assert program.runs == 3
    assert program.slept == [0.5, 1.0]


async def test_death_that_no_start_can_mend_ends_it_at_once() -> None:
    program = Program(Final("wrong token"))
    with pytest.raises(Final, match="wrong token"):
        await program.started()
    assert program.runs == 1


async def test_dying_again_and_again_ends_it_with_the_last_reason() -> None:
    program = Program(*(Unforeseen(str(number)) for number in range(9)))
    with pytest.raises(Unforeseen, match="3"):
        await program.started()
    assert program.runs == 4


async def test_deaths_that_are_far_apart_are_each_the_first() -> None:
    program = Program(*[Unforeseen() for _ in range(6)], None)

    async def long_ago(seconds: float) -> None:
        program.slept.append(seconds)
        program.now += 100.0

    await started_again(
        program.run, Restarts(4), (Final,), clock=lambda: program.now, sleep=long_ago
    )
    assert program.slept == [0.5] * 6
