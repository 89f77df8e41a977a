"""The tray's program: asks the page how things are, and shows it; what is clicked it says there."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from foxden_agent.page.call import NoPage, PageCalls, Refused
from foxden_agent.page.command import has_screen, opened
from foxden_agent.tray import hosts, icons
from foxden_agent.tray.menu import SEPARATOR, Entry, menu, mode, tip

_EVERY = 2.0  # seconds between looks at the agent
_FIGURES_EVERY = 20.0  # seconds between new menus for nothing but new figures
_AWAY = 30.0  # seconds without an answer until it ends: the agent has
_HOST_SECONDS = 60.0  # to wait for a panel, which may start later than we do
_HOST_EVERY = 3.0


class NoTray(Exception):
    """There is nothing to show an icon in; the text says why."""


def run(folder: Path, language: str, *, supervised: bool, wait: float = _HOST_SECONDS) -> None:
    """Show the icon until the agent ends, the owner hides it, or (with `supervised`) standard input
    closes. Raises NoTray."""
    if not has_screen(os.environ, sys.platform):  # a panel may come later, a screen does not
        raise NoTray("there is no screen here: `foxden page --print` says where the page is")
    os.environ["PYSTRAY_BACKEND"] = chosen = _backend(wait)
    try:
        import pystray

        if chosen in ("gtk", "appindicator"):
            from pystray._util import notify_dbus

            notify_dbus.Notifier = _NoNotifier
    except Exception as error:  # noqa: BLE001 - its backends raise their libraries' own errors
        raise NoTray(f"pystray cannot be used here ({error})") from None
    Tray(pystray, PageCalls(folder, language=language), supervised=supervised).run()


def _backend(wait: float) -> str:
    end = time.monotonic() + wait
    while True:
        found = hosts.look()
        chosen = hosts.backend(sys.platform, found)
        if chosen:
            return chosen
        if time.monotonic() >= end:
            raise NoTray(hosts.why_none(found))
        time.sleep(min(_HOST_EVERY, max(0.0, end - time.monotonic())))


class _NoNotifier:
    """In place of pystray's own, which cannot be made without a session bus, and whose end fails
    without a notification daemon. Nothing here notifies."""

    def notify(self, *_: object) -> None:
        pass

    def hide(self) -> None:
        pass


class Tray:
    """One icon. pystray has the main thread; a second one looks at the agent."""

    def __init__(self, pystray: Any, calls: PageCalls, *, supervised: bool) -> None:
        self._pystray = pystray
        self._calls = calls
        self._supervised = supervised
        self._status: dict[str, Any] | None = None
        self._texts: dict[str, str] = {}
        self._sign = ""
        self._matters: object = None
        self._made = 0.0  # when the menu was made last
        self._look_now = threading.Event()
        self._ended = False
        self._icon = pystray.Icon(
            "foxden",
            icons.icon("unread"),
            "Foxden",
            pystray.Menu(lambda: self._items(menu(self._status, self._texts))),
        )

    def run(self) -> None:
        """Blocks until `stop`."""
        if self._supervised:
            threading.Thread(target=self._stop_with_input, daemon=True).start()
        self._icon.run(setup=self._set_up)

    def stop(self) -> None:
        self._ended = True
        self._look_now.set()
        self._icon.stop()

    def _set_up(self, icon: Any) -> None:
        icon.visible = True
        if os.environ.get("PYSTRAY_BACKEND") == "xorg":
            _let_clicks_in(icon)
        answered = time.monotonic()
        while not self._ended:
            if self._look():
                answered = time.monotonic()
            elif time.monotonic() - answered > _AWAY:
                self.stop()
            self._look_now.wait(_EVERY)
            self._look_now.clear()

    def _look(self) -> bool:
        """Whether the agent answered."""
        try:
            if not self._texts:
                self._texts = self._calls.texts()
            self._status = self._calls.status()
        except (NoPage, Refused):
            self._status = None
        self._show()
        return self._status is not None

    def _show(self) -> None:
        entries = menu(self._status, self._texts)
        sign, said = mode(self._status), tip(self._status, self._texts)
        matters = (sign, said, [(entry.action, entry.items) for entry in entries])
        now = time.monotonic()
        # A menu that is made anew closes under its owner's hand: not for a degree more or less.
        if matters == self._matters and now - self._made < _FIGURES_EVERY:
            return
        if sign != self._sign:
            self._icon.icon = icons.icon(sign)
        self._sign, self._matters, self._made = sign, matters, now
        self._icon.title = said
        self._icon.update_menu()

    def _items(self, entries: tuple[Entry, ...]) -> Iterator[Any]:
        for entry in entries:
            if entry is SEPARATOR:
                yield self._pystray.Menu.SEPARATOR
            elif entry.items:
                yield self._pystray.MenuItem(
                    entry.text, self._pystray.Menu(*self._items(entry.items))
                )
            else:
                yield self._pystray.MenuItem(
                    entry.text,
                    self._does(entry.action),
                    default=entry.default,
                    enabled=bool(entry.action),
                )

    def _does(self, action: str) -> Callable[[Any, Any], None]:
        def clicked(icon: Any, item: Any) -> None:
            # Beside the desktop's loop, which would stand still while the agent answers.
            threading.Thread(target=self._do, args=(action,), daemon=True).start()

        return clicked

    def _do(self, action: str) -> None:
        what, _, how = action.partition("/")
        try:
            if what == "open":
                opened(self._calls.address())
            elif what == "pause":
                self._calls.do("pause", how=how)
            elif what == "resume":
                self._calls.do("resume")
            elif what == "quit":
                self._calls.do("quit")
            elif what == "hide":
                self.stop()
        except (NoPage, Refused):
            pass  # the next look shows how it is
        self._look_now.set()

    def _stop_with_input(self) -> None:
        while os.read(0, 4096):
            pass
        self.stop()


def _let_clicks_in(icon: Any) -> None:
    """pystray's xorg window asks for no clicks (its issue 151): ask for them."""
    from Xlib import X

    mask = X.ExposureMask | X.StructureNotifyMask | X.ButtonPressMask
    icon._window.change_attributes(event_mask=mask)
    icon._display.flush()
