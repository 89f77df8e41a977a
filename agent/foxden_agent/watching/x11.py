"""The few questions to an X server that the agent has, over its socket.

Spoken here instead of through Xlib, since Xlib ends the whole process when the server goes away or
a window is closed between two questions. Sources: X Window System Protocol, X Version 11 (requests
16, 20, 98), and the MIT-SCREEN-SAVER extension (request 1).
"""

from __future__ import annotations

import re
import socket
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Self

_TIMEOUT = 1.0  # seconds for an answer: a server that is stopped must not hold the readings up
_LONGEST_ANSWER = 1 << 20
_ANY_TYPE = 0


class X11Error(Exception):
    """The server is not there, does not let us in, or knows no such window."""


class Display:
    """A connection to one display. Every method raises X11Error or OSError."""

    def __init__(self, connection: socket.socket, root: int) -> None:
        self._connection = connection
        self.root = root  # window id of the screen's background
        self._atoms: dict[str, int] = {}
        self._screen_saver: int | None = None

    @classmethod
    def open(cls, name: str, authority: Path) -> Self:
        """`name` as in DISPLAY, e.g. ":0"; `authority` holds the cookies, or is not there."""
        number, screen = display_number(name)
        try:
            key = cookie(authority.read_bytes(), number, socket.gethostname())
        except FileNotFoundError:
            key = b""
        connection = socket.socket(socket.AF_UNIX)
        try:
            connection.settimeout(_TIMEOUT)
            connection.connect(f"/tmp/.X11-unix/X{number}")  # noqa: S108 - the server's own path
            protocol = b"MIT-MAGIC-COOKIE-1" if key else b""
            connection.sendall(
                struct.pack("<BxHHHHxx", ord("l"), 11, 0, len(protocol), len(key))
                + _padded(protocol)
                + _padded(key)
            )
            accepted, _, _, _, more = struct.unpack("<BBHHH", _exactly(connection, 8))
            answer = _exactly(connection, 4 * more)
            if accepted != 1:
                raise X11Error(f"display {name} does not let this program in")
            return cls(connection, root_window(answer, screen))
        except BaseException:
            connection.close()
            raise

    def close(self) -> None:
        self._connection.close()

    def atoms_of(self, window: int, property_name: str) -> set[str]:
        """The property's values by name, of those names that were asked for before (`atom`)."""
        values = set(self.numbers_of(window, property_name))
        return {name for name, atom in self._atoms.items() if atom in values}

    def numbers_of(self, window: int, property_name: str) -> tuple[int, ...]:
        """The property's 32-bit values; () where the window lacks it."""
        form, data = self._property(window, property_name)
        return struct.unpack(f"<{len(data) // 4}I", data) if form == 32 else ()

    def text_of(self, window: int, property_name: str) -> bytes:
        """The property's bytes; empty where the window lacks it."""
        form, data = self._property(window, property_name)
        return data if form == 8 else b""

    def idle_seconds(self) -> float | None:
        """Since the last input; None where the server lacks the screen saver extension."""
        if self._screen_saver is None:
            name = b"MIT-SCREEN-SAVER"
            answer = self._ask(98, 0, struct.pack("<Hxx", len(name)) + _padded(name))
            self._screen_saver = answer[9] if answer[8] else 0
        if not self._screen_saver:
            return None
        answer = self._ask(self._screen_saver, 1, struct.pack("<I", self.root))
        return float(struct.unpack_from("<I", answer, 16)[0]) / 1000

    def atom(self, name: str) -> int:
        if name not in self._atoms:
            text = name.encode()
            answer = self._ask(16, 0, struct.pack("<Hxx", len(text)) + _padded(text))
            self._atoms[name] = struct.unpack_from("<I", answer, 8)[0]
        return self._atoms[name]

    def _property(self, window: int, name: str) -> tuple[int, bytes]:
        """The format in bits (0: there is none) and the first KiB of the value."""
        request = struct.pack("<IIIII", window, self.atom(name), _ANY_TYPE, 0, 256)
        answer = self._ask(20, 0, request)
        form, units = answer[1], struct.unpack_from("<I", answer, 16)[0]
        return form, answer[32 : 32 + units * form // 8]

    def _ask(self, opcode: int, detail: int, body: bytes) -> bytes:
        """One request and its answer. Nothing else is asked meanwhile, so it is the next one."""
        self._connection.sendall(struct.pack("<BBH", opcode, detail, 1 + len(body) // 4) + body)
        while True:
            answer = _exactly(self._connection, 32)
            if answer[0] == 0:
                raise X11Error(f"request {opcode} was refused with error {answer[1]}")
            if answer[0] == 1:
                more = 4 * struct.unpack_from("<I", answer, 4)[0]
                if more > _LONGEST_ANSWER:
                    raise X11Error(f"the answer to request {opcode} is too long")
                return answer + _exactly(self._connection, more)
            # else an event: the keyboard's layout changes are told to everybody


def full_screen_window(display: Display) -> int | None:
    """A window that fills its screen and shows; the active one before others. 0: there is none.

    None: nothing manages windows by the EWMH rules (_NET_SUPPORTED), so nobody tells.
    """
    display.atom("_NET_WM_STATE_FULLSCREEN")
    display.atom("_NET_WM_STATE_HIDDEN")
    if not display.numbers_of(display.root, "_NET_SUPPORTED"):
        return None
    windows = dict.fromkeys(display.numbers_of(display.root, "_NET_ACTIVE_WINDOW"))
    windows.update(dict.fromkeys(display.numbers_of(display.root, "_NET_CLIENT_LIST")))
    for window in windows:
        if not window:
            continue
        try:
            states = display.atoms_of(window, "_NET_WM_STATE")
        except X11Error:  # closed since it was listed
            continue
        if "_NET_WM_STATE_FULLSCREEN" in states and "_NET_WM_STATE_HIDDEN" not in states:
            return window
    return 0


def name_of_window(display: Display, window: int, name_of: Callable[[int], str]) -> str:
    """The program's name; its window class where it does not say which process it is."""
    try:
        pids = display.numbers_of(window, "_NET_WM_PID")
        name = name_of(pids[0]) if pids else ""
        if not name:
            names = display.text_of(window, "WM_CLASS").decode(errors="replace").split("\0")
            name = names[1] if len(names) > 1 else names[0]
    except X11Error:
        name = ""
    return name or "a program without a name"


def display_number(name: str) -> tuple[int, int]:
    """Display and screen of ":0" or ":1.0". Raises X11Error for one on another machine."""
    found = re.fullmatch(r"(?:unix)?:(\d{1,5})(?:\.(\d{1,3}))?", name)
    if not found:
        raise X11Error(f"{name!r} is not a display of this machine")
    return int(found[1]), int(found[2] or 0)


def cookie(authority: bytes, number: int, host: str) -> bytes:
    """The secret of a display from an .Xauthority file; empty where it holds none.

    Entries are family, address, display number, protocol and secret; family 256 is this machine
    by name, 65535 any. Raises X11Error where the file is cut.
    """
    position = 0

    def field() -> bytes:
        nonlocal position
        (length,) = struct.unpack_from(">H", authority, position)
        position += 2 + length
        if position > len(authority):
            raise X11Error("the .Xauthority file is cut")
        return authority[position - length : position]

    try:
        while position < len(authority):
            (family,) = struct.unpack_from(">H", authority, position)
            position += 2
            address, display, protocol, secret = field(), field(), field(), field()
            here = family == 65535 or (family == 256 and address == host.encode())
            if here and display in (b"", b"%d" % number) and protocol == b"MIT-MAGIC-COOKIE-1":
                return secret
    except struct.error:
        raise X11Error("the .Xauthority file is cut") from None
    return b""


def root_window(answer: bytes, screen: int) -> int:
    """The root window of a screen, from the server's greeting. Raises X11Error."""
    try:
        vendor, screens, formats = struct.unpack_from("<16xH2xBB", answer)
        position = 32 + (vendor + 3) // 4 * 4 + 8 * formats
        if screen >= screens:
            raise X11Error(f"the display has no screen {screen}")
        for _ in range(screen):
            depths = answer[position + 39]
            position += 40
            for _ in range(depths):
                (visuals,) = struct.unpack_from("<2xH", answer, position)
                position += 8 + 24 * visuals
        (root,) = struct.unpack_from("<I", answer, position)
    except (struct.error, IndexError):
        raise X11Error("the display's greeting is cut") from None
    return int(root)


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)


def _exactly(connection: socket.socket, length: int) -> bytes:
    data = bytearray()
    while len(data) < length:
        part = connection.recv(length - len(data))
        if not part:
            raise X11Error("the display closed the connection")
        data += part
    return bytes(data)
