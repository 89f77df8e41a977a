"""One-time keys and sessions of the owner's page."""

from __future__ import annotations

from itertools import count

from foxden_agent.page.keys import KEY_SECONDS, Keys


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def keys(clock: Clock | None = None) -> Keys:
    made = count()
    return Keys("s" * 40, clock or Clock(), lambda: f"made-{next(made)}")


def test_key_x_opens_one_session_that_needs_both_halves() -> None:
    some = keys()
    session = some.open(some.new_key())
    assert session is not None
    assert some.knows(session.cookie, session.half)
    assert not some.knows(session.cookie, "")
    assert not some.knows(session.cookie, session.cookie)
    assert not some.knows("", session.half)


def test_key_used_twice_x_opens_nothing_and_ends_the_session_it_opened() -> None:
    some = keys()
    key = some.new_key()
    first = some.open(key)
    other = some.open(some.new_key())
    assert first is not None
    assert other is not None
    assert some.open(key) is None
    assert not some.knows(first.cookie, first.half)
    assert some.knows(other.cookie, other.half)


def test_key_too_old_or_invented_x_opens_nothing() -> None:
    clock = Clock()
    some = keys(clock)
    key = some.new_key()
    clock.now += KEY_SECONDS
    assert some.open(key) is None
    assert some.open("made-0 ") is None
    assert some.open("") is None


def test_session_x_ends_after_a_week() -> None:
    clock = Clock()
    some = keys(clock)
    session = some.open(some.new_key())
    assert session is not None
    clock.now += 7 * 86_400 - 1
    assert some.knows(session.cookie, session.half)
    clock.now += 1
    assert not some.knows(session.cookie, session.half)


def test_a_thousand_keys_x_the_oldest_are_forgotten() -> None:
    some = keys()
    first = some.new_key()
    newest = [some.new_key() for _ in range(1000)][-1]
    assert some.open(first) is None
    assert some.open(newest) is not None


def test_secret_x_is_compared_whole() -> None:
    some = keys()
    assert some.owns("s" * 40)
    assert not some.owns("s" * 39)
    assert not some.owns("")
