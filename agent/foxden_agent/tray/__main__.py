"""`python -m foxden_agent.tray`: the tray without the rest of the `foxden` command."""

from __future__ import annotations

import argparse
import sys

from foxden_agent.tray.command import TRAY


def main() -> int:
    parser = argparse.ArgumentParser(prog="foxden-tray")
    parser.add_argument("--home", help="the agent's home folder (FOXDEN_HOME)")
    TRAY.configure(parser)
    return TRAY.run(parser.parse_args())


if __name__ == "__main__":
    sys.exit(main())
