"""`python -m foxden_agent.engine`: the child process that holds torch and one card's memory.

Its first line of stdin is the secret that every call must carry; then stdin stays open, and when
it closes the process is gone at once, so that an orphan never holds a card's memory. On stdout
it says one line, `listening ADDRESS`, before torch is imported.
"""

from __future__ import annotations

import argparse
import gc
import os
import signal
import sys
import threading
from pathlib import Path
from typing import NoReturn

# Read by the libraries when they are imported, which happens later, on the torch thread.
_ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "DIFFUSERS_DISABLE_REMOTE_CODE": "1",
    "TOKENIZERS_PARALLELISM": "false",
    # cuda:N is then the N-th card of nvidia-smi; by itself CUDA counts the fastest first.
    "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
    # OpenMP threads that wait busily for one another steal the owner's cores, and where another
    # program uses them too, every small operation waits out a scheduler's time slice: a picture
    # of the demo model took up to 100 s beside two busy processes. Sleeping at once (0) costs as
    # much again in waking up on a quiet machine. Measured on 2 cores, quiet and beside two busy
    # processes: 0.31 and 4.8 s with 10,000 spins, 0.50 and 1.0 s with 1,000, 0.87 and 0.9 s with 0.
    "GOMP_SPINCOUNT": "1000",
}


def _exit_with_parent(socket: Path | None) -> NoReturn:
    """Wait until stdin closes: the agent is gone or wants this process gone."""
    while sys.stdin.buffer.read(4096):
        pass
    if socket is not None:  # after a `kill -9` of the agent nobody else would tidy up
        try:
            socket.unlink(missing_ok=True)
            socket.parent.rmdir()
        except OSError:
            pass  # somebody else's folder, or tidied already
    # Not sys.exit: torch may be inside a kernel for seconds, and its destructors take more.
    os._exit(0)


def main() -> None:
    parser = argparse.ArgumentParser(prog="foxden_agent.engine", description=__doc__)
    parser.add_argument("--socket", type=Path, help="unix socket; without it a loopback port")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda:N")
    parser.add_argument("--low-priority", action="store_true", help="let other programs go first")
    arguments = parser.parse_args()
    from foxden_agent.engine import heap

    heap.keep()
    # What is imported stays: looking through it for garbage again and again takes a tenth of the
    # time until it is there. server.py lets the collector begin after that.
    gc.disable()
    # Ctrl-C in a terminal reaches the whole group; it is the agent's to decide what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.environ.update(_ENVIRONMENT)
    if arguments.low_priority and hasattr(os, "nice"):
        os.nice(10)
    secret = sys.stdin.buffer.readline().decode("ascii").strip()
    if not secret:
        parser.error("the first line of stdin must be the secret")
    threading.Thread(
        target=_exit_with_parent, args=(arguments.socket,), name="stdin", daemon=True
    ).start()

    from foxden_agent.engine.server import serve

    server, address = serve(arguments.socket, secret, arguments.device)
    sys.stdout.write(f"listening {address}\n")
    sys.stdout.flush()
    server.wait_for_termination()


if __name__ == "__main__":
    main()
