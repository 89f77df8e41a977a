"""Which of pystray's ways shows an icon here. What it chooses by itself raises where a session bus
or a screen is missing, and docks into nothing where there is no tray."""

from __future__ import annotations

import importlib.util
import os
import sys
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Found:
    """What there is on a Linux desktop."""

    watcher: bool = False  # somebody shows StatusNotifierItems (KDE, GNOME with its extension, …)
    xembed: bool = False  # somebody docks icons on this X screen
    gtk: bool = False  # gi with GTK 3
    ayatana: bool = False  # gi with the indicator library
    xlib: bool = False


def backend(system: str, found: Found) -> str:
    """pystray's name of the way; empty where there is none. Pure."""
    if system in ("win32", "darwin"):
        return system
    if found.watcher and found.ayatana:
        return "appindicator"
    if found.xembed and found.gtk:
        return "gtk"
    if found.xembed and found.xlib:
        return "xorg"  # no menu: a click opens the page
    return ""


def why_none(found: Found) -> str:
    """Why there is no way, in a sentence for the log. Pure."""
    if found.watcher:
        return (
            "this desktop shows icons by StatusNotifier, which needs python3-gi and "
            "gir1.2-ayatanaappindicator3-0.1: install both"
        )
    return "no panel of this desktop shows icons: `foxden page` does all that the icon would"


def look() -> Found:
    """Look at this desktop; takes some milliseconds, and raises nothing."""
    if sys.platform in ("win32", "darwin"):
        return Found()
    gi = _gi()
    return Found(
        watcher=gi is not None and _has_watcher(),
        xembed=_has_dock(),
        gtk=gi is not None and _has_namespace(gi, "Gtk", "3.0"),
        ayatana=gi is not None
        and _has_namespace(gi, "Gtk", "3.0")
        and _has_namespace(gi, "AyatanaAppIndicator3", "0.1"),
        xlib=importlib.util.find_spec("Xlib") is not None,
    )


def _gi() -> Any:
    try:
        import gi
    except ImportError:
        return None
    return gi


def _has_namespace(gi: Any, name: str, version: str) -> bool:
    try:
        gi.require_version(name, version)
    except ValueError:
        return False
    return True


def _has_watcher() -> bool:
    if not os.environ.get("DBUS_SESSION_BUS_ADDRESS"):
        return False  # GLib would start a bus of its own
    from gi.repository import Gio, GLib

    try:
        told = Gio.bus_get_sync(Gio.BusType.SESSION, None).call_sync(
            *("org.freedesktop.DBus", "/org/freedesktop/DBus", "org.freedesktop.DBus"),
            "NameHasOwner",
            GLib.Variant("(s)", ("org.kde.StatusNotifierWatcher",)),
            None,
            Gio.DBusCallFlags.NONE,
            1000,
            None,
        )
    except GLib.Error:
        return False
    return bool(told.unpack()[0])


def _display() -> Any:
    try:
        from Xlib import display

        return display.Display()
    except Exception:  # noqa: BLE001 - python-xlib raises what it likes, struct.error among it
        return None


def _has_dock() -> bool:
    screen = _display()
    if screen is None:
        return False
    try:
        atom = screen.intern_atom(f"_NET_SYSTEM_TRAY_S{screen.get_default_screen()}")
        return bool(screen.get_selection_owner(atom))
    except Exception:  # noqa: BLE001 - as above
        return False
    finally:
        screen.close()
