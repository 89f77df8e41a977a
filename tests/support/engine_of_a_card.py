"""The real engine on the processor, that says it is the card cuda:0: with the stand-in NVML, what a
driver does to a card can be played to a real agent that really draws.

The file that ENGINE_STATE names may say `dead`: then it ends before it listens, as after a driver's
update, or `deadly`: then each batch ends it.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

# A card on which everything is computed in float32, as on a processor: to the same bytes.
NAME = "NVIDIA GeForce GTX 1650"
MEMORY = 4 * 1024**3
DEAD = 7


def install(folder: Path) -> Path:
    """A program to be started instead of Python (sys.executable)."""
    folder.mkdir(exist_ok=True)
    (folder / "state").write_text("well")
    program = folder / "python"
    program.write_text(
        f"#!/bin/sh\nENGINE_STATE='{folder}/state' exec '{sys.executable}' '{__file__}' \"$@\"\n"
    )
    program.chmod(0o700)
    return program


def main() -> None:
    from foxden_agent.engine import __main__ as program
    from foxden_agent.engine import server

    state = Path(os.environ["ENGINE_STATE"])
    if state.read_text() == "dead":
        sys.exit(DEAD)
    sys.argv = ["foxden_agent.engine", *sys.argv[sys.argv.index("foxden_agent.engine") + 1 :]]
    really = server._import_engine

    def on_the_processor(device: str) -> Any:
        engine, described = really("cpu")
        described.device.device = "cuda:0"
        described.device.name = NAME
        described.device.memory_total = MEMORY
        generate = engine.generate

        def generate_or_die(*args: Any, **named: Any) -> Any:
            if state.read_text() == "deadly":
                os._exit(DEAD)
            return generate(*args, **named)

        engine.generate = generate_or_die
        return engine, described

    server._import_engine = on_the_processor
    program.main()


if __name__ == "__main__":
    main()
