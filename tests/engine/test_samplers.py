"""Every sampler and schedule that is offered draws; the engine's own code in this process."""

from collections.abc import Callable
from typing import Any

import pytest

from foxden_agent.engine.samplers import samplers, schedules

pytestmark = [
    pytest.mark.engine,
    # Tens of thousands from inside diffusers' schedulers, about NumPy 2.
    pytest.mark.filterwarnings("ignore::DeprecationWarning:diffusers"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:numpy"),
]

STEPS = 8


@pytest.fixture(scope="module")
def engine() -> Any:
    from foxden_agent.engine.diffusers_engine import DiffusersEngine
    from foxden_agent.engine.server import quiet_libraries

    quiet_libraries()
    return DiffusersEngine("cpu", "test")


@pytest.fixture(autouse=True)
def _every_step_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    from foxden_agent.engine import sampler_driver

    monkeypatch.setattr(sampler_driver, "_PROGRESS_SECONDS", 0.0)


@pytest.fixture
def draw(engine: Any, drawn: Any) -> Callable[..., Any]:
    def run(batch: Any, stop: Callable[[list[Any]], set[str]] = lambda events: set()) -> Any:
        events: list[Any] = []
        engine.generate(batch, events.append, lambda: stop(events))
        return drawn(events)

    return run


def _difference(one: Any, other: Any) -> float:
    """Mean absolute difference of two pictures, of 255."""
    pairs = zip(one.tobytes(), other.tobytes(), strict=True)
    return sum(abs(a - b) for a, b in pairs) / len(one.tobytes())


@pytest.mark.parametrize("sampler", samplers())
def test_picture_shows_what_was_asked(
    sampler: str, draw: Any, make_batch: Any, red_on_blue: Any
) -> None:
    assert red_on_blue(draw(make_batch(sampler=sampler)).image())


@pytest.mark.parametrize("sampler", samplers())
def test_each_schedule_finishes_in_so_many_steps(sampler: str, draw: Any, make_batch: Any) -> None:
    for schedule in schedules(sampler):
        result = draw(make_batch(sampler=sampler, schedule=schedule, steps=4))
        assert result.steps == [1, 2, 3, 4], schedule
        assert result.pictures, schedule


@pytest.mark.parametrize("sampler", samplers())
def test_one_step_is_enough_to_finish(sampler: str, draw: Any, make_batch: Any) -> None:
    assert draw(make_batch(sampler=sampler, steps=1)).steps == [1]


@pytest.mark.parametrize("sampler", ["LCM", "TCD"])
def test_distilled_samplers_take_more_steps_than_they_were_trained_for(
    sampler: str, draw: Any, make_batch: Any
) -> None:
    assert draw(make_batch(sampler=sampler, steps=60)).steps[-1] == 60


@pytest.mark.parametrize("sampler", ["DPM++ 2M", "Euler a", "DPM++ SDE", "DPM++ 2M SDE", "LMS"])
def test_batch_of_three_draws_what_three_singles_draw(
    sampler: str, draw: Any, make_batch: Any
) -> None:
    together = draw(make_batch(3, sampler=sampler, steps=STEPS, seed=5))
    for i in range(3):
        alone = draw(make_batch(sampler=sampler, steps=STEPS, seed=5 + i))
        assert _difference(together.image(str(i)), alone.image()) <= 2.0


def test_picture_is_the_one_that_plain_diffusers_draws(
    draw: Any, make_batch: Any, engine: Any
) -> None:
    import torch
    from diffusers import DPMSolverMultistepScheduler, StableDiffusionPipeline

    request = make_batch(sampler="DPM++ 2M", schedule="karras", seed=77).items[0].request
    pipe = StableDiffusionPipeline.from_pretrained(
        make_batch().model.path, dtype=torch.float32, local_files_only=True
    )
    pipe.set_progress_bar_config(disable=True)
    pipe.scheduler = DPMSolverMultistepScheduler.from_config(
        pipe.scheduler.config, use_karras_sigmas=True, timestep_spacing="linspace"
    )
    plain = pipe(
        request.prompt,
        num_inference_steps=20,
        guidance_scale=3.0,
        width=64,
        height=64,
        generator=torch.Generator("cpu").manual_seed(77),
    ).images[0]
    ours = draw(make_batch(sampler="DPM++ 2M", schedule="karras", seed=77)).image()
    assert ours.tobytes() == plain.tobytes()


@pytest.mark.parametrize(
    ("sampler", "scheduler"), [("LCM", "LCMScheduler"), ("TCD", "TCDScheduler")]
)
def test_distilled_sampler_draws_what_plain_diffusers_draws(
    sampler: str, scheduler: str, draw: Any, make_batch: Any
) -> None:
    """Without weights distilled for it the picture says nothing to the eye."""
    import diffusers
    import torch

    batch = make_batch(sampler=sampler, steps=STEPS, seed=77)
    request = batch.items[0].request
    pipe = diffusers.StableDiffusionPipeline.from_pretrained(
        batch.model.path, dtype=torch.float32, local_files_only=True
    )
    pipe.set_progress_bar_config(disable=True)
    pipe.scheduler = getattr(diffusers, scheduler).from_config(pipe.scheduler.config)
    plain = pipe(
        request.prompt,
        num_inference_steps=STEPS,
        guidance_scale=request.guidance_scale,
        width=64,
        height=64,
        generator=torch.Generator("cpu").manual_seed(77),
    ).images[0]
    assert draw(batch).image().tobytes() == plain.tobytes()


def test_every_sampler_that_this_installation_runs_is_published(engine: Any) -> None:
    published = {offer.name: tuple(offer.schedules) for offer in engine.describe().samplers}
    assert published == {name: schedules(name) for name in samplers()}


def test_stop_takes_effect_at_the_next_step_and_nothing_is_decoded(
    engine: Any, make_batch: Any, drawn: Any
) -> None:
    from foxden_agent.engine.errors import Stopped

    events: list[Any] = []

    def stop() -> set[str]:
        return {"0"} if drawn(events).steps[-1:] == [5] else set()

    with pytest.raises(Stopped):
        engine.generate(make_batch(), events.append, stop)
    result = drawn(events)
    assert result.steps[-1] == 5
    assert result.stopped == ["0"]
    assert "decoding" not in result.stages


def test_stopped_item_of_a_batch_leaves_the_others_as_they_were(
    draw: Any, make_batch: Any, drawn: Any
) -> None:
    whole = draw(make_batch(3))
    rest = draw(make_batch(3), lambda events: {"1"} if len(drawn(events).steps) >= 5 else set())
    assert rest.stopped == ["1"]
    assert set(rest.pictures) == {"0", "2"}
    for item in ("0", "2"):
        assert rest.pictures[item].png == whole.pictures[item].png


def test_nan_is_an_error_and_not_a_black_picture(
    engine: Any, draw: Any, make_batch: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    from foxden_agent.engine.errors import BadNumbers

    draw(make_batch(steps=1))  # loads the model
    parameter = next(engine._pipe.unet.parameters())
    saved = parameter.detach().clone()
    with torch.no_grad():
        parameter.fill_(float("nan"))
    try:
        with pytest.raises(BadNumbers, match="no valid numbers"):
            draw(make_batch(steps=2))
    finally:
        with torch.no_grad():
            parameter.copy_(saved)
    assert draw(make_batch(steps=2)).pictures


def test_many_prompts_ride_in_one_batch(draw: Any, make_batch: Any, red_on_blue: Any) -> None:
    batch = make_batch(2, steps=12)
    batch.items[1].request.prompt = "a yellow ball on a black background"
    batch.items[1].request.negative_prompt = "red"
    result = draw(batch)
    assert red_on_blue(result.image("0"))
    assert sum(result.image("1").getpixel((1, 1))) < 150


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sampler": "Euler a", "schedule": "karras"}, "has no schedule 'karras'"),
        ({"sampler": ""}, "sampler is missing"),
    ],
)
def test_request_that_cannot_be_drawn_is_refused(
    draw: Any, make_batch: Any, changes: dict[str, str], message: str
) -> None:
    from foxden_agent.engine.errors import BadRequest

    with pytest.raises(BadRequest, match=message):
        draw(make_batch(**changes))
