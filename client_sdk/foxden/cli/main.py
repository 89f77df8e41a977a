"""The command `foxden`: finds the subcommand, runs it, turns errors into exit codes.

A subcommand is an object or module with `configure(parser)` and `run(args) -> int`. Those of other
packages plug in through the entry points "foxden.commands". Nothing of a subcommand is imported
before it is called, so that `foxden --help` is quick and works without the extras.
"""

from __future__ import annotations

import argparse
import importlib
import os
import signal
import sys
from collections.abc import Sequence
from importlib.metadata import EntryPoint, entry_points, version
from typing import Any, NoReturn, Protocol, cast

from foxden.cli import _output
from foxden.errors import FoxdenError

_COMMANDS = {
    "demo": "a picture from nothing, in a temporary home; then everything is shut down",
    "up": "this PC as a private endpoint, until Ctrl-C",
    "generate": "draw pictures and save them",
    "login": "remember a broker and the token for it",
    "jobs": "list, show, cancel or retry jobs",
    "cards": "the cards of the pool; cordon, drain, uncordon or forget one",
    "models": "the models of the pool",
    "tokens": "create, list or revoke tokens (needs scope admin)",
    "join-link": "a link with which machines join the pool (needs scope admin)",
    "agents": "list, approve or revoke the machines that have joined (needs scope admin)",
    "quotas": "limits of members (needs scope admin)",
    "usage": "images and card time by day and member (needs scope admin)",
    "backup": "an archive of a running broker (needs scope admin)",
    "restore": "a broker's folder from such an archive",
}
_PLUGINS = {
    "broker": "run the broker: queue, scheduler and doors",
    "agent": "look after this machine's cards for a broker",
    "doctor": "look for what keeps this PC's cards from drawing, and say what to do",
    "engine": "install, show or remove what draws the pictures",
    "fetch-model": "list models to begin with, or fetch one into the model folder",
    "join": "lend this machine's cards to the pool that made a link",
    "leave": "stop lending this machine's cards to a pool",
    "page": "open this machine's page in the browser: what its cards do, and may do",
    "pause": "keep this machine's cards for yourself for a while",
    "policy": "what this machine's cards may do, and when: show or set it",
    "resume": "end a pause of this machine's cards",
    "service": "look after the agent: start it again where it dies, and update it",
    "tray": "the icon in the tray; the agent starts it by itself",
    "update": "look for a newer Foxden, and install it",
}
_GROUP = "foxden.commands"


class Command(Protocol):
    def configure(self, parser: argparse.ArgumentParser) -> None: ...
    def run(self, args: argparse.Namespace) -> int: ...


class _WrongCall(Exception):
    """What argparse found wrong, as a sentence."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise _WrongCall(f"{message}: see `{self.prog} --help`")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # gRPC writes its own lines to stderr
    words, home, as_json = _common(list(sys.argv[1:] if argv is None else argv))
    if words == ["--version"]:
        print(version("foxden"))
        return _output.DONE
    try:
        return _run(words, home, as_json)
    except _WrongCall as error:
        return _output.report_as("WrongCall", str(error), _output.WRONG_CALL, as_json)
    except FoxdenError as error:
        return _output.report(error, as_json)
    except KeyboardInterrupt:
        return _output.report_as("Interrupted", "interrupted", _output.INTERRUPTED, as_json)
    except BrokenPipeError:  # `foxden jobs list | head`: nobody reads any more
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + getattr(signal, "SIGPIPE", 13)
    except OSError as error:
        message = f"{error.filename or 'the system'}: {error.strerror or error}"
        return _output.report_as("OSError", message, _output.FAILED, as_json)


def _run(words: list[str], home: str | None, as_json: bool) -> int:
    if home == "":
        raise _WrongCall("--home needs a folder: write --home DIR")
    plugins = {point.name: point for point in entry_points(group=_GROUP)}
    chosen = next((word for word in words if not word.startswith("-")), None)
    parser = _Parser(
        prog="foxden",
        description="Your own graphics cards as one private image endpoint.",
        epilog="Every command also takes --home DIR, the folder that holds everything a run "
        "writes (else FOXDEN_HOME), and --json for an answer that programs read.",
    )
    commands = parser.add_subparsers(metavar="COMMAND", parser_class=_Parser)
    found: Command | None = None
    for name in (*_COMMANDS, *sorted(plugins)):
        text = _COMMANDS.get(name) or _PLUGINS.get(name, "")
        sub = commands.add_parser(name, help=text, description=text)
        if name == chosen:
            found = _load(name, plugins)
            found.configure(sub)
    args = parser.parse_args(words)
    if found is None:
        parser.print_help(sys.stderr)
        return _output.WRONG_CALL
    args.home, args.json = home, as_json
    return found.run(args)


def _common(arguments: Sequence[str]) -> tuple[list[str], str | None, bool]:
    """Take --home and --json out of the arguments, wherever they stand before a `--`.

    Argparse would want them declared again at every level of subcommands, and would let an inner
    level's default overwrite what an outer one was given. Returns (the rest, home, json); home is
    "" where its value is missing.
    """
    rest: list[str] = []
    home, as_json = None, False
    words = iter(arguments)
    for word in words:
        if word == "--":
            return [*rest, word, *words], home, as_json
        if word == "--json":
            as_json = True
        elif word == "--home":
            home = next(words, "")
        elif word.startswith("--home="):
            home = word.removeprefix("--home=")
        else:
            rest.append(word)
    return rest, home, as_json


def _load(name: str, plugins: dict[str, EntryPoint]) -> Command:
    if name in _COMMANDS:
        return cast(Command, importlib.import_module(f"foxden.cli.{name.replace('-', '_')}"))
    try:
        loaded: Any = plugins[name].load()
    except ImportError as error:
        package = plugins[name].module.split(".")[0]
        # A package has several commands; its extra is named for it and not for each of them.
        extra = package.partition("foxden_")[2]
        if extra and (error.name or "").split(".")[0] == package:
            raise _WrongCall(f"this installation has no `foxden {name}`") from error
        raise _WrongCall(
            f"`foxden {name}` needs {error.name or 'a package'}, which is not installed: "
            f"run `pip install 'foxden[{extra or name}]'`"
        ) from error
    return cast(Command, loaded)
