"""The owner's own commands: `foxden pause`, `foxden resume`, `foxden policy`.

They write small files in the agent's home folder, which a running agent looks at every second: it
needs no open port, and no agent needs to run.
"""

from __future__ import annotations

import argparse
import json
import re
import secrets
import sys
import time
from pathlib import Path
from typing import Any

from foxden_agent.policy import owner_files, settings_json
from foxden_agent.policy.owner_files import BadFile
from foxden_agent.policy.settings_json import KEYS, BadValue
from foxden_agent.policy.timetable import clock_text
from foxden_agent.policy.wishes import LONGEST, Kind, Wish
from foxden_proto.home import home

_DONE, _FAILED, _WRONG_CALL = 0, 1, 2  # exit codes, as `foxden` has them
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


class PauseCommand:
    """`foxden pause`: the card is the owner's until a time, an event, or `foxden resume`."""

    def configure(self, parser: argparse.ArgumentParser) -> None:
        kinds = parser.add_mutually_exclusive_group()
        add = kinds.add_argument
        add("--for", dest="seconds", type=_seconds, metavar="TIME", help="90s, 15m, 1h or 2d")
        add("--until-restart", action="store_true", help="until the agent is started again")
        add("--until-tomorrow", action="store_true", help="until 6 in the morning")
        text = "take nothing new, and let what runs end; until `foxden resume`"
        add("--finish-current", action="store_true", help=text)
        parser.epilog = "Without any of these: until `foxden resume`."

    def run(self, args: argparse.Namespace) -> int:
        folder = _folder(args)
        wish = Wish(secrets.token_hex(8), Kind.FOREVER, made=time.time())
        fields: dict[str, Any] = {}
        if args.seconds is not None:
            fields = {"kind": Kind.FOR, "seconds": args.seconds}
        elif args.until_tomorrow:
            fields = {"kind": Kind.TOMORROW}
        elif args.finish_current:
            fields = {"kind": Kind.FINISH}
        elif args.until_restart:
            run = owner_files.last_run(folder)
            if not run:
                problem = f"No agent has run from {folder} yet: start it, or pause with --for 1h."
                return _report(args, "NoAgent", problem, _FAILED)
            fields = {"kind": Kind.RESTART, "run": run}
        if fields:
            wish = Wish(wish.wish_id, made=wish.made, **fields)
        try:
            owner_files.write_wish(folder, wish)
        except OSError as error:
            return _not_written(args, folder / owner_files.WISHES, error)
        return _answer(args, {"wish": wish.to_json(), "ends": wish.ends(None)}, _said(wish))


class ResumeCommand:
    """`foxden resume`: the end of any pause by hand."""

    def configure(self, parser: argparse.ArgumentParser) -> None:
        parser.epilog = "What `foxden policy` says, and what the machine does, still holds."

    def run(self, args: argparse.Namespace) -> int:
        folder = _folder(args)
        try:
            owner_files.write_wish(folder, None)
        except OSError as error:
            return _not_written(args, folder / owner_files.WISHES, error)
        text = "Your pause is over: the cards work as `foxden policy show` allows."
        return _answer(args, {"wish": None}, text)


class PolicyCommand:
    """`foxden policy show|set`: the owner's settings."""

    def configure(self, parser: argparse.ArgumentParser) -> None:
        actions = parser.add_subparsers(dest="action", required=True, metavar="show|set")
        actions.add_parser("show", help="every setting with its value, and what it may be")
        setting = actions.add_parser("set", help="change one; a running agent follows at once")
        setting.add_argument("key", help="as `foxden policy show` names it")
        text = "the new value; several for a list, none for an empty one"
        setting.add_argument("value", nargs="*", help=text)

    def run(self, args: argparse.Namespace) -> int:
        folder = _folder(args)
        try:
            if args.action == "set":
                value = _value(args.key, args.value)
                policy = owner_files.set_policy(folder, args.key, value)
                now = settings_json.flat(settings_json.to_json(policy))[args.key]
                return _answer(args, {args.key: now}, f"{args.key} is {_text(now)}")
            policy, bad = settings_json.read(owner_files.read_json(folder / owner_files.POLICY))
        except BadValue as error:
            return _report(args, "BadValue", str(error), _WRONG_CALL)
        except BadFile as error:
            return _report(args, "BadFile", str(error), _FAILED)
        except OSError as error:
            return _not_written(args, folder / owner_files.POLICY, error)
        values = settings_json.to_json(policy)
        problems = [str(problem) for problem in bad]
        lines = [
            f"{key:<20} {_text(value):<28} {KEYS[key].range}"
            for key, value in settings_json.flat(values).items()
        ]
        shown = {"policy": values, "problems": problems, "file": str(folder / owner_files.POLICY)}
        return _answer(args, shown, "\n".join([*lines, *problems]))


PAUSE, RESUME, POLICY = PauseCommand(), ResumeCommand(), PolicyCommand()


def _not_written(args: argparse.Namespace, path: Path, error: OSError) -> int:
    problem = (
        f"{path} cannot be written ({error.strerror or error}): what it said before still holds. "
        "See that its disk has space and its folder is yours, then say it again."
    )
    return _report(args, "NotWritten", problem, _FAILED)


def _folder(args: argparse.Namespace) -> Path:
    return home(args.home) / "agent"  # as AgentSettings.folder


def _seconds(text: str) -> float:
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd])", text.strip())
    seconds = float(found[1]) * _UNITS[found[2]] if found else 0.0
    if not 0 < seconds <= LONGEST:
        raise argparse.ArgumentTypeError(
            f"{text!r} is no time from 1s to 30d: write 90s, 15m, 1h or 2d"
        )
    return seconds


def _said(wish: Wish) -> str:
    match wish.kind:
        case Kind.FINISH:
            return "What runs goes on to its end, and nothing new is taken until `foxden resume`."
        case Kind.RESTART:
            return "Paused until the agent is started again, or `foxden resume`."
        case Kind.FOREVER:
            return "Paused until `foxden resume`."
    ends = wish.ends(None)
    assert ends is not None
    return f"Paused until {clock_text(ends, None, seen_at=wish.made)}, or `foxden resume`."


def _value(key: str, words: list[str]) -> Any:
    """The value as JSON would have it: words of a list, else a number, true, false or a text."""
    if key in KEYS and KEYS[key].is_list:
        return words
    if len(words) != 1:
        raise BadValue(f"{key} takes one value, not {len(words)}")
    try:
        return json.loads(words[0])
    except ValueError:
        return words[0]


def _text(value: Any) -> str:
    if isinstance(value, list):
        return "; ".join(value) or "-"
    return f"{value:g}" if isinstance(value, float) else json.dumps(value).strip('"')


def _answer(args: argparse.Namespace, value: dict[str, Any], text: str) -> int:
    print(json.dumps(value) if args.json else text, flush=True)
    return _DONE


def _report(args: argparse.Namespace, kind: str, message: str, code: int) -> int:
    print(f"foxden: {message}", file=sys.stderr)
    if args.json:
        print(json.dumps({"error": {"type": kind, "message": message}}), flush=True)
    return code
