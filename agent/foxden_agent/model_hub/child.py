"""Asks engine/hub.py, run by the engine's Python, what a hub has, and lets it fetch a model."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
from asyncio.subprocess import PIPE
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from foxden_agent.installing.environment import EngineMissing, engine_python
from foxden_agent.installing.shell import engine_environment
from foxden_agent.model_hub.choosing import Chosen
from foxden_agent.model_hub.starters import short_name
from foxden_agent.models import model_name

_LONGEST_LINE = 1024**2  # a plan names some dozens of files


class FetchFailed(Exception):
    """A model could not be fetched: what happened, and the way on.

    `again` is True where the same call may well succeed, and goes on with what is there.
    """

    def __init__(self, what: str, advice: str, *, again: bool = False) -> None:
        self.what, self.advice, self.again = what, advice, again
        super().__init__(f"{what} {advice}")


@dataclass(frozen=True)
class ModelPlan:
    """What would be fetched of a model; nothing was yet."""

    repo: str
    revision: str  # the commit that it holds for
    licence: str  # as the hub names it; may be empty
    files: tuple[Chosen, ...]

    @property
    def size(self) -> int:
        """Bytes to be fetched, and on the disk."""
        return sum(file.size for file in self.files)


@dataclass(frozen=True)
class Progress:
    """How far it is. `total` 0: not known yet."""

    doing: str
    done: int  # bytes that are there and were asked for
    total: int


def folder_of(repo: str) -> str:
    """The name of a model's folder in the model folder."""
    return model_name(short_name(repo))


async def plans(home: Path, repos: Sequence[str]) -> dict[str, ModelPlan | FetchFailed]:
    """What the hub has of these models now, by their ids. Raises FetchFailed where nobody can be
    asked at all."""
    found: dict[str, ModelPlan | FetchFailed] = {}
    async with aclosing(_lines(home, ["plan", *repos])) as lines:
        async for told in lines:
            found[told["repo"]] = _failure(told) or _plan(told["plan"])
    return found


async def fetch(
    home: Path,
    plan: ModelPlan,
    models: Path,
    facts: Mapping[str, Any],
    progress: Callable[[Progress], None],
) -> str:
    """Fetch what was planned into the model folder; returns the name of its folder there. `facts`
    go into its foxden.json. Raises FetchFailed. It can be cancelled or killed and called again."""
    words = ["fetch", plan.repo, "--revision", plan.revision, "--facts", json.dumps(dict(facts))]
    where = ["--models", str(models), "--name", folder_of(plan.repo)]
    async with aclosing(_lines(home, [*words, *where])) as lines:
        async for told in lines:
            if failure := _failure(told):
                raise failure
            if "fetched" in told:
                return str(told["fetched"])
            progress(Progress(told["doing"], told["done"], told["total"]))
    raise FetchFailed("The fetching has ended without a word.", "Try again.", again=True)


async def _lines(home: Path, words: Sequence[str]) -> AsyncGenerator[dict[str, Any]]:
    """What the child says, line by line; it is gone when this is closed. Raises FetchFailed."""
    try:
        python = engine_python(home)
    except EngineMissing as error:
        raise FetchFailed("The engine, which fetches models, isn't there.", str(error)) from None
    try:
        process = await asyncio.create_subprocess_exec(
            *(str(python), "-I", "-m", "foxden_agent.engine.hub", *words),
            stdin=PIPE,
            stdout=PIPE,
            stderr=PIPE,
            limit=_LONGEST_LINE,
            env=engine_environment(python, os.environ),
            creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),
        )
    except OSError as error:
        raise FetchFailed(
            f"The engine's Python can't be started ({error.strerror or error}).",
            "`foxden engine install` makes it anew.",
        ) from error
    assert process.stdout is not None
    assert process.stderr is not None
    complaints = asyncio.ensure_future(process.stderr.read())
    try:
        async for line in process.stdout:
            yield json.loads(line)
        if await process.wait() != 0:
            lines = (await complaints).decode(errors="replace").strip().splitlines()
            last = lines[-1][:200] if lines else "from outside"
            raise FetchFailed(
                f"What fetches models was ended ({last}).",
                "Try again: what was fetched is kept, and not fetched again.",
                again=True,
            )
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
        complaints.cancel()


def _plan(told: Mapping[str, Any]) -> ModelPlan:
    files = tuple(Chosen(**one) for one in told["files"])
    return ModelPlan(told["repo"], told["revision"], told["licence"], files)


def _failure(told: Mapping[str, Any]) -> FetchFailed | None:
    if "failed" not in told:
        return None
    why = told["failed"]
    return FetchFailed(why["what"], why["advice"], again=why["again"])
