"""`foxden service`: what autostart runs. It keeps the agent running, and brings updates in.

The version that works supervises the trial of the next one: a new version that does not start, or
is not online in time, is replaced by the one before without any code of its own. Once it has proved
itself, the service too goes on as the new version.
"""

from __future__ import annotations

import argparse
import logging
import os
import queue
import random
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import IO

from foxden_agent import identity
from foxden_agent.installing.environment import EngineInstaller
from foxden_agent.updating import rounds, yielding
from foxden_agent.updating.deciding import Start
from foxden_agent.updating.fetching import FetchFailed
from foxden_agent.updating.manifest import BadRelease
from foxden_agent.updating.trial import Trial, Verdict
from foxden_agent.updating.versions import BadArchive, Versions
from foxden_proto import logs
from foxden_proto.home import home
from foxden_proto.programs import Restarts
from foxden_proto.timers import Timers

log = logging.getLogger(__name__)

_LOCK, _STOP_ASKED = "service.lock", "stop-asked"  # files in the home folder
LOOK_ASKED = "look-asked"  # another: look for updates now
_LOOK_SECONDS = 0.5
_STOP_SECONDS = 15.0  # for the agent to hand over what it draws
_FIRST_LOOK = 0.02  # of the time between looks: soon after the start, but not all at once
# Codes of an agent that no restart mends: a wrong call, a refused token. It is tried again slowly,
# since the administrator may mend it at the other end.
_HOPELESS = (2, 4)
_SLOW_SECONDS = 300.0


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
    mark = folder / _STOP_ASKED
    free = identity.HomeInUse("still there")
    deadline = time.monotonic() + 2 * _STOP_SECONDS
    while folder.exists() and time.monotonic() < deadline:
        try:
            with identity.locked(folder / _LOCK, free):
                mark.unlink(missing_ok=True)
                return 0
        except identity.HomeInUse:
            mark.touch()
            time.sleep(_LOOK_SECONDS / 2)
        except OSError:  # no folder, no service
            return 0
    if folder.exists():
        print("Foxden's service does not end: end it by hand.", file=sys.stderr)
        return 1
    return 0


