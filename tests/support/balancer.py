"""A load balancer for tests: passes TCP on to the first of its targets that answers."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress


class Balancer:
    """Listens on a free port. New connections go to the targets in turn, past those that are down;
    `prefer` puts one of them first for all that come later."""

    def __init__(self, targets: list[tuple[str, int]]) -> None:
        self._targets = targets
        self._preferred = 0
        self._open: set[socket.socket] = set()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def prefer(self, which: int) -> None:
        self._preferred = which

    def close(self) -> None:
        self._listener.close()
        self.cut()

    def cut(self) -> None:
        """Break every connection that is open now."""
        for end in list(self._open):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(near,), daemon=True).start()

    def _serve(self, near: socket.socket) -> None:
        count = len(self._targets)
        for i in range(count):
            with suppress(OSError):
                far = socket.create_connection(self._targets[(self._preferred + i) % count], 1)
                break
        else:
            near.close()
            return
        far.settimeout(None)
        self._open |= {near, far}
        back = threading.Thread(target=self._pass, args=(far, near), daemon=True)
        back.start()
        self._pass(near, far)

    def _pass(self, source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                sink.sendall(data)
        for end in (source, sink):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            self._open.discard(end)
