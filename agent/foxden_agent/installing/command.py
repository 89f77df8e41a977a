"""`foxden engine`: install, show or remove what draws the pictures."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from foxden_agent.progress_line import ProgressLine
from foxden_proto.home import home

if TYPE_CHECKING:
    from foxden_agent.installing.environment import EngineInstaller, InstallPlan, Progress

_DONE, _FAILED, _WRONG_CALL, _INTERRUPTED = 0, 1, 2, 130  # exit codes, as `foxden` has them


class EngineCommand:
    """The command as the `foxden` program plugs it in."""

    def configure(self, parser: argparse.ArgumentParser) -> None:
        actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
        install = actions.add_parser("install", help="download torch for this card, and try it")
        install.add_argument("--yes", action="store_true", help="don't ask before downloading")
        install.add_argument("--cpu", action="store_true", help="draw on the processor")
        install.add_argument("--dry-run", action="store_true", help="say what would be done")
        install.add_argument("--wheel", type=Path, metavar="FILE", help=argparse.SUPPRESS)
        actions.add_parser("status", help="what is installed, and how big it is")
        remove = actions.add_parser("remove", help="remove it, with everything it downloaded")
        remove.add_argument("--yes", action="store_true", help="don't ask")

    def run(self, args: argparse.Namespace) -> int:
        from foxden_agent.installing.environment import EngineInstaller
        from foxden_agent.installing.uv_run import InstallFailed

        installer = EngineInstaller(home(args.home), wheel=getattr(args, "wheel", None))
        try:
            if args.action == "status":
                return _status(installer, args)
            if args.action == "remove":
                return _remove(installer, args)
            return _install(installer, args)
        except InstallFailed as error:
            told = {"what": error.what, "advice": error.advice, "again": error.again}
            return _problem(args, str(error), told)
        except KeyboardInterrupt:
            print("\nStopped. The next call goes on with what is complete.", file=sys.stderr)
            return _INTERRUPTED


COMMAND = EngineCommand()


def size_text(count: int, *, exact: bool = True) -> str:
    """Bytes for people: "191 MB", "about 2.7 GB"."""
    text = f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"
    return text if exact else f"about {text}"


def _install(installer: EngineInstaller, args: argparse.Namespace) -> int:
    from foxden_agent.installing.torch_builds import Refusal

    plan = installer.plan(processor_only=args.cpu)
    if isinstance(plan, Refusal):
        told = {"what": plan.reason, "advice": plan.advice, "again": False}
        return _problem(args, f"{plan.reason} {plan.advice}", told)
    if not args.json:
        print(plan_text(plan))
    if args.dry_run:
        return _answer(args, {"plan": _plan_json(plan)})
    if not args.yes and not _agreed(args, "Download and install it?"):
        return _FAILED
    line = ProgressLine((44, 22), quiet=args.json)

    def show(told: Progress) -> None:
        size = f"{size_text(told.done)} of {size_text(told.total)}"
        line.show(f"[{told.step}/{told.steps}] {told.text}", size)

    status = installer.install(plan, show)
    line.close()
    if not args.json:
        print(f"The engine is ready: torch {status.torch}, diffusers {status.diffusers}.")
    return _answer(args, {"plan": _plan_json(plan), "status": asdict(status)})


def plan_text(plan: InstallPlan) -> str:
    """What the owner reads before anything is downloaded."""
    download = size_text(plan.download, exact=plan.exact)
    disk = size_text(plan.disk, exact=False)
    return (
        f"{plan.build.reason}\n"
        f"This needs {plan.name}: {download} to download, {disk} on disk "
        f"({size_text(plan.free)} are free)."
    )


def _status(installer: EngineInstaller, args: argparse.Namespace) -> int:
    status = installer.status()
    if args.json:
        return _answer(args, asdict(status))
    if not status.python:
        print("The engine isn't installed yet: run `foxden engine install`.")
    elif status.broken:
        print(f"The engine is broken: {status.broken}.")
    else:
        cards = f"{status.usable_cards} card(s)" if status.usable_cards else "the processor"
        print(f"torch {status.torch}, diffusers {status.diffusers}, for {cards}.")
    print(f"On disk: {size_text(status.bytes)}.")
    return _DONE


def _remove(installer: EngineInstaller, args: argparse.Namespace) -> int:
    if not args.yes and not _agreed(args, "Remove the engine and everything it downloaded?"):
        return _FAILED
    freed = installer.remove()
    if not args.json:
        print(f"Removed: {size_text(freed)}.")
    return _answer(args, {"freed": freed})


def _agreed(args: argparse.Namespace, question: str) -> bool:
    if args.json or not sys.stdin or not sys.stdin.isatty():
        _problem(args, "Nobody is there to ask: give --yes.", {"what": "not agreed"})
        return False
    return input(f"{question} [y/N] ").strip().lower() in ("y", "yes")


def _plan_json(plan: InstallPlan) -> dict[str, Any]:
    return {**asdict(plan), "fits": plan.fits}


def _answer(args: argparse.Namespace, told: dict[str, Any]) -> int:
    if args.json:
        print(json.dumps(told))
    return _DONE


def _problem(args: argparse.Namespace, text: str, told: dict[str, Any]) -> int:
    if args.json:
        print(json.dumps({"error": {"code": "EngineInstall", "message": text, **told}}))
    else:
        print(text, file=sys.stderr)
    return _FAILED