class Service:
    """One agent, kept running; made by the command, ended by a signal."""

    def __init__(
        self,
        folder: Path,
        arguments: list[str],
        source: rounds.Source,
        timers: Timers,
        versions: Versions | None = None,
    ) -> None:
        self._home, self._arguments, self._source = folder, arguments, source
        self._timers = timers
        self._versions = versions or Versions.of_this_program()
        self._agent_folder = folder / "agent"
        self._process: subprocess.Popen[bytes] | None = None
        self._started = self._next_start = time.monotonic()
        self._online = threading.Event()
        self._restarts = Restarts(most=6, window=120.0)
        self._ready: queue.Queue[str] = queue.Queue()  # a version that waits to be started
        self._renew = False  # the service itself is to go on as the version that it started
        self._stop = threading.Event()

    def run(self) -> Path | None:
        """Until `stop`, then None; or the program to go on as."""
        yielding.withdraw(self._agent_folder)
        (self._home / _STOP_ASKED).unlink(missing_ok=True)
        if self._versions is not None and self._source.on:
            threading.Thread(target=self._look_for_updates, name="updates", daemon=True).start()
        try:
            while not self._stop.is_set():
                self._once(time.monotonic())
                if self._renew and self._process is None:
                    assert self._versions is not None
                    return self._versions.root / "current" / self._versions.name
                self._stop.wait(_LOOK_SECONDS)
                if (self._home / _STOP_ASKED).exists():
                    self.stop()
        finally:
            self._end_agent()
        return None

    def _once(self, now: float) -> None:
        """One round: start, look after, judge."""
        if self._process is None:
            if now >= self._next_start:
                self._start_agent(now)
            return
        code = self._process.poll()
        trial = self._versions.known().trial if self._versions else None
        if trial is not None:
            self._judge(trial, alive=code is None, now=now)
        if code is not None and self._process is not None:
            self._ended(code, now)
        elif not self._ready.empty() and self._online.is_set() and trial is None:
            yielding.ask(self._agent_folder, "an update is ready")

    def _start_agent(self, now: float) -> None:
        program = [sys.executable]
        if self._versions is not None:
            known = self._versions.known()
            if known.trial is not None:
                self._versions.remember(replace(known, trial=known.trial.started()))
            program = [str(self._versions.program(self._versions.current()))]
        log_file = self._home / "logs" / "agent.log"
        words = [*program, "-m", "foxden_agent", "--home", str(self._home), "--json"]
        words += ["--supervised", "--log-file", str(log_file), *self._arguments]
        self._online.clear()
        self._started = now
        with (self._home / "logs" / "agent.err").open("wb") as errors:
            self._process = subprocess.Popen(
                words,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),
            )
        assert self._process.stdout is not None
        reader = threading.Thread(
            target=self._read, args=(self._process.stdout, self._online), daemon=True
        )
        reader.start()
        log.info("the agent is started (%s)", program[0])

    def _read(self, stream: IO[bytes], online: threading.Event) -> None:
        """The agent says one line of JSON when its broker has welcomed it."""
        with stream:
            for line in stream:
                if line.startswith(b"{") and b"agent_id" in line:
                    log.info("the agent is online")
                    online.set()

    def _judge(self, trial: Trial, *, alive: bool, now: float) -> None:
        assert self._versions is not None
        verdict = trial.judge(
            online=self._online.is_set(),
            alive=alive,
            seconds=now - self._started,
            patience=self._timers.update_trial,
        )
        known = self._versions.known()
        if verdict is Verdict.CONFIRM:
            log.info("Foxden %s is online: it stays", trial.version)
            self._renew = True  # before the trial is over: see _look_for_updates
            said = f"updated to Foxden {trial.version}"
            self._versions.remember(replace(known, trial=None, ready="", said=said))
            self._versions.prune({trial.version, trial.previous})
            EngineInstaller(self._home).keep_only({trial.version, trial.previous})
            yielding.ask(self._agent_folder, "the service goes on as the new version")
        elif verdict is Verdict.BACK:
            log.warning("Foxden %s does not get online: back to %s", trial.version, trial.previous)
            self._end_agent()
            self._versions.switch(trial.previous)
            said = f"Foxden {trial.version} did not get online; {trial.previous} runs again"
            self._versions.remember(replace(known.is_bad(trial.version), said=said))
            self._next_start = now

    def _ended(self, code: int, now: float) -> None:
        """The agent is gone: what to start, and when."""
        self._process = None
        if code == yielding.EXIT_CODE:
            # Asked once more while it ended, the version on trial would end for it.
            yielding.withdraw(self._agent_folder)
            self._next_start = now
            if not self._renew:
                self._begin_trial()
            return
        log.warning("the agent ended with code %d: %s", code, self._last_words())
        pause = self._restarts.delay(now)
        if code in _HOPELESS or pause is None:
            pause = _SLOW_SECONDS
        self._next_start = now + pause

    def _begin_trial(self) -> None:
        if self._versions is None or self._ready.empty():
            return
        ready, previous = self._ready.get(), self._versions.current()
        log.info("Foxden %s is tried", ready)
        known = self._versions.known()
        self._versions.remember(replace(known, trial=Trial(ready, previous)))
        self._versions.switch(ready)

    def _look_for_updates(self) -> None:
        """A thread of its own: a download may take hours."""
        every = self._timers.update_check
        pause = every * _FIRST_LOOK * random.uniform(0.5, 1.5)
        while self._paused(pause):
            pause = every * random.uniform(0.8, 1.2)
            assert self._versions is not None
            busy = self._versions.known().trial is not None or not self._ready.empty()
            if busy or self._renew:  # this old service would fetch what its agent runs from by now
                continue
            try:
                who = identity.agent_id(self._agent_folder)
                found = rounds.look(self._source, self._versions, self._home, who, time.time())
                ready = found.version if isinstance(found, Start) else ""
                said = f"Foxden {ready} is ready" if ready else ""
            except (BadRelease, FetchFailed, BadArchive, OSError) as error:
                ready, said = "", str(error)
            if said:
                log.info("%s", said)
                self._versions.remember(replace(self._versions.known(), said=said))
            if ready:  # last: from here on the other thread writes what is remembered
                self._ready.put(ready)

    def _paused(self, seconds: float) -> bool:
        """Wait for the next look, or for a person who wants one now; False at the end."""
        mark = self._home / LOOK_ASKED
        until = time.monotonic() + seconds
        while time.monotonic() < until and not mark.exists():
            if self._stop.wait(min(_LOOK_SECONDS, seconds)):
                return False
        mark.unlink(missing_ok=True)
        return not self._stop.is_set()

    def _end_agent(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        if process.stdin is not None:
            process.stdin.close()  # it hands over what it draws, and ends
        try:
            process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def _last_words(self) -> str:
        try:
            lines = (self._home / "logs" / "agent.err").read_text(errors="replace").splitlines()
        except OSError:
            return ""
        return next((line.strip() for line in reversed(lines) if line.strip()), "")[:300]

    def stop(self) -> None:
        """Let `run` end; also from a signal."""
        self._stop.set()


def _become(program: Path) -> None:
    """Go on as another program with the same words; on Windows as a new process."""
    words = [str(program), *sys.argv[1:]]
    log.info("the service goes on as %s", program)
    if sys.platform == "win32":
        subprocess.Popen(words, creationflags=subprocess.DETACHED_PROCESS)
    else:
        os.execv(program, words)  # noqa: S606 -- our own next version
