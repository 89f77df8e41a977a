"""How many wrong links an address may try; and what a link tells to whom."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from foxden_broker.joining import links
from foxden_broker.joining.tries import Tries
from foxden_proto import join_links
from foxden_proto.address import Address
from foxden_proto.join_links import Refusal

HERE = "10.0.0.7"


def test_ten_wrong_ones_and_the_next_has_to_wait_a_while() -> None:
    tries = Tries()
    for _ in range(10):
        assert tries.pause(HERE, 0.0) == 0
        tries.failed(HERE, 0.0)
    assert 0 < tries.pause(HERE, 0.0) <= 60
    assert tries.pause("10.0.0.8", 0.0) == 0
    assert tries.pause(HERE, 6.1) == 0  # one is forgiven every six seconds
    tries.failed(HERE, 6.1)
    assert tries.pause(HERE, 6.1) > 0


def test_address_of_ipv6_is_its_network() -> None:
    tries = Tries()
    for number in range(10):
        tries.failed(f"2001:db8::{number}", 0.0)
    assert tries.pause("2001:db8::ffff", 0.0) > 0
    assert tries.pause("2001:db8:0:1::1", 0.0) == 0
    for _ in range(10):
        tries.failed("::ffff:10.0.0.7", 0.0)
    assert tries.pause(HERE, 0.0) > 0


def test_memory_is_bounded_and_who_failed_last_is_remembered() -> None:
    tries = Tries()
    for number in range(30_000):
        tries.failed(f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}", 0.0)
    for _ in range(10):
        tries.failed(HERE, 0.0)
    assert len(tries._buckets) <= 10_000
    assert tries.pause(HERE, 0.0) > 0


@given(st.lists(st.floats(0, 30), max_size=60))
def test_in_any_order_no_more_than_a_burst_and_its_refill_fail(pauses: list[float]) -> None:
    tries, now, failed = Tries(), 0.0, 0
    for pause in pauses:
        now += pause
        if tries.pause(HERE, now) == 0:
            tries.failed(HERE, now)
            failed += 1
    assert failed <= 11 + now / 6


def made(**values: object) -> tuple[object, str]:
    standard = {"uses": 2, "approve": False, "member": "ann", "now_ms": 0, "expires_ms": 100}
    return links.new_link("main", Address("127.0.0.1"), **(standard | values))  # type: ignore[arg-type]


def test_secret_of_a_link_is_kept_as_a_hash_and_opens_it_alone() -> None:
    link, text = made()
    secret = join_links.read(text).secret
    assert secret not in repr(link)
    assert links.opens(link, secret)  # type: ignore[arg-type]
    assert not links.opens(link, secret[:-1] + ("a" if secret[-1] != "a" else "b"))  # type: ignore[arg-type]
    assert not links.opens(None, secret)
    assert text != made()[1]


@pytest.mark.parametrize(
    ("values", "now", "why"),
    [
        ({}, 99, None),
        ({}, 100, Refusal.EXPIRED),
        ({"uses": 0}, 0, Refusal.USED_UP),
    ],
)
def test_why_a_link_is_over(values: dict[str, object], now: int, why: Refusal | None) -> None:
    link, _ = made(**values)
    assert links.why_over(link, now) is why  # type: ignore[arg-type]


def test_every_refusal_a_broker_words_says_what_to_do_next() -> None:
    for why in set(Refusal) - {Refusal.INVALID}:
        assert links.SENTENCES[why].endswith(".")
