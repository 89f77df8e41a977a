"""`python -m foxden_agent`, with another program than this Python for its engine: the first
argument (engine_of_a_card.py makes one). All else is the agent's own."""

from __future__ import annotations

import sys


def main() -> int:
    sys.executable = sys.argv.pop(1)
    from foxden_agent.__main__ import main as agent

    return agent()


if __name__ == "__main__":
    sys.exit(main())
