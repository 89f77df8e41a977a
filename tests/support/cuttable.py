"""A TCP relay between an agent and its broker whose far side can be cut, stopped or slowed."""

from __future__ import annotations

import socket
import threading
import time
from contextlib import suppress


class Relay:
    """Listens on a free port and passes bytes on to `target`, for as long as it is let."""

    def __init__(self, target: tuple[str, int]) -> None:
        self.delay = 0.0  # seconds before each piece is passed on
        self._target = target
        self._passes = threading.Event()
        self._passes.set()
        self._pairs: set[socket.socket] = set()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        """Break every connection that is open now, as a router that restarts does."""
        for end in list(self._pairs):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def black_hole(self) -> None:
        """Pass nothing on any more, without telling either side."""
        self._passes.clear()

    def restore(self) -> None:
        self._passes.set()

    def close(self) -> None:
        self.restore()
        self._listener.close()
        self.cut()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                try:
                    far = socket.create_connection(self._target)
                except OSError:
                    near.close()  # the target is down: so are we
                    continue
                self._pairs |= {near, far}
                for source, sink in ((near, far), (far, near)):
                    threading.Thread(target=self._pass, args=(source, sink), daemon=True).start()

    def _pass(self, source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                self._passes.wait()
                time.sleep(self.delay)
                sink.sendall(data)
        for end in (source, sink):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            self._pairs.discard(end)
