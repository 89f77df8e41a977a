"""`foxden tray`: the icon in the tray, until the agent ends. The agent starts it by itself."""

from __future__ import annotations

import argparse
import locale
import sys

from foxden_agent.tray.program import NoTray, run
from foxden_proto.home import home


class TrayCommand:
    """The command as the `foxden` program plugs it in."""

    def configure(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--supervised", action="store_true", help=argparse.SUPPRESS)

    def run(self, args: argparse.Namespace) -> int:
        language = (locale.getlocale()[0] or "en").partition("_")[0].lower()
        try:
            run(home(args.home) / "agent", language, supervised=args.supervised)
        except NoTray as error:
            # To whoever started it: the agent has this as the reason in its log.
            print(error, file=sys.stdout if args.supervised else sys.stderr, flush=True)
            return 1
        except KeyboardInterrupt:
            return 130
        except Exception as error:  # noqa: BLE001 - GTK's and X's libraries raise what they like
            out = sys.stdout if args.supervised else sys.stderr
            print(f"it failed ({type(error).__name__}: {error})", file=out, flush=True)
            return 1
        if args.supervised:
            print("it was hidden, or the agent has ended", flush=True)
        return 0


TRAY = TrayCommand()
