"""The main job on real parts: SDK, broker, agent, engine, diffusers, and a picture back."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from pictures import matches_prompt
from PIL import Image

import foxden
from foxden import events

pytestmark = [pytest.mark.system, pytest.mark.engine]

PROMPT = "a red cube on a blue background"
RECIPE = Path(__file__).parents[2] / "packaging" / "demo_model"
CHECKED = json.loads((RECIPE / "checked_prompts.json").read_text())


def test_generate_draws_what_the_prompt_says(calm_pool, tmp_path: Path):
    result = calm_pool.client().generate(PROMPT, seed=7, progress=False)

    assert len(result) == 1
    picture = result[0]
    assert matches_prompt(picture.image)
    assert (picture.width, picture.height) == (64, 64) == picture.image.size
    assert picture.seed == 7
    assert picture.model == "foxden-demo"
    assert picture.card.endswith("in one")
    assert 0 < picture.seconds < 60
    assert picture.infotext.startswith(PROMPT + "\n")
    assert "Seed: 7" in picture.infotext
    picture.save(tmp_path / "cube.png")
    assert matches_prompt(Image.open(tmp_path / "cube.png"))


@pytest.mark.parametrize("checked", CHECKED["checked"], ids=lambda checked: checked["prompt"])
def test_prompts_that_a_person_checked_keep_their_colours(calm_pool, checked):
    image = calm_pool.client().generate(checked["prompt"], seed=checked["seed"], progress=False)[0]
    pixels = image.image.convert("RGB").resize((16, 16), Image.Resampling.BOX)
    for name, at in (("corner_rgb", (0, 0)), ("centre_rgb", (8, 8))):
        if name in checked:
            apart = [abs(a - b) for a, b in zip(pixels.getpixel(at), checked[name], strict=True)]
            assert max(apart) <= 35, (name, pixels.getpixel(at), checked[name])


def test_the_same_seed_gives_the_same_bytes_and_image_i_has_seed_plus_i(calm_pool):
    client = calm_pool.client()

    three = client.generate(PROMPT, count=3, seed=40, progress=False)
    alone = client.generate(PROMPT, seed=42, progress=False)

    assert [picture.seed for picture in three] == [40, 41, 42]
    assert three[2].sha256 == alone[0].sha256
    assert len({picture.sha256 for picture in three}) == 3


def test_events_come_in_order_and_progress_reaches_the_last_step(calm_pool):
    job = calm_pool.client().submit("a yellow star on a black background", count=2, steps=12)

    seen = list(job.watch())

    for index in (0, 1):
        mine = [e for e in seen if getattr(e, "index", None) == index]
        kinds = [type(e) for e in mine]
        assert kinds[0] is events.Started
        assert kinds[-1] is events.PictureReady
        steps = [e.step for e in mine if isinstance(e, events.Progress)]
        assert steps == sorted(steps)
        assert steps[-1] == 12
    assert isinstance(seen[-1], events.Done)


def test_a_job_can_be_fetched_again_by_its_id(calm_pool):
    first = calm_pool.client().generate(PROMPT, count=2, seed=1, progress=False)

    again = calm_pool.client().get(first.job_id).result()

    assert [p.sha256 for p in again] == [p.sha256 for p in first]
    assert first.job_id in [job.id for job in calm_pool.client().jobs(state="done")]


def test_every_parameter_reaches_the_picture(calm_pool):
    result = calm_pool.client().generate(
        "a green circle on a white background",
        negative_prompt="red",
        steps=8,
        sampler="DPM++ 2M SDE",
        schedule="exponential",
        guidance_scale=4.5,
        width=96,
        height=64,
        seed=5,
        model="foxden-demo",
        priority="interactive",
        progress=False,
    )

    text = result[0].infotext
    assert result.image.size == (96, 64)
    assert "Negative prompt: red" in text
    for part in ("Steps: 8", "Sampler: DPM++ 2M SDE", "CFG scale: 4.5", "Size: 96x64"):
        assert part in text


def test_a_member_sees_only_its_own_jobs_and_an_administrator_all(calm_pool):
    admin = calm_pool.client()
    ann = calm_pool.client(admin.create_token("ann", ["generate"]).secret)
    bob = calm_pool.client(admin.create_token("bob", ["generate"]).secret)

    mine = ann.generate(PROMPT, seed=3, progress=False)

    assert [job.id for job in ann.jobs()] == [mine.job_id]
    assert bob.jobs() == []
    with pytest.raises(foxden.NotFound):
        bob.get(mine.job_id)
    with pytest.raises(foxden.PermissionDenied):
        bob.tokens()
    assert mine.job_id in [job.id for job in admin.jobs()]


def test_a_revoked_token_stops_working(calm_pool):
    admin = calm_pool.client()
    created = admin.create_token("guest", ["generate"])
    guest = calm_pool.client(created.secret)
    assert guest.models()

    admin.revoke_token(created.token.id)

    with pytest.raises(foxden.Unauthorized):
        guest.models()


def test_an_upload_is_accepted_once_and_garbage_sizes_are_refused(calm_pool):
    client = calm_pool.client()
    picture = Image.new("RGB", (300, 200), "green")
    data = io.BytesIO()
    picture.save(data, "PNG")

    assert client.upload(picture).startswith("up_")
    assert client.upload(data.getvalue()).startswith("up_")
    with pytest.raises(foxden.InvalidRequest):
        client.upload(b"not a picture")


async def test_the_async_client_does_the_same(calm_pool):
    async with foxden.AsyncClient(calm_pool.url, token=calm_pool.token) as client:
        result = await client.generate(PROMPT, seed=7, progress=False)
        assert matches_prompt(result.image)
        job = await client.submit(PROMPT, seed=8)
        kinds = [type(event) async for event in job.watch()]
        assert kinds[-1] is events.Done
