"""`foxden fetch-model`: what it shows before it downloads, and how it answers."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from threading import Event

import psutil
import pytest
from hub_server import UNET, Hub, Repo, big_files

from foxden_agent.model_hub import starters
from foxden_agent.model_hub.command import COMMAND
from foxden_agent.models import scan

DEMO, BIG = "foxes/tiny-demo", "foxes/many-bytes"


def run(home: Path, *words: str, as_json: bool = False) -> int:
    parser = argparse.ArgumentParser()
    COMMAND.configure(parser)
    args = parser.parse_args(list(words))
    args.home, args.json = str(home), as_json
    return COMMAND.run(args)


@pytest.fixture
def listed(hub: Hub) -> Hub:
    """The hub has all models of the list but one."""
    for one in starters.starters()[1:]:
        hub.repos[one.repo] = Repo(big_files(), "other")
    return hub


def test_without_a_name_x_the_list_with_sizes_of_the_hub_and_licences(
    listed: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(tmp_path) == 0
    told = capsys.readouterr().out
    for one in starters.starters():
        assert one.title in told
        assert one.licence in told
        assert one.good_for in told
    assert told.count("8 MB") == 4
    assert told.count("not to be had now") == 1
    assert not listed.of(".safetensors")


def test_list_as_json_x_tells_what_fits_and_which_has_a_problem(
    listed: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(tmp_path, as_json=True) == 0
    told = json.loads(capsys.readouterr().out)
    assert [one["fits"] for one in told["models"]] == [
        told["memory"] >= one["memory"] * 0.94 for one in told["models"]
    ]
    (missing,) = [one for one in told["models"] if "problem" in one]
    assert "knows no model" in missing["problem"]


def test_hub_away_x_the_reason_once_and_not_for_each_model(
    hub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    assert run(tmp_path) == 1
    assert capsys.readouterr().err.count("does not answer") == 1


def test_dry_run_x_says_size_and_licence_and_fetches_nothing(
    hub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(tmp_path, DEMO, "--dry-run") == 0
    told = capsys.readouterr().out
    assert "5 MB to download" in told
    assert "Its licence: apache-2.0" in told
    assert not (tmp_path / "models").exists()


def test_nobody_to_ask_x_refused_without_yes(
    hub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(tmp_path, DEMO) == 1
    assert "give --yes" in capsys.readouterr().err
    assert not hub.of(".safetensors")


def test_yes_x_fetched_and_said_when_it_is_offered(
    hub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    models = tmp_path / "elsewhere"
    assert run(tmp_path, DEMO, "--yes", "--models", str(models)) == 0
    said = capsys.readouterr()
    assert "An agent that runs offers it" in said.out
    assert "fetching unet/diffusion_pytorch_model.fp16.safetensors" in said.err
    (model,) = [one.model for one in scan(models, tmp_path / "h") if one.model.name == "tiny-demo"]
    assert model.licence == "apache-2.0"
    assert run(tmp_path, DEMO, "--yes", "--models", str(models)) == 0
    assert "already" in capsys.readouterr().out


def test_model_of_the_list_x_by_its_title_and_with_its_defaults(
    listed: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one = starters.starters()[-1]
    assert run(tmp_path, one.title, "--yes", as_json=True) == 0
    told = json.loads(capsys.readouterr().out)
    facts = json.loads((Path(told["folder"]) / "foxden.json").read_text())
    assert facts["licence"] == one.licence
    assert facts["default_steps"] == one.facts["default_steps"]


def test_command_is_killed_x_its_child_ends_too_and_the_next_goes_on(
    hub: Hub, tmp_path: Path
) -> None:
    hub.held[UNET] = (5_000_000, Event())
    program = [sys.executable, "-m", "foxden", "fetch-model", BIG, "--yes", "--home", str(tmp_path)]
    command = psutil.Popen(program, stderr=subprocess.DEVNULL)
    assert hub.holding.wait(60)
    children = command.children()
    command.kill()
    command.wait()
    _, alive = psutil.wait_procs(children, 5)  # before a timeout or a broken pipe would end it
    assert children
    assert not alive
    hub.held.pop(UNET)[1].set()
    assert run(tmp_path, BIG, "--yes") == 0
    assert hub.of(UNET)[-1].range != ""


@pytest.mark.parametrize(
    ("words", "part"), [("nothing-like-it", "MAKER/MODEL"), ("a/b/c", "is no model's id")]
)
def test_name_that_is_none_x_says_how_one_is_written(
    hub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: str, part: str
) -> None:
    assert run(tmp_path, words, as_json=True) == 1
    error = json.loads(capsys.readouterr().out)["error"]
    assert error["code"] == "FetchModel"
    assert part in error["message"]
