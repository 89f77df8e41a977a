"""Models as the first run asks for them."""

from __future__ import annotations

from pathlib import Path

import pytest
from hub_server import UNET, Hub, Repo, big_files

from foxden_agent.doctor.judging import CardFacts
from foxden_agent.installing.torch_builds import Machine
from foxden_agent.model_hub.for_page import ModelsForPage
from foxden_agent.model_hub.starters import starters
from foxden_agent.page.plugs import CannotFetch, Progress

GIB = 1024**3


def models(home: Path) -> ModelsForPage:
    cards = (CardFacts("a card", "8.6", 4 * GIB),)
    return ModelsForPage(home, home / "models", lambda: Machine("Linux", "x86_64", "", cards))


async def test_offers_x_sizes_of_the_hub_and_what_fits_the_card_first(
    hub: Hub, tmp_path: Path
) -> None:
    for one in starters()[:-1]:
        hub.repos[one.repo] = Repo(big_files(), "other")
    offers = await models(tmp_path).offers()
    assert [one.fits for one in offers] == [True, True, False, False, False]
    assert offers[0].memory == 4 * GIB
    assert {one.size // 10**6 for one in offers if not one.problem} == {8}
    assert [one.id for one in offers if one.problem] == [starters()[-1].repo]


async def test_nothing_of_the_list_to_be_had_x_one_sentence(hub: Hub, tmp_path: Path) -> None:
    hub.status["api"] = 503
    with pytest.raises(CannotFetch, match="trouble of its own"):
        await models(tmp_path).offers()


async def test_fetch_x_what_was_shown_and_then_it_is_present(hub: Hub, tmp_path: Path) -> None:
    one = starters()[0]
    hub.repos[one.repo] = Repo(big_files(), "other")
    mine = models(tmp_path)
    assert not mine.present()
    await mine.offers()
    hub.spoilt = {UNET}
    with pytest.raises(CannotFetch, match="other bytes"):
        await mine.fetch(one.repo, lambda told: None)
    assert not mine.present()
    hub.spoilt = set()
    seen: list[Progress] = []
    await mine.fetch(one.repo, seen.append)
    assert seen[-1].done == seen[-1].total
    assert mine.present()


async def test_no_engine_x_says_what_to_install(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FOXDEN_ENGINE", "installed")
    with pytest.raises(CannotFetch, match="foxden engine install"):
        await models(tmp_path).offers()
