"""`foxden page`: open the owner's page in the browser, or say where it is."""

from __future__ import annotations

import argparse
import json
import os
import sys
import webbrowser
from collections.abc import Mapping

from foxden_agent.page.call import NoPage, PageCalls
from foxden_proto.home import home


class PageCommand:
    """The command as the `foxden` program plugs it in."""

    def configure(self, parser: argparse.ArgumentParser) -> None:
        text = "print the address and open nothing; it lets one browser in, for half a minute"
        parser.add_argument("--print", dest="printed", action="store_true", help=text)

    def run(self, args: argparse.Namespace) -> int:
        try:
            address = PageCalls(home(args.home) / "agent").address()
        except NoPage as error:
            print(f"foxden: {error}", file=sys.stderr)
            if args.json:
                told = {"error": {"type": "NoPage", "message": str(error)}}
                print(json.dumps(told), flush=True)
            return 1
        if args.json:
            print(json.dumps({"address": address}), flush=True)
        elif args.printed or not opened(address):
            print(f"Open this within half a minute, in a browser of this PC:\n{address}")
        else:
            print("Your page is open in the browser.")
        return 0


PAGE = PageCommand()


def opened(address: str) -> bool:
    """Open it in the owner's browser. False where there is no screen, or no browser."""
    if not has_screen(os.environ, sys.platform):
        return False  # what is left then are text browsers, which would take over this terminal
    try:
        return webbrowser.open(address)
    except (webbrowser.Error, OSError):
        return False


def has_screen(environment: Mapping[str, str], system: str) -> bool:
    """Whether there is a screen to show something on. Pure."""
    if system in ("win32", "darwin"):
        return True
    return bool(environment.get("DISPLAY") or environment.get("WAYLAND_DISPLAY"))
