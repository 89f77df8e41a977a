"""`python -m foxden_agent`: the agent without the rest of the `foxden` command."""

from __future__ import annotations

import argparse
import sys

from foxden_agent.cli import COMMAND


def main() -> int:
    parser = argparse.ArgumentParser(prog="foxden-agent", description=COMMAND.help)
    parser.add_argument("--home", help="folder that holds everything it writes (FOXDEN_HOME)")
    parser.add_argument("--json", action="store_true", help="print one JSON line when ready")
    COMMAND.configure(parser)
    return COMMAND.run(parser.parse_args())


if __name__ == "__main__":
    sys.exit(main())
