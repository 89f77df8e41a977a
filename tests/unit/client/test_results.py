"""Pictures and results: what they know and how they save and show themselves."""

from __future__ import annotations

import dataclasses
import hashlib
import subprocess
import sys

import pytest
from PIL import Image

from foxden.results import Picture, Result


@pytest.fixture
def picture(say):
    return made(say, 0)


def made(say, index: int) -> Picture:
    data = say.png(7 + index)
    return Picture(
        index=index,
        seed=7 + index,
        width=16,
        height=16,
        card="kitchen <pc>",
        model="demo",
        seconds=0.5,
        job_id="job-1",
        sha256=hashlib.sha256(data).hexdigest(),
        data=data,
    )


def test_a_picture_knows_its_image_and_its_infotext(picture):
    assert picture.image.size == (16, 16)
    assert picture.image is picture.image
    assert picture.infotext == "a fox\nSteps: 2, Seed: 7"
    assert picture._repr_png_() == picture.data
    assert "data" not in repr(picture)
    with pytest.raises(dataclasses.FrozenInstanceError):
        picture.seed = 8


def test_a_png_is_saved_as_the_card_wrote_it_and_with_usual_rights(picture, tmp_path):
    path = picture.save(tmp_path / "cube.png")
    (tmp_path / "usual").touch()
    assert path.read_bytes() == picture.data
    assert path.stat().st_mode == (tmp_path / "usual").stat().st_mode
    assert sorted(file.name for file in tmp_path.iterdir() if file.is_file()) == [
        "cube.png",
        "usual",
    ]


def test_another_suffix_is_encoded(picture, tmp_path):
    with Image.open(picture.save(tmp_path / "cube.jpg")) as image:
        assert image.format == "JPEG"


def test_an_unknown_suffix_leaves_nothing_behind(picture, tmp_path):
    with pytest.raises(ValueError, match=r"use \.png"):
        picture.save(tmp_path / "cube.unknown")
    assert not [file for file in tmp_path.iterdir() if file.is_file()]


def test_a_result_is_a_sequence_by_index_that_shows_itself(say):
    result = Result("job-1", [made(say, 1), made(say, 0)])
    assert [picture.index for picture in result] == [0, 1]
    assert (len(result), result[0].seed, result[-1].seed) == (2, 7, 8)
    assert result.image.size == (16, 16)
    page = result._repr_html_()
    assert page.count("<img") == 2
    assert "kitchen &lt;pc&gt;" in page


def test_importing_foxden_brings_no_heavy_package():
    program = "import sys, foxden; print(*sorted(m.split('.')[0] for m in sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    loaded = set(done.stdout.split())
    assert not loaded & {"grpc", "google", "PIL", "rich", "torch", "sqlalchemy", "starlette"}
    program = "import sys, foxden; foxden.Client; print(*(m.split('.')[0] for m in sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    loaded = set(done.stdout.split())
    assert "grpc" in loaded
    assert not loaded & {"PIL", "rich", "torch", "sqlalchemy", "starlette"}
