"""`foxden service`: what autostart runs. It keeps the agent running, and brings updates in."""

from __future__ import annotations

import argparse
import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from foxden_agent import identity
from foxden_agent.updating import rounds
from foxden_agent.updating.supervising import STOP_ASKED, STOP_SECONDS, Service
from foxden_proto import logs
from foxden_proto.home import home
from foxden_proto.timers import Timers

log = logging.getLogger(__name__)

_LOCK = "service.lock"  # in the home folder
_LOOK_SECONDS = 0.25


class ServiceCommand:
    """The command as the `foxden` program plugs it in."""

    def configure(self, parser: argparse.ArgumentParser) -> None:
        add = parser.add_argument
        text = "address of a release.json to look at instead of Foxden's own; off: no updates"
        add("--updates", default="", metavar="URL", help=text)
        add("--stop", action="store_true", help="end the one that runs, and wait for its end")
        add("agent", nargs="*", metavar="-- OPTION", help="the agent's options: see foxden agent")

    def run(self, args: argparse.Namespace) -> int:
        folder = home(args.home)
        if args.stop:
            return stop(folder)
        logs.set_up(file=folder / "logs" / "service.log")
        try:
            source = rounds.Source.of_this_program(args.updates)
        except ValueError as error:
            print(error, file=sys.stderr)
            return 2
        service = Service(folder, args.agent, source, Timers.from_environment())
        for name in ("SIGTERM", "SIGINT", "SIGHUP", "SIGBREAK"):
            if (number := getattr(signal, name, None)) is not None:
                signal.signal(number, lambda number, frame: service.stop())
        taken = identity.HomeInUse(f"Foxden runs for {folder} already.")
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            with identity.locked(folder / _LOCK, taken):
                again = service.run()
        except identity.HomeInUse as error:
            print(error, file=sys.stderr)
            return 1
        if again is not None:  # as the new version, with the same words
            _become(again)
        return 0


COMMAND = ServiceCommand()


def stop(folder: Path) -> int:
    """Ask the service of this home to end, and wait for it: what replaces its files does so first.
    0 where none runs any more."""
    mark = folder / STOP_ASKED
    free = identity.HomeInUse("still there")
    deadline = time.monotonic() + 2 * STOP_SECONDS
    while folder.exists() and time.monotonic() < deadline:
        try:
            with identity.locked(folder / _LOCK, free):
                mark.unlink(missing_ok=True)
                return 0
        except identity.HomeInUse:
            mark.touch()
            time.sleep(_LOOK_SECONDS)
        except OSError:  # no folder, no service
            return 0
    if folder.exists():
        print("Foxden's service does not end: end it by hand.", file=sys.stderr)
        return 1
    return 0


def _become(program: Path) -> None:
    """Go on as another program with the same words; on Windows as a new process."""
    words = [str(program), *sys.argv[1:]]
    log.info("the service goes on as %s", program)
    if sys.platform == "win32":
        subprocess.Popen(words, creationflags=subprocess.DETACHED_PROCESS)
    else:
        os.execv(program, words)  # noqa: S606 -- our own next version
