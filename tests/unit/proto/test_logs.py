"""Lines of the logs, for people and for programs."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
from tiny_disk import fill, tiny_disk

from foxden_proto import logs


@pytest.fixture
def root() -> Iterator[logging.Logger]:
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    yield root
    root.handlers[:] = before
    root.setLevel(level)


@pytest.mark.usefixtures("root")
def test_json_line_has_time_level_logger_message_and_the_fields_given() -> None:
    stream = io.StringIO()
    logs.set_up("json", stream)
    logging.getLogger("foxden.x").info("image %s done", 3, extra=logs.fields(job="j1", image=3))
    line = json.loads(stream.getvalue())
    time = line.pop("time")
    assert time.endswith("+00:00")
    assert line == {
        "level": "info",
        "logger": "foxden.x",
        "message": "image 3 done",
        "job": "j1",
        "image": 3,
    }


@pytest.mark.usefixtures("root")
def test_json_line_stays_one_line_with_a_traceback_and_strange_text() -> None:
    stream = io.StringIO()
    logs.set_up("json", stream)
    try:
        raise ValueError("two\nlines")
    except ValueError as error:
        logging.getLogger("x").error("a\nb“", exc_info=error)
    (text,) = stream.getvalue().splitlines()
    line = json.loads(text)
    assert line["message"] == "a\nb“"
    assert "ValueError: two\nlines" in line["error"]


@pytest.mark.usefixtures("root")
def test_text_line_is_for_people() -> None:
    stream = io.StringIO()
    logs.set_up("text", stream)
    logging.getLogger("x").warning("it rains", extra=logs.fields(card="c1"))
    logging.getLogger("x").debug("not this")
    (text,) = stream.getvalue().splitlines()
    assert text.endswith(" WARNING it rains")


def test_field_that_nobody_agreed_on_is_refused() -> None:
    with pytest.raises(ValueError, match="prompt"):
        logs.fields(prompt="a red cube")


@pytest.mark.usefixtures("root")
def test_log_file_is_set_aside_when_it_is_full_and_the_oldest_go(tmp_path: Path) -> None:
    path = tmp_path / "logs" / "x.log"
    handler = logs.RotatedFile(path, most_bytes=200, files=3)
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    for number in range(50):
        logging.getLogger("x").info("line %d of a log", number)
    files = sorted(path.parent.iterdir())
    assert [one.name for one in files] == ["x.log", "x.log.1", "x.log.2"]
    assert all(one.stat().st_size <= 200 for one in files)
    assert "line 49" in path.read_text()
    assert not any(one.stat().st_mode & 0o077 for one in files)


@pytest.mark.usefixtures("root")
def test_full_disk_costs_log_lines_and_says_nothing(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with tiny_disk(tmp_path / "disk") as disk:
        logs.set_up(file=disk / "x.log")
        logging.getLogger("x").info("before")
        filler = fill(disk)
        for number in range(100):
            logging.getLogger("x").info("lost %d", number)
        filler.unlink()
        logging.getLogger("x").info("after")
        text = (disk / "x.log").read_text()
        logging.getLogger().handlers[0].close()
    assert "before" in text
    assert "after" in text
    assert capfd.readouterr().err == ""
