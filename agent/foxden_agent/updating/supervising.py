"""One agent, kept running, and the trial of its next version.

The version that works supervises the trial of the next one: a new version that does not start, or
is not online in time, is replaced by the one before without any code of its own. Once it has proved
itself, the service too goes on as the new version.
"""

from __future__ import annotations

import logging
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import IO

from foxden_agent import identity
from foxden_agent.updating import rounds, yielding
from foxden_agent.updating.looking import Looking
from foxden_agent.updating.trial import Trial, Verdict
from foxden_agent.updating.versions import Known, Versions
from foxden_proto.programs import Restarts
from foxden_proto.timers import Timers

log = logging.getLogger(__name__)

STOP_ASKED = "stop-asked"  # a file in the home folder
STOP_SECONDS = 15.0  # for the agent to hand over what it draws
_LOOK_SECONDS = 0.5
_LONGEST_ROUND = 5.0  # of this service; what is more, the PC has slept
_AGAIN_SECONDS = 60.0  # until a trial's end that could not be written is tried once more
# Codes of an agent that no restart mends: a wrong call, a refused token. It is tried again slowly,
# since the administrator may mend it at the other end.
_HOPELESS = (2, 4)
_SLOW_SECONDS = 300.0


class Service:
    """One agent, kept running; made by the command, ended by a signal.

    What it remembers of a trial it holds itself, and writes down as far as the disk allows.
    """

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
        self._next_start = self._last = time.monotonic()
        # Seconds that the PC was awake: one that sleeps through a trial's patience says nothing.
        self._awake = self._started = self._back = self._judge_from = 0.0
        self._online = threading.Event()
        self._restarts = Restarts(most=6, window=120.0)
        self._looking: Looking | None = None
        self._trial: Trial | None = None
        self._trial_starts = 0  # of it, in this service's life
        self._charged = False  # somebody's trial failed; by how this version does it is judged
        self._renew = False  # the service itself is to go on as the version that it started
        self._stop = threading.Event()

    def run(self) -> Path | None:
        """Until `stop`, then None; or the program to go on as."""
        yielding.withdraw(self._agent_folder)
        (self._home / STOP_ASKED).unlink(missing_ok=True)
        with ExitStack() as stack:
            self._begin(stack)
            try:
                while not self._stop.is_set():
                    self._once(time.monotonic())
                    if self._renew and self._process is None:
                        assert self._versions is not None
                        return self._versions.root / "current" / self._versions.name
                    self._stop.wait(_LOOK_SECONDS)
                    if (self._home / STOP_ASKED).exists():
                        self.stop()
            finally:
                alive = self._process is not None and self._process.poll() is None
                self._end_agent()
                if self._trial is not None and alive:
                    self._remember(trial=self._trial.stopped())
        return None

    def _begin(self, stack: ExitStack) -> None:
        """Go on with a trial that was under way, and look for updates."""
        if self._versions is None:
            return
        taken = identity.HomeInUse("another service updates this program, for another home folder")
        try:
            stack.enter_context(identity.locked(self._versions.lock("service"), taken))
        except (identity.HomeInUse, OSError) as error:
            log.warning("no updates: %s", error)
            return
        known = self._versions.known()
        self._charged = any(one.charge for one in known.tried)
        if known.trial is not None:
            if self._may_go_on(known.trial):
                self._trial = known.trial
            else:  # a person has laid another version over it
                self._remember(trial=None)
        if self._source.on:
            self._looking = Looking(
                *(self._source, self._versions, self._home, self._timers.update_check),
                busy=lambda: self._trial is not None or self._renew,
                look_seconds=_LOOK_SECONDS,
            )
            stack.callback(self._looking.end)
            self._looking.start()

    def _may_go_on(self, trial: Trial) -> bool:
        assert self._versions is not None
        here = self._versions.current() in (trial.version, trial.previous)
        return here and self._versions.program(trial.version).exists()

    def _once(self, now: float) -> None:
        """One round: start, look after, judge."""
        self._awake += min(now - self._last, _LONGEST_ROUND)
        self._last = now
        if self._process is None:
            # Also while one that died waits for its next start: there is nothing to lose.
            if self._trial is None and not self._renew and self._begin_trial():
                self._next_start = now
            if now >= self._next_start and not self._judged(alive=False, now=now):
                self._start_agent(now)
            return
        code = self._process.poll()
        if not self._judged(alive=code is None, now=now):
            self._settle()
        if self._process is None:  # taken back
            return
        if code is not None:
            self._ended(code, now)
        elif self._renew:
            self._ask("the service goes on as the new version")
        elif self._trial is None and self._looking is not None and self._looking.ready:
            # One that doesn't get online may be mended by nothing else.
            patient = self._awake - self._started >= self._timers.update_trial
            if self._online.is_set() or patient:
                self._ask("an update is ready")

    def _ask(self, why: str) -> None:
        try:
            yielding.ask(self._agent_folder, why)
        except OSError as error:
            log.warning("the agent cannot be asked to make way (%s): asked again", error)
            self._stop.wait(_LONGEST_ROUND)

    def _start_agent(self, now: float) -> None:
        self._online.clear()
        self._started = self._awake
        if self._trial is not None:
            self._trial = self._trial.started()
            self._trial_starts += 1
            self._remember(trial=self._trial)
        program = self._program()
        log_file = self._home / "logs" / "agent.log"
        words = [*program, "-m", "foxden_agent", "--home", str(self._home), "--json"]
        words += ["--supervised", "--log-file", str(log_file), *self._arguments]
        try:
            with (self._home / "logs" / "agent.err").open("wb") as errors:
                self._process = subprocess.Popen(
                    words,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=errors,
                    creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),
                )
        except OSError as error:  # a program that was cut short, or no disk for its last words
            log.warning("the agent %s cannot be started: %s", program[0], error)
            self._after_death(now)
            return
        assert self._process.stdout is not None
        reader = threading.Thread(
            target=self._read, args=(self._process.stdout, self._online), daemon=True
        )
        reader.start()
        log.info("the agent is started (%s)", program[0])

    def _program(self) -> list[str]:
        """`current` is left alone by a trial: with it, the next start of the PC would begin with a
        program that may not even be able to go back."""
        if self._versions is None:
            return [sys.executable]
        chosen = self._trial.version if self._trial is not None else self._versions.current()
        return [str(self._versions.program(chosen)) if chosen else sys.executable]

    def _read(self, stream: IO[bytes], online: threading.Event) -> None:
        """The agent says one line of JSON when its broker has welcomed it."""
        with stream:
            for line in stream:
                if line.startswith(b"{") and b"agent_id" in line:
                    log.info("the agent is online")
                    online.set()

    def _judged(self, *, alive: bool, now: float) -> bool:
        """Whether a trial is over now, one way or the other."""
        if self._trial is None or self._awake < self._judge_from:
            return False
        trial = self._trial
        verdict = trial.judge(
            online=alive and self._online.is_set(),
            alive=alive,
            seconds=self._awake - self._started if self._process is not None else 0.0,
            patience=self._timers.update_trial,
        )
        try:
            if verdict is Verdict.CONFIRM:
                self._confirm(trial)
            elif verdict is Verdict.BACK:
                self._go_back(trial, now)
        except OSError as error:
            log.warning("the trial of Foxden %s cannot be ended yet: %s", trial.version, error)
            self._judge_from = self._awake + _AGAIN_SECONDS
            return False
        return verdict is not Verdict.WAIT

    def _confirm(self, trial: Trial) -> None:
        assert self._versions is not None
        self._versions.switch(trial.version)
        log.info("Foxden %s is online: it stays", trial.version)
        self._renew = True  # before the trial is over: nothing is to be looked for in between
        self._trial = None
        said = f"updated to Foxden {trial.version}"
        self._write(lambda known: known.proved(trial, said))

    def _go_back(self, trial: Trial, now: float) -> None:
        assert self._versions is not None
        log.warning("Foxden %s does not get online: back to %s", trial.version, trial.previous)
        self._end_agent()
        if self._versions.current() != trial.previous:
            self._versions.switch(trial.previous)
        deadly = self._trial_starts == 0  # each of its starts was in another service's life
        said = f"Foxden {trial.version} did not get online; {trial.previous} runs again"
        self._trial, self._charged = None, True
        self._next_start, self._back = now, self._awake
        if self._looking is not None:
            self._looking.take()
        self._write(lambda known: known.failed(trial, time.time(), said, deadly=deadly))

    def _settle(self) -> None:
        """Say whether a trial's end was its version's fault, once that is known."""
        if not self._charged or self._versions is None or self._trial is not None:
            return
        online, since = self._online.is_set(), self._awake - self._back
        if not online and since < self._timers.update_trial:
            return
        self._charged = False
        patience = self._timers.update_trial

        def settled(known: Known) -> Known:
            tried = (
                one.settled(online=online, seconds=since, patience=patience) for one in known.tried
            )
            return replace(known, tried=tuple(tried))

        self._write(settled)

    def _ended(self, code: int, now: float) -> None:
        """The agent is gone: what to start, and when."""
        self._process = None
        if code == yielding.EXIT_CODE:
            # Asked once more while it ended, the version on trial would end for it.
            yielding.withdraw(self._agent_folder)
            self._next_start = now
        else:
            log.warning("the agent ended with code %d: %s", code, self._last_words())
            self._after_death(now, hopeless=code in _HOPELESS)

    def _after_death(self, now: float, *, hopeless: bool = False) -> None:
        pause = self._restarts.delay(now)
        if hopeless or pause is None:
            pause = _SLOW_SECONDS
        self._next_start = now + pause

    def _begin_trial(self) -> bool:
        ready = self._looking.take() if self._looking is not None else ""
        if self._versions is None or not ready:
            return False
        trial = Trial(ready, self._versions.current() or version("foxden"))
        # Not begun where it can't be written down: after a crash nobody would know of it.
        if not self._write(lambda known: replace(known, trial=trial)):
            return False
        log.info("Foxden %s is tried", ready)
        self._trial, self._trial_starts, self._judge_from = trial, 0, 0.0
        return True

    def _remember(self, *, trial: Trial | None) -> None:
        self._write(lambda known: replace(known, trial=trial))

    def _write(self, how: Callable[[Known], Known]) -> bool:
        assert self._versions is not None
        try:
            self._versions.change(how)
        except OSError as error:
            log.warning("what became of updates could not be written down: %s", error)
            return False
        return True

    def _end_agent(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        if process.stdin is not None:
            process.stdin.close()  # it hands over what it draws, and ends
        try:
            process.wait(STOP_SECONDS)
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
