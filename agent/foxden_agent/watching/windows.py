"""Windows: what fills the screen, and since when nobody touched anything. In the user's session.

The decisions are functions that any system can test; the calls (user32, shell32, kernel32) are
as thin as they can be.
"""

from __future__ import annotations

import ctypes
import sys
from dataclasses import dataclass

from foxden_agent.watching.machine import AtTheScreen
from foxden_agent.watching.names import program_name

# QUERY_USER_NOTIFICATION_STATE (shellapi.h). 2, "busy", is left out: overlays of graphics drivers
# cause it with no game anywhere.
_NOT_PRESENT, _D3D_FULL_SCREEN, _PRESENTATION = 1, 3, 4
# The desktop and the task switcher cover the screen, too.
_SHELL_WINDOWS = frozenset(
    {"Progman", "WorkerW", "Shell_TrayWnd", "XamlExplorerHostIslandWindow", "MultitaskingViewFrame"}
)
_WS_CAPTION, _GWL_STYLE, _MONITOR_DEFAULT_TO_NEAREST = 0x00C00000, -16, 2

Rectangle = tuple[int, int, int, int]  # left, top, right, bottom in pixels


@dataclass(frozen=True, slots=True)
class Foreground:
    """The window that has the keyboard."""

    pid: int
    window_class: str
    style: int  # GWL_STYLE
    window: Rectangle
    monitor: Rectangle  # of the whole monitor that it is on


def fills_screen(state: int | None, foreground: Foreground | None) -> bool:
    """Whether a program has the screen to itself.

    Exclusive Direct3D and presentations are told by Windows (`state`). A borderless window is
    one without a caption that covers its whole monitor; a maximised one has a caption.
    """
    if foreground is None or foreground.window_class in _SHELL_WINDOWS:
        return False
    if state in (_D3D_FULL_SCREEN, _PRESENTATION):
        return True
    if foreground.style & _WS_CAPTION == _WS_CAPTION:
        return False
    left, top, right, bottom = foreground.window
    edge_left, edge_top, edge_right, edge_bottom = foreground.monitor
    return left <= edge_left and top <= edge_top and right >= edge_right and bottom >= edge_bottom


def at_the_screen(
    state: int | None, foreground: Foreground | None, idle_seconds: float | None, name: str
) -> AtTheScreen:
    """`name`: of the foreground's program. While the screen is locked (1) no program has it."""
    if state is None and foreground is None:
        return AtTheScreen(None, idle_seconds)
    if state == _NOT_PRESENT or not fills_screen(state, foreground):
        return AtTheScreen("", idle_seconds)
    return AtTheScreen(name or "a program without a name", idle_seconds)


def seconds_between(now: int, last: int) -> float:
    """Between two counts of milliseconds of 32 bits, which begin again every 49.7 days."""
    return ((now - last) & 0xFFFFFFFF) / 1000


class WindowsDesktop:
    """Asks Windows. Untested on Windows itself so far."""

    def look(self, at: float) -> AtTheScreen:
        state, foreground, idle = _state(), _foreground(), _idle_seconds()
        name = program_name(foreground.pid) if fills_screen(state, foreground) else ""  # type: ignore[union-attr]
        return at_the_screen(state, foreground, idle, name)


class _Rect(ctypes.Structure):
    _fields_ = [(side, ctypes.c_long) for side in ("left", "top", "right", "bottom")]


class _MonitorInfo(ctypes.Structure):
    _fields_ = [
        ("size", ctypes.c_ulong),
        ("monitor", _Rect),
        ("work", _Rect),
        ("flags", ctypes.c_ulong),
    ]


class _LastInput(ctypes.Structure):
    _fields_ = [("size", ctypes.c_uint), ("ticks", ctypes.c_ulong)]


def _rectangle(rect: _Rect) -> Rectangle:
    return rect.left, rect.top, rect.right, rect.bottom


if sys.platform == "win32":
    _user32 = ctypes.WinDLL("user32")
    # Handles are pointers: as ctypes' plain int they would be cut on 64 bits.
    _user32.GetForegroundWindow.restype = ctypes.c_void_p
    _user32.MonitorFromWindow.restype = ctypes.c_void_p
    _user32.MonitorFromWindow.argtypes = [ctypes.c_void_p, ctypes.c_ulong]
    _user32.GetMonitorInfoW.argtypes = [ctypes.c_void_p, ctypes.c_void_p]
    _user32.GetWindowRect.argtypes = [ctypes.c_void_p, ctypes.c_void_p]
    _user32.GetWindowThreadProcessId.argtypes = [ctypes.c_void_p, ctypes.c_void_p]
    _user32.GetClassNameW.argtypes = [ctypes.c_void_p, ctypes.c_wchar_p, ctypes.c_int]
    _user32.GetWindowLongW.argtypes = [ctypes.c_void_p, ctypes.c_int]

    def _state() -> int | None:
        state = ctypes.c_int()
        failed = ctypes.WinDLL("shell32").SHQueryUserNotificationState(ctypes.byref(state))
        return None if failed else state.value

    def _foreground() -> Foreground | None:
        window = _user32.GetForegroundWindow()
        if not window:
            return None
        pid, rect, name = ctypes.c_ulong(), _Rect(), ctypes.create_unicode_buffer(256)
        monitor = _MonitorInfo(size=ctypes.sizeof(_MonitorInfo))
        _user32.GetWindowThreadProcessId(window, ctypes.byref(pid))
        _user32.GetClassNameW(window, name, 256)
        nearest = _user32.MonitorFromWindow(window, _MONITOR_DEFAULT_TO_NEAREST)
        if not _user32.GetWindowRect(window, ctypes.byref(rect)) or not _user32.GetMonitorInfoW(
            nearest, ctypes.byref(monitor)
        ):
            return None
        return Foreground(
            pid.value,
            name.value,
            _user32.GetWindowLongW(window, _GWL_STYLE),
            _rectangle(rect),
            _rectangle(monitor.monitor),
        )

    def _idle_seconds() -> float | None:
        last = _LastInput(size=ctypes.sizeof(_LastInput))
        if not _user32.GetLastInputInfo(ctypes.byref(last)):
            return None
        return seconds_between(ctypes.WinDLL("kernel32").GetTickCount(), last.ticks)

else:

    def _state() -> int | None:
        return None

    def _foreground() -> Foreground | None:
        return None

    def _idle_seconds() -> float | None:
        return None
