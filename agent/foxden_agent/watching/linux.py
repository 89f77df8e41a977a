"""Linux: the X server tells which window fills the screen and since when nobody touched anything.

A Wayland session tells neither to a program that is not part of the desktop. Most games run in
Xwayland there, whose windows are seen; that none of them fills the screen then proves nothing.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from pathlib import Path

from foxden_agent.watching import x11
from foxden_agent.watching.machine import AtTheScreen
from foxden_agent.watching.names import program_name

log = logging.getLogger(__name__)

_RETRY = 10.0  # seconds between attempts to reach a display
_NOTHING = AtTheScreen()


class LinuxDesktop:
    """The user's session as the environment describes it (DISPLAY, XAUTHORITY, WAYLAND_DISPLAY)."""

    def __init__(self, environ: Mapping[str, str] = os.environ) -> None:
        self._name = environ.get("DISPLAY", "")
        self._authority = Path(environ.get("XAUTHORITY") or Path.home() / ".Xauthority")
        self._wayland = bool(environ.get("WAYLAND_DISPLAY"))
        self._display: x11.Display | None = None
        self._next_try = float("-inf")

    def look(self, at: float) -> AtTheScreen:
        if not self._name:
            return _NOTHING
        try:
            if self._display is None:
                if at < self._next_try:
                    return _NOTHING
                self._next_try = at + _RETRY
                self._display = x11.Display.open(self._name, self._authority)
            return self._ask(self._display)
        except (x11.X11Error, OSError) as error:
            log.debug("the display tells nothing: %s", error)
            self.close()
            return _NOTHING

    def close(self) -> None:
        if self._display is not None:
            self._display.close()
            self._display = None

    def _ask(self, display: x11.Display) -> AtTheScreen:
        window = x11.full_screen_window(display)
        if window:
            full_screen: str | None = x11.name_of_window(display, window, program_name)
        else:
            full_screen = None if window is None or self._wayland else ""
        # Xwayland hears of no input but that to its own windows.
        return AtTheScreen(full_screen, None if self._wayland else display.idle_seconds())
