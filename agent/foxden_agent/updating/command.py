"""`foxden update`: is there a newer version, and what became of the last one."""

from __future__ import annotations

import argparse
import json
import sys
import time

from foxden_proto.home import home

_DONE, _FAILED, _WRONG_CALL = 0, 1, 2  # exit codes, as `foxden` has them


class UpdateCommand:
    """The command as the `foxden` program plugs it in."""

    def configure(self, parser: argparse.ArgumentParser) -> None:
        add = parser.add_argument
        add("--check", action="store_true", help="only look")
        text = "address of a release.json to look at instead of Foxden's own"
        add("--updates", default="", metavar="URL", help=text)
        parser.epilog = (
            "What is downloaded is started when nothing is drawn and no game runs; if it does not "
            "get online, the version before comes back. `foxden service` does all this by itself."
        )

    def run(self, args: argparse.Namespace) -> int:
        from foxden_agent import identity
        from foxden_agent.updating import gently, rounds
        from foxden_agent.updating.deciding import Fetch, Start
        from foxden_agent.updating.fetching import FetchFailed
        from foxden_agent.updating.looking import LOOK_ASKED
        from foxden_agent.updating.versions import Versions

        versions = Versions.of_this_program()
        if versions is None:
            return _answer(
                args,
                "not-ours",
                "This Foxden came with a package manager, or is a checkout: update it there "
                "(apt install foxden, pip install -U foxden).",
            )
        try:
            source = rounds.Source.of_this_program(args.updates)
        except ValueError as error:
            return _answer(args, "wrong-call", str(error), code=_WRONG_CALL)
        if not source.on:
            text = "Updates are off: this build carries no address or no key for them."
            return _answer(args, "off", text)
        folder = home(args.home)
        gently.this_thread()
        try:
            found = rounds.look(
                source,
                versions,
                folder,
                identity.agent_id(folder / "agent"),
                time.time(),
                asked=True,
                only_look=args.check,
            )
        except (rounds.BadRelease, rounds.BadArchive, FetchFailed, OSError) as error:
            return _answer(args, "failed", str(error), code=_FAILED)
        if isinstance(found, Start):
            (folder / LOOK_ASKED).touch()  # a service that runs takes it from here
            text = f"Foxden {found.version} is ready: it starts when nothing is drawn."
            return _answer(args, "ready", text)
        if isinstance(found, Fetch):
            size = found.file.size / 1e6
            text = f"Foxden {found.version} can be had: {size:.0f} MB."
            return _answer(args, "available", text)
        return _answer(args, "nothing", f"{found.reason} {versions.known().said}".strip())


COMMAND = UpdateCommand()


def _answer(args: argparse.Namespace, state: str, text: str, code: int = _DONE) -> int:
    if args.json:
        told = {"state": state, "text": text}
        print(json.dumps({"error": told} if code else told))
    else:
        print(text, file=sys.stderr if code else sys.stdout)
    return code
