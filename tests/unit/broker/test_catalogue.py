"""Models of a pool, and what becomes of a request there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from foxden_broker.catalogue import Catalogue, offers, resolve
from foxden_proto.problems import Problem, Reason
from foxden_proto.v1.generation_pb2 import ImageRequest

Make = Callable[..., Any]


def refused(request: ImageRequest, catalogue: Catalogue) -> Problem:
    with pytest.raises(Problem) as caught:
        resolve(request, catalogue)
    return caught.value


def test_empty_request_gets_the_models_defaults(make_card: Make, make_model: Make) -> None:
    dream = make_model(default_schedule="", default_steps=25, default_width=768)
    complete = resolve(ImageRequest(prompt="a cube"), Catalogue([make_card("c", dream)]))
    assert (complete.model, complete.model_sha256) == ("dream", dream.sha256)
    assert (complete.width, complete.height, complete.steps) == (768, 512, 25)
    assert (complete.sampler, complete.schedule) == ("Euler", "automatic")
    assert complete.guidance_scale == 7.0


def test_values_that_were_given_are_kept(make_card: Make) -> None:
    asked = ImageRequest(
        prompt="x", width=64, height=1024, steps=1, guidance_scale=0.0, sampler="DDIM"
    )
    asked.schedule = "karras"
    complete = resolve(asked, Catalogue([make_card()]))
    assert (complete.width, complete.height, complete.steps) == (64, 1024, 1)
    assert (complete.guidance_scale, complete.sampler) == (0.0, "DDIM")
    assert complete.schedule == "karras"


def test_name_is_found_in_any_case(make_card: Make) -> None:
    assert Catalogue([make_card()]).find("DREAM").name == "dream"


def test_namesake_with_other_bytes_is_another_model(make_card: Make, make_model: Make) -> None:
    one, two = make_model("dream", "a"), make_model("dream", "b")
    cards = [make_card("x", one), make_card("y", two), make_card("z", two)]
    catalogue = Catalogue(cards)
    assert len(catalogue.models()) == 2
    assert catalogue.find("dream") == two  # on more cards
    pinned = resolve(ImageRequest(model_sha256=one.sha256), catalogue)
    assert pinned.model_sha256 == one.sha256
    assert [c.card_id for c in cards if offers(c, one.sha256, "Euler", "karras")] == ["x"]
    assert catalogue.find("dream", one.sha256) == one


def test_namesakes_on_as_many_cards_are_chosen_alike_in_any_order(
    make_card: Make, make_model: Make
) -> None:
    cards = [
        make_card("x", make_model("dream", "b")),
        make_card("y", make_model("dream", "a")),
    ]
    assert Catalogue(cards).find("dream") == Catalogue(cards[::-1]).find("dream")


def test_same_bytes_under_two_names_are_found_by_either(make_card: Make, make_model: Make) -> None:
    cards = [make_card("x", make_model("dream", "a")), make_card("y", make_model("traum", "a"))]
    catalogue = Catalogue(cards)
    assert catalogue.find("dream").sha256 == catalogue.find("traum").sha256
    assert [listed.cards for listed in catalogue.models()] == [2]


def test_name_and_hash_that_do_not_belong_together_are_unknown(
    make_card: Make, make_model: Make
) -> None:
    catalogue = Catalogue([make_card("x", make_model("dream", "a"), make_model("other", "b"))])
    with pytest.raises(Problem) as caught:
        catalogue.find("dream", make_model("other", "b").sha256)
    assert caught.value.reason is Reason.UNKNOWN_MODEL


def test_default_is_never_the_demo_model_beside_a_real_one(
    make_card: Make, make_model: Make
) -> None:
    demo, dream = make_model("demo", demo=True), make_model("zebra")
    everywhere = [make_card(f"c{i}", demo) for i in range(5)]
    assert Catalogue(everywhere).find("") == demo
    catalogue = Catalogue([*everywhere, make_card("y", demo, dream)])
    assert catalogue.find("") == dream
    assert [m.model.name for m in catalogue.models() if m.is_default] == ["zebra"]
    assert catalogue.find("demo") == demo  # but whoever asks for it gets it


def test_default_is_the_real_model_on_most_cards(make_card: Make, make_model: Make) -> None:
    rare, common = make_model("a-rare"), make_model("b-common")
    catalogue = Catalogue([make_card("x", rare, common), make_card("y", common)])
    assert catalogue.find("") == common


def test_models_are_listed_with_their_cards_and_those_online(
    make_card: Make, make_model: Make
) -> None:
    one, two = make_model("one"), make_model("two")
    cards = [make_card("x", one, two), make_card("y", two)]
    listed = Catalogue(cards, frozenset({"x"})).models()
    assert [(m.model.name, m.cards, m.cards_online) for m in listed] == [
        ("two", 2, 1),
        ("one", 1, 1),
    ]


def test_unknown_name_is_refused_with_near_ones(make_card: Make, make_model: Make) -> None:
    names = ["dreamshaper-8", "dreamshaper-7", "sdxl-base", "zebra"]
    catalogue = Catalogue([make_card("x", *(make_model(n, f"{i}") for i, n in enumerate(names)))])
    problem = refused(ImageRequest(model="dreamshaper"), catalogue)
    assert problem.reason is Reason.UNKNOWN_MODEL
    assert problem.facts["name"] == "dreamshaper"
    assert set(problem.facts["near"].split(",")) >= {"dreamshaper-7", "dreamshaper-8"}
    far = refused(ImageRequest(model="q" * 1000), catalogue)
    assert len(far.facts["near"].split(",")) == 3  # some that there are
    assert len(str(far)) < 400


def test_pool_without_models_is_refused_as_such() -> None:
    assert refused(ImageRequest(), Catalogue([])).reason is Reason.UNKNOWN_MODEL


@pytest.mark.parametrize("field", ["width", "height"])
@pytest.mark.parametrize("pixels", [56, 1032, 520, 0])
def test_size_that_the_model_cannot_draw_is_refused(
    field: str, pixels: int, make_card: Make, make_model: Make
) -> None:
    catalogue = Catalogue([make_card("x", make_model(multiple_of=64))])
    problem = refused(ImageRequest(**{field: pixels}), catalogue)
    assert (problem.reason, problem.facts["field"]) == (Reason.INVALID_REQUEST, field)
    assert problem.facts["allowed"] == "a multiple of 64 from 64 to 1024"


@pytest.mark.parametrize(
    ("field", "value", "allowed"),
    [("sampler", "LMS", "DDIM, Euler"), ("schedule", "beta", "automatic, karras")],
)
def test_sampler_or_schedule_that_no_card_has_is_refused_with_those_there_are(
    field: str, value: str, allowed: str, make_card: Make
) -> None:
    problem = refused(ImageRequest(**{field: value}), Catalogue([make_card()]))
    assert (problem.reason, problem.facts["field"]) == (Reason.INVALID_REQUEST, field)
    assert problem.facts["allowed"] == allowed


def test_schedule_that_only_another_sampler_runs_with_is_refused(make_card: Make) -> None:
    catalogue = Catalogue(
        [
            make_card("x", samplers=["Euler"], schedules=["automatic", "karras"]),
            make_card("y", samplers=["DDIM"], schedules=["automatic"]),
        ]
    )
    problem = refused(ImageRequest(sampler="DDIM", schedule="karras"), catalogue)
    assert (problem.reason, problem.facts["field"]) == (Reason.INVALID_REQUEST, "schedule")
    assert problem.facts["allowed"] == "automatic"


def test_what_is_resolved_can_be_run_by_one_card_at_least(make_card: Make) -> None:
    cards = [
        make_card("x", samplers=["Euler", "DDIM"], schedules=["automatic"]),
        make_card("y", samplers=["DDIM"], schedules=["automatic", "karras"]),
    ]
    for sampler in ("", "Euler", "DDIM"):
        for schedule in ("", "automatic", "karras"):
            try:
                request = resolve(
                    ImageRequest(sampler=sampler, schedule=schedule), Catalogue(cards)
                )
            except Problem:
                assert schedule == "karras"
                assert sampler != "DDIM"
                continue
            need = (request.model_sha256, request.sampler, request.schedule)
            assert any(offers(card, *need) for card in cards)


def test_card_that_is_away_counts_for_what_can_be_run(make_card: Make) -> None:
    assert resolve(ImageRequest(), Catalogue([make_card()], frozenset())).model == "dream"


def test_card_without_the_model_the_sampler_or_the_schedule_does_not_offer_it(
    make_card: Make, make_model: Make
) -> None:
    need = (make_model().sha256, "Euler", "automatic")
    assert offers(make_card(), *need)
    assert not offers(make_card("c", make_model("other")), *need)
    assert not offers(make_card(samplers=[]), *need)
    assert not offers(make_card(schedules=[]), *need)
