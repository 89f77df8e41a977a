"""A TCP relay whose far side can be cut, stopped, slowed, or made to stammer."""

from __future__ import annotations

import socket
import threading
import time
from contextlib import suppress

from stammer import Stammer

_SLOW_PIECE = 256  # bytes read at once where a rate is kept
_SLOW_BUFFER = 4096  # bytes that the kernel may hold back for a slow reader


class Relay:
    """Listens on a free port and passes bytes on to `target`, for as long as it is let.

    `rate`: bytes per second that whoever dialled in reads of each connection; 0: all there is.
    `twice`: every WebSocket message, in both directions, is delivered twice.
    """

    def __init__(self, target: tuple[str, int], *, rate: int = 0, twice: bool = False) -> None:
        self.delay = 0.0  # seconds before each piece is passed on
        self.twice = twice  # for connections that are made from now on
        self.repeated = 0  # pieces with a message in them that was said twice
        self._target, self._rate = target, rate
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
                    far = self._dial()
                except OSError:
                    near.close()  # the target is down: so are we
                    continue
                self._pairs |= {near, far}
                for source, sink, rate in ((near, far, 0), (far, near, self._rate)):
                    passing = threading.Thread(
                        target=self._pass, args=(source, sink, rate), daemon=True
                    )
                    passing.start()

    def _dial(self) -> socket.socket:
        far = socket.socket()
        if self._rate:  # before it connects: the window is agreed on then
            far.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _SLOW_BUFFER)
        try:
            far.connect(self._target)
        except OSError:
            far.close()
            raise
        return far

    def _pass(self, source: socket.socket, sink: socket.socket, rate: int) -> None:
        stammer = Stammer() if self.twice else None
        with suppress(OSError):
            while data := source.recv(_SLOW_PIECE if rate else 65536):
                self._passes.wait()
                time.sleep(len(data) / rate if rate else self.delay)
                if stammer is not None:
                    came, data = len(data), stammer.feed(data)
                    self.repeated += len(data) > came
                sink.sendall(data)
        for end in (source, sink):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            self._pairs.discard(end)
