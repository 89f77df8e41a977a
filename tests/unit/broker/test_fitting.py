"""Pictures that some cards of a pool, or all, have too little memory for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from foxden_broker.catalogue import Catalogue, resolve
from foxden_broker.pool import Pool
from foxden_broker.pool_parts import PoolCard
from foxden_broker.scheduler.facts import Kind
from foxden_proto.problems import Problem, Reason
from foxden_proto.v1.generation_pb2 import ImageRequest
from foxden_proto.v1.pool_pb2 import CardInfo, ModelFit

Make = Callable[..., Any]


def limited(card: CardInfo, pixels: int, refusal: str = "") -> CardInfo:
    """The card, with memory for pictures of so many pixels."""
    sha256 = card.models[0].sha256
    card.fits.append(ModelFit(model_sha256=sha256, max_pixels=pixels, refusal=refusal))
    return card


def asked(side: int) -> ImageRequest:
    return ImageRequest(prompt="x", width=side, height=side)


def test_size_that_no_card_has_the_memory_for_is_refused_with_each_cards_reason(
    make_card: Make,
) -> None:
    small = limited(make_card("a"), 512 * 512, "up to 512 x 512 pixels fit here")
    none = limited(make_card("b"), 0, "a card with 4 GB can draw it")
    with pytest.raises(Problem) as caught:
        resolve(asked(1024), Catalogue([small, none]))
    assert caught.value.reason is Reason.NO_CARD_CAN_RUN
    assert caught.value.facts["reasons"].splitlines() == [
        f"{small.name}: up to 512 x 512 pixels fit here",
        f"{none.name}: a card with 4 GB can draw it",
    ]
    assert "ask for a smaller picture" in caught.value.message


def test_card_that_is_offline_but_has_the_memory_is_waited_for(make_card: Make) -> None:
    cards = [limited(make_card("a"), 512 * 512), limited(make_card("b"), 1024 * 1024)]
    assert resolve(asked(1024), Catalogue(cards, frozenset("a"))).width == 1024


def test_card_that_says_nothing_of_a_model_is_taken_to_fit(make_card: Make) -> None:
    assert resolve(asked(1024), Catalogue([limited(make_card("a"), 0), make_card("b")]))


def test_reasons_of_a_large_pool_fit_into_a_status(make_card: Make) -> None:
    cards = [limited(make_card(f"c{n}"), 0, "r" * 1000) for n in range(500)]
    with pytest.raises(Problem) as caught:
        resolve(asked(512), Catalogue(cards))
    facts = caught.value.facts["reasons"]
    assert len(facts) < 5000
    assert facts.endswith("and 488 more cards")


def test_image_is_for_the_cards_that_it_fits_on(make_card: Make) -> None:
    pool = Pool("account")
    for card in (limited(make_card("a"), 512 * 512), make_card("b")):
        pool.put_card(PoolCard(card, f"agent-{card.card_id}", "", "1", 0, online=True))
    sha256 = pool.cards["a"].info.models[0].sha256
    able = {}
    for side in (512, 520, 1024):
        kind = Kind(sha256, side, side, 20, "Euler", "automatic")
        able[side] = [card.info.card_id for card in pool.capable_cards(kind)]
        mask = pool.scheduler.table.capable(kind)
        rows = [card for card, there in pool.scheduler.table.cards.items() if mask[there.row]]
        assert rows == able[side]
    assert able == {512: ["a", "b"], 520: ["b"], 1024: ["b"]}


def test_card_whose_memory_was_less_than_it_thought_is_asked_anew(make_card: Make) -> None:
    pool = Pool("account")
    card = PoolCard(make_card("a"), "agent", "", "1", 0, online=True)
    pool.put_card(card)
    kind = Kind(card.info.models[0].sha256, 1024, 1024, 20, "Euler", "automatic")
    assert pool.scheduler.table.capable(kind)[pool.scheduler.table.cards["a"].row]
    less = limited(make_card("a"), 512 * 512)
    pool.put_card(PoolCard(less, "agent", "", "1", 0, online=True))
    assert not pool.scheduler.table.capable(kind)[pool.scheduler.table.cards["a"].row]
