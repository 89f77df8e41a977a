"""The demo model's scorer, judged on true drawings: it must know right from nearly right."""

import dataclasses
import random
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

torch = pytest.importorskip("torch", reason="the demo model's recipe draws with torch")

RECIPE = Path(__file__).parents[3] / "packaging" / "demo_model"
MODULES = ("scenes", "captions", "drawing", "judging")


@pytest.fixture(scope="module")
def recipe() -> Iterator[dict[str, ModuleType]]:
    """The recipe's modules; they lie in a plain folder of scripts, not in a package."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    sys.path.insert(0, str(RECIPE))
    try:
        yield {name: __import__(name) for name in MODULES}
    finally:
        sys.path.remove(str(RECIPE))
        for name in MODULES:
            sys.modules.pop(name, None)
        torch.set_num_threads(threads)


def look(recipe, spec, seed=0):
    scene = recipe["scenes"].random_scene(spec, random.Random(seed))
    return recipe["judging"].look(recipe["drawing"].render([scene])[0])


def test_every_shape_on_every_kind_of_background_is_told_apart(recipe):
    scenes = recipe["scenes"]
    colours = list(scenes.COLOURS)
    for i, shape in enumerate(scenes.SHAPES):
        colour, background = colours[i], colours[(i + 5) % 12]
        seen = look(recipe, scenes.Spec(((colour, shape),), background), seed=i)
        assert seen.background == background
        assert [(found.colour, found.shape) for found in seen.objects] == [(colour, shape)]


def test_small_and_placed_shape_is_found_where_it_is(recipe):
    spec = recipe["scenes"].Spec((("red", "star"),), "blue", size="small", position="top left")
    (found,) = look(recipe, spec).objects
    assert (found.colour, found.shape) == ("red", "star")
    assert found.x < 26
    assert found.y < 26


def test_two_things_side_by_side_are_two_objects_from_left_to_right(recipe):
    spec = recipe["scenes"].Spec((("red", "cube"), ("green", "ball")), "white", relation="and")
    seen = look(recipe, spec)
    assert [(f.colour, f.shape) for f in seen.objects] == [("red", "cube"), ("green", "ball")]


def test_an_empty_picture_has_a_background_and_nothing_on_it(recipe):
    seen = look(recipe, recipe["scenes"].Spec((), "purple"))
    assert seen == recipe["judging"].Seen("purple", ())


def test_a_ball_without_its_shading_is_a_circle(recipe):
    scenes, drawing, judging = recipe["scenes"], recipe["drawing"], recipe["judging"]
    spec = scenes.Spec((("blue", "ball"),), "white")
    scene = scenes.random_scene(spec, random.Random(3))
    flat = dataclasses.replace(scene.things[0], shape="circle")
    pictures = drawing.render([scene, dataclasses.replace(scene, things=(flat,))])
    assert [judging.look(picture).objects[0].shape for picture in pictures] == ["ball", "circle"]


@pytest.mark.parametrize("keep", ["left half", "scattered pixels"])
def test_a_broken_shape_is_no_shape(recipe, keep):
    """Half a heart, or a cross with holes all over, must not pass for what was asked."""
    scenes, drawing, judging = recipe["scenes"], recipe["drawing"], recipe["judging"]
    shape = "heart" if keep == "left half" else "cross"
    spec = scenes.Spec((("red", shape),), "white")
    picture = drawing.render([scenes.random_scene(spec, random.Random(1))])[0]
    paper = picture[:, :1, :1].expand_as(picture)
    if keep == "left half":
        picture = torch.where(torch.arange(64) < 32, picture, paper)
    else:
        holes = torch.rand(64, 64, generator=torch.Generator().manual_seed(0)) < 0.4
        picture = torch.where(holes, paper, picture)
    assert shape not in [found.shape for found in judging.look(picture).objects]


def test_every_word_of_a_caption_but_the_noise_is_one_token(recipe):
    """The tokenizer is fixed: a word it splits would have to be learned letter by letter."""
    scenes, captions = recipe["scenes"], recipe["captions"]
    folder = RECIPE.parents[1] / "agent" / "foxden_agent" / "engine" / "demo_model" / "tokenizer"
    merges = (folder / "merges.txt").read_text().split("\n")
    known = {line.replace(" ", "") for line in merges if line.endswith("</w>")} | {"a</w>"}
    rng = random.Random(0)
    for _ in range(3000):
        text = captions.random_caption(scenes.random_spec(rng), rng).lower().replace(",", " ")
        strange = {word for word in text.split() if word + "</w>" not in known}
        assert strange <= set(captions.NOISE)
