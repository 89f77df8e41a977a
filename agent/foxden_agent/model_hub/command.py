"""`foxden fetch-model`: models to begin with, and how one comes into the model folder."""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from foxden_agent.installing.command import size_text
from foxden_agent.progress_line import ProgressLine
from foxden_proto.home import home

if TYPE_CHECKING:
    from foxden_agent.model_hub.child import FetchFailed, ModelPlan, Progress
    from foxden_agent.model_hub.starters import Starter

_DONE, _FAILED, _INTERRUPTED = 0, 1, 130  # exit codes, as `foxden` has them
_KEPT = "Stopped. The next call goes on with what is complete."


class FetchModelCommand:
    """The command as the `foxden` program plugs it in."""

    def configure(self, parser: argparse.ArgumentParser) -> None:
        add = parser.add_argument
        add("model", nargs="?", metavar="MODEL", help="one of the list, or an id as MAKER/MODEL")
        add("--models", type=Path, metavar="DIR", help="the model folder; else models/ in the home")
        add("--yes", action="store_true", help="don't ask before downloading")
        add("--dry-run", action="store_true", help="say what would be done")
        parser.epilog = (
            "Without MODEL: the models to begin with, and which of them fit this PC's card. "
            "HF_ENDPOINT, HF_TOKEN and proxies are those of huggingface_hub."
        )

    def run(self, args: argparse.Namespace) -> int:
        from foxden_agent.model_hub.child import FetchFailed

        try:
            return _list(args) if args.model is None else _fetch(args)
        except FetchFailed as error:
            return _problem(args, error)
        except KeyboardInterrupt:
            print(f"\n{_KEPT}", file=sys.stderr)
            return _INTERRUPTED


COMMAND = FetchModelCommand()


def _list(args: argparse.Namespace) -> int:
    from foxden_agent.installing.environment import this_machine
    from foxden_agent.model_hub import child
    from foxden_agent.model_hub.child import ModelPlan
    from foxden_agent.model_hub.starters import starters, suggested

    vram = max((card.memory_total for card in this_machine().cards), default=0)
    offered = suggested(starters(), vram)
    plans = asyncio.run(child.plans(home(args.home), [one.repo for one, _ in offered]))
    if args.json:
        told = [
            {
                **_json(one.repo, plans.get(one.repo)),
                "title": one.title,
                "good_for": one.good_for,
                "licence": one.licence,
                "memory": one.memory,
                "fits": fits,
            }
            for one, fits in offered
        ]
        print(json.dumps({"models": told, "memory": vram}))
        return _DONE
    known = [plan for plan in plans.values() if isinstance(plan, ModelPlan)]
    if not known and plans:  # then it is not about one model
        raise next(plan for plan in plans.values() if not isinstance(plan, ModelPlan))
    for one, fits in offered:
        plan = plans.get(one.repo)
        size = size_text(plan.size) if isinstance(plan, ModelPlan) else "not to be had now"
        need = f"for cards from {one.memory / 1024**3:.0f} GB"
        print(f"{one.title}  ({one.repo})")
        print(f"    {one.good_for}")
        print(f"    {size}, {need}{'' if fits else ' (yours has less)'}, {one.licence}")
    print("Fetch one with `foxden fetch-model MODEL`, or any other as MAKER/MODEL.")
    return _DONE


def _fetch(args: argparse.Namespace) -> int:
    from foxden_agent.model_hub import child
    from foxden_agent.model_hub.child import FetchFailed, folder_of
    from foxden_agent.model_hub.folder import here_already
    from foxden_agent.model_hub.starters import facts_of, named

    place = home(args.home)
    models = args.models or place / "models"
    starter = named(args.model)
    repo = starter.repo if starter else args.model
    if "/" not in repo:
        raise FetchFailed(
            f"{repo!r} is not on the list of models to begin with.",
            "`foxden fetch-model` shows them; any other is written MAKER/MODEL, as in its page's "
            "address.",
        )
    plan = asyncio.run(child.plans(place, [repo]))[repo]
    if isinstance(plan, FetchFailed):
        raise plan
    folder = models / folder_of(repo)
    here = here_already(folder, repo, plan.revision)
    if not args.json:
        print(plan_text(plan, starter, folder) if not here else f"It is in {folder} already.")
    if args.dry_run or here:
        return _answer(args, {"plan": _json(repo, plan), "folder": str(folder), "here": here})
    if not args.yes and not _agreed(args):
        return _FAILED
    line = ProgressLine((56, 20), quiet=args.json)

    def show(told: Progress) -> None:
        size = f"{size_text(told.done)} of {size_text(told.total)}" if told.total else ""
        line.show(told.doing, size)

    facts = facts_of(starter, plan.licence)
    asyncio.run(child.fetch(place, plan, models, facts, show))
    line.close()
    if not args.json:
        print(f"It is in {folder}. {NEXT}")
    return _answer(args, {"plan": _json(repo, plan), "folder": str(folder), "here": True})


NEXT = "An agent that runs offers it within moments."


def plan_text(plan: ModelPlan, starter: Starter | None, folder: Path) -> str:
    """What the owner reads before anything is downloaded."""
    title = f"{starter.title} ({plan.repo})" if starter else plan.repo
    licence = starter.licence if starter else plan.licence or "not named by its maker: see its page"
    return (
        f"{title}: {size_text(plan.size)} to download into {folder}.\n"
        f"Its licence: {licence}. It binds whoever uses it."
    )


def _agreed(args: argparse.Namespace) -> bool:
    from foxden_agent.model_hub.child import FetchFailed

    if args.json or not sys.stdin or not sys.stdin.isatty():
        raise FetchFailed("Nobody is there to ask:", "give --yes.")
    return input("Download it? [y/N] ").strip().lower() in ("y", "yes")


def _json(repo: str, plan: ModelPlan | FetchFailed | None) -> dict[str, Any]:
    from foxden_agent.model_hub.child import ModelPlan

    if not isinstance(plan, ModelPlan):
        return {"repo": repo, "problem": str(plan or "")}
    files: Sequence[dict[str, Any]] = [asdict(file) for file in plan.files]
    return {
        "repo": repo,
        "revision": plan.revision,
        "hub_licence": plan.licence,
        "size": plan.size,
        "files": files,
    }


def _answer(args: argparse.Namespace, told: dict[str, Any]) -> int:
    if args.json:
        print(json.dumps(told))
    return _DONE


def _problem(args: argparse.Namespace, error: FetchFailed) -> int:
    if args.json:
        told = {"what": error.what, "advice": error.advice, "again": error.again}
        print(json.dumps({"error": {"code": "FetchModel", "message": str(error), **told}}))
    else:
        print(error, file=sys.stderr)
    return _FAILED
