"""The service's thread that looks for updates, and makes them ready while the owner is away."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from threading import Event, Thread
from typing import TypeVar

from foxden_agent import identity
from foxden_agent.updating import gently, rounds
from foxden_agent.updating.deciding import Fetch, Nothing, Start
from foxden_agent.updating.fetching import FetchFailed
from foxden_agent.updating.manifest import BadRelease
from foxden_agent.updating.versions import BadArchive, Versions
from foxden_agent.updating.yielding import Asking, OwnerCame, Stopped

log = logging.getLogger(__name__)
T = TypeVar("T")

LOOK_ASKED = "look-asked"  # a file in the home folder: look for updates now
_FIRST_LOOK = 0.02  # of the time between looks: soon after the start, but not all at once
_END_SECONDS = 10.0  # for what it does to be broken off


class Looking:
    """`ready` is the version that waits to be started; empty where there is none.

    `busy`: whether this is no time to look, because a version is on trial or takes over.
    """

    def __init__(
        self,
        source: rounds.Source,
        versions: Versions,
        home: Path,
        every: float,
        *,
        busy: Callable[[], bool],
        look_seconds: float,
    ) -> None:
        self.ready = ""
        self._source, self._versions, self._home = source, versions, home
        self._every, self._busy, self._look_seconds = every, busy, look_seconds
        self._stop = Event()
        self._asking = Asking(home / "agent", self._stop)
        self._said = ""
        self._thread = Thread(target=self.run, name="updates", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def take(self) -> str:
        """The version that waits, which is the caller's from here on."""
        ready, self.ready = self.ready, ""
        return ready

    def end(self) -> None:
        """Break off what it does. Nothing of it may run on beside the next version's service."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(_END_SECONDS)

    def run(self) -> None:
        """On a thread of its own: a download may take hours. Nothing but `end` ends it, since
        what is wrong here could only be mended by an update."""
        gently.this_thread()
        pause = self._every * _FIRST_LOOK * random.uniform(0.5, 1.5)
        while self._paused(pause):
            pause = self._every * random.uniform(0.8, 1.2)
            try:
                # Its agent runs from the newest already: this old service would fetch it again.
                if not self._busy():
                    self._round()
            except Stopped:
                return
            except (BadRelease, FetchFailed, BadArchive) as error:
                self._say(str(error))
            except OSError as error:
                self._say(
                    f"The update could not go on ({error.strerror or error}): see that "
                    f"{self._versions.root} can be written and has space; it is tried again."
                )
            except Exception:
                log.exception("looking for updates failed; it is tried again")
            finally:
                self._asking.close()

    def _round(self) -> None:
        self._when_away(lambda: rounds.tidy(self._versions, self._home, self._asking.check))
        found = self._when_away(self._look)
        if self._busy():
            return
        self.ready = found.version if isinstance(found, Start) else ""
        self._say(f"Foxden {self.ready} is ready" if self.ready else "")

    def _look(self) -> Start | Fetch | Nothing:
        return rounds.look(
            self._source,
            self._versions,
            self._home,
            identity.agent_id(self._home / "agent"),
            time.time(),
            pause=self._every,
            go_on=self._asking.check,
        )

    def _when_away(self, do: Callable[[], T]) -> T:
        while True:
            try:
                return do()
            except OwnerCame as came:
                why = str(came)
                while why:
                    self._say(f"An update waits to be made ready ({why}).")
                    why = self._asking.wait()

    def _say(self, text: str) -> None:
        """For the log, and for `foxden update`; empty: what was said last is over."""
        if text == self._said:
            return
        self._said = text
        if text:
            log.info("%s", text)
        try:
            self._versions.change(lambda known: replace(known, said=text))
        except OSError as error:
            log.warning("what became of updates could not be written down: %s", error)

    def _paused(self, seconds: float) -> bool:
        """Wait for the next look, or for a person who wants one now; False at the end."""
        mark = self._home / LOOK_ASKED
        until = time.monotonic() + seconds
        while time.monotonic() < until and not mark.exists():
            if self._stop.wait(min(self._look_seconds, seconds)):
                return False
        try:
            mark.unlink(missing_ok=True)
        except OSError as error:
            log.warning("%s stays (%s): the next look is at its time", mark, error)
            if self._stop.wait(seconds):
                return False
        return not self._stop.is_set()
