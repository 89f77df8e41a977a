"""`foxden join LINK` and `foxden leave`: lend this machine's cards to a pool, or stop it."""

from __future__ import annotations

import argparse
import asyncio
import json
import platform
import sys
from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from foxden_proto.home import home

if TYPE_CHECKING:
    from foxden_agent.joining import JoinError, Left, Terms

# Exit codes, as `foxden` has them.
_DONE, _FAILED, _WRONG_CALL, _UNREACHABLE, _REFUSED, _INTERRUPTED = 0, 1, 2, 3, 4, 130

_LINE_CHARACTERS = 10_000  # of what is read; a link has fewer


class JoinCommand:
    """`foxden join`: look at the link, show the terms, ask, enrol."""

    def configure(self, parser: argparse.ArgumentParser) -> None:
        add = parser.add_argument
        text = "what your administrator gave you: foxden://…/join/…; -: read from standard input, "
        add("link", help=f"{text}so that no list of processes shows it")
        add("--yes", action="store_true", help="agree to the terms without being asked")
        text = "the agent fetches what it draws with (some GB) by itself, while no game runs"
        add("--fetch-engine", action="store_true", help=text)
        add("--name", default="", help="what people see (the machine's name)")

    def run(self, args: argparse.Namespace) -> int:
        return _guarded(args, lambda: _join(args))


class LeaveCommand:
    """`foxden leave`: tell the broker, delete key and entry."""

    def configure(self, parser: argparse.ArgumentParser) -> None:
        text = "which one, if there are several: its account, name or broker"
        parser.add_argument("pool", nargs="?", default="", help=text)
        text = "all of them; none is no error (what the uninstallers call)"
        parser.add_argument("--all", action="store_true", help=text)

    def run(self, args: argparse.Namespace) -> int:
        return _guarded(args, lambda: _leave(args))


JOIN, LEAVE = JoinCommand(), LeaveCommand()


def _guarded(args: argparse.Namespace, do: Callable[[], int]) -> int:
    from foxden_agent.identity import HomeInUse
    from foxden_agent.joining import JoinError

    try:
        return do()
    except JoinError as error:
        return _report(args, type(error).__name__, str(error), _code(error))
    except HomeInUse as error:
        return _report(args, "HomeInUse", str(error), _FAILED)
    except KeyboardInterrupt:
        return _report(args, "Interrupted", "interrupted: the same again goes on", _INTERRUPTED)
    except OSError as error:
        text = f"{_folder(args)} cannot be written ({error.strerror or error}): choose another home"
        return _report(args, "OSError", f"{text} with --home.", _FAILED)


def _join(args: argparse.Namespace) -> int:
    from foxden_agent import joining

    link = _from_input() if args.link == "-" else args.link
    cards = _cards()
    known = joining.known(_folder(args), link)  # he has agreed; its link may be over by now
    terms = asyncio.run(joining.look(link)) if known is None else None
    if terms is not None and not args.yes:
        if args.json or not sys.stdin.isatty():
            text = "Nobody can be asked here: add --yes to agree to the terms of the pool."
            return _report(args, "NotAsked", text, _WRONG_CALL)
        print(_terms(terms, args.name or platform.node(), cards), flush=True)
        if input("Join? [y/N] ").strip().lower() not in ("y", "yes"):
            print("Nothing was joined, and the link is not used up.")
            return _FAILED
    joining_it = joining.join(
        *(_folder(args), link),
        name=args.name,
        cards=cards,
        fetch_engine=args.fetch_engine,
    )
    joined = asyncio.run(joining_it)
    pool = joined.pool
    if args.json:
        told = {"pool": asdict(pool), "pending": joined.pending, "again": joined.again}
        print(json.dumps(told), flush=True)
        return _DONE
    if pool.key_remark:
        where = _folder(args) / "keys"
        print(f"This machine's key is in a file in {where} that only you can read: the system's")
        print(f"keyring {pool.key_remark}.")
    what = "This machine was in" if joined.again else "This machine is in"
    print(f"{what} {pool.title}, as {pool.agent_id}.")
    if joined.pending:
        print("It waits for its administrator's yes, and goes online by itself after it.")
    print("Serve it with `foxden agent`; one that runs has noticed by now. `foxden leave` ends it.")
    return _DONE


def _from_input() -> str:
    if sys.stdin.isatty():
        print("Join link: ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline(_LINE_CHARACTERS).strip()


def _terms(terms: Terms, machine: str, cards: list[str]) -> str:
    ends = datetime.fromtimestamp(terms.expires_ms / 1000, UTC).astimezone()
    until = ends.strftime("%Y-%m-%d %H:%M")
    lines = [
        f"Pool      {terms.account_name or terms.account_id} ({terms.account_id})",
        f"Broker    {terms.broker}, known by {terms.known_by}",
        f"Machine   {machine}: {', '.join(cards) or 'its processor'}",
        f"The link works until {until}.",
        "",
        "What the pool may do:",
        *(f"  - {line}" for line in terms.may),
        "What it can't:",
        *(f"  - {line}" for line in terms.never),
    ]
    if terms.approve:
        lines += ["", "Its administrator has to say yes to this machine before it gets work."]
    return "\n".join(lines)


def _leave(args: argparse.Namespace) -> int:
    from foxden_agent import joining

    if args.all:
        return _leave_all(args)
    left = asyncio.run(joining.leave(_folder(args), args.pool))
    if args.json:
        print(json.dumps(_left_json(left)), flush=True)
    else:
        _print_left(left)
    return _DONE


def _leave_all(args: argparse.Namespace) -> int:
    from foxden_agent import joining

    if args.pool:
        text = f"Either --all or {args.pool}: say which is meant."
        return _report(args, "WrongCall", text, _WRONG_CALL)
    every = asyncio.run(joining.leave_all(_folder(args)))
    if args.json:
        print(json.dumps({"left": [_left_json(left) for left in every]}), flush=True)
    else:
        for left in every:
            _print_left(left)
    return _DONE


def _left_json(left: Left) -> dict[str, Any]:
    told = {"pool": asdict(left.pool), "broker_told": left.broker_told}
    return told | {"problems": left.problems}


def _print_left(left: Left) -> None:
    print(f"This machine has left {left.pool.title}.")
    for problem in left.problems:
        print(problem, file=sys.stderr)


def _cards() -> list[str]:
    """The names of this machine's cards, without an engine; empty where there is no driver."""
    from foxden_agent.watching.nvml import ask_driver

    return [name for name, _, _ in ask_driver().cards]


def _folder(args: argparse.Namespace) -> Path:
    return home(args.home) / "agent"


def _code(error: JoinError) -> int:
    from foxden_agent import joining

    match error:
        case joining.BadLink() | joining.NoSuchPool():
            return _WRONG_CALL
        case joining.BrokerUnreachable():
            return _UNREACHABLE
        case joining.WrongBroker() | joining.LinkRefused():
            return _REFUSED
    return _FAILED


def _report(args: argparse.Namespace, kind: str, message: str, code: int) -> int:
    print(f"foxden: {message}", file=sys.stderr)
    if args.json:
        told: dict[str, Any] = {"error": {"type": kind, "message": message}}
        print(json.dumps(told), flush=True)
    return code
