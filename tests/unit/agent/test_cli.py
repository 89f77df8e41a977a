"""What `foxden agent` and `foxden up` take on their command lines."""

from __future__ import annotations

import argparse

import pytest

from foxden_agent.cli import COMMAND
from foxden_proto import arguments


def agent(*arguments: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser(exit_on_error=False)
    COMMAND.configure(parser)
    return parser.parse_args(["--broker", "foxden://here", *arguments])


@pytest.mark.parametrize(("given", "minutes"), [([], 10), (["2.5"], 2.5), (["0"], 0)])
def test_idle_unload_is_told_in_minutes(given: list[str], minutes: float) -> None:
    option = ["--idle-unload"] if given else []
    assert agent(*option, *given).idle_unload == minutes


@pytest.mark.parametrize("text", ["-1", "soon", "nan", "inf", "10001"])
def test_idle_unload_of_no_time_is_refused_in_words(text: str) -> None:
    with pytest.raises(argparse.ArgumentError, match="minutes"):
        agent(f"--idle-unload={text}")


def test_budget_that_up_takes_its_agent_takes() -> None:
    for text in ("0.5", "6.5", "1024"):
        given = f"{arguments.gigabytes(text):g}"
        assert agent("--vram-budget", given).vram_budget == float(text) * 1024**3
    for text in ("0.4", "1025", "all", "nan"):
        with pytest.raises(argparse.ArgumentTypeError, match="GB"):
            arguments.gigabytes(text)
