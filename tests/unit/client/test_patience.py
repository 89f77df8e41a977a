"""How long a call goes on trying, on a clock that the test moves."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from foxden import _transport
from foxden._transport import RETRY_FOR, Patience
from foxden.errors import Unavailable


@pytest.fixture
def pass_time(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    now = [1000.0]
    monkeypatch.setattr(_transport.time, "monotonic", lambda: now[0])

    def forward(seconds: float) -> None:
        now[0] += seconds

    return forward


def test_stream_that_was_silent_for_an_hour_has_the_whole_patience_when_it_breaks(
    pass_time: Callable[[float], None],
) -> None:
    patience = Patience(RETRY_FOR, "here")
    patience.renew()
    pass_time(3600)
    patience.delay(Unavailable("the broker changes"))
    pass_time(20)  # as long as another broker needs to take over
    assert patience.delay(Unavailable("the broker changes")) > 0


def test_patience_ends_when_nothing_is_heard_since_the_first_failure(
    pass_time: Callable[[float], None],
) -> None:
    patience = Patience(RETRY_FOR, "here")
    patience.delay(Unavailable("no"))
    pass_time(RETRY_FOR)
    with pytest.raises(Unavailable):
        patience.delay(Unavailable("no"))


def test_what_was_heard_in_between_begins_it_anew(pass_time: Callable[[float], None]) -> None:
    patience = Patience(RETRY_FOR, "here")
    patience.delay(Unavailable("no"))
    pass_time(RETRY_FOR - 1)
    patience.renew()
    patience.delay(Unavailable("no"))
    pass_time(RETRY_FOR - 5)
    assert patience.delay(Unavailable("no")) > 0
