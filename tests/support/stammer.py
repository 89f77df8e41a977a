"""Says every WebSocket message of a byte stream twice, and leaves all else as it is."""

from __future__ import annotations

_END_OF_HEAD = b"\r\n\r\n"
_CONTROL = 0x8  # close, ping and pong belong to the connection: they are no messages


class Stammer:
    """One direction of one TCP connection. Bytes go in as they come, and out with each message
    said twice; a stream that is no WebSocket's passes unchanged.

    Messages are not cut into fragments by the library on either side; one that was would break
    the connection here, which a test would notice.
    """

    def __init__(self) -> None:
        self._rest = b""
        self._is_link: bool | None = None  # None: its head has not come yet

    def feed(self, data: bytes) -> bytes:
        if self._is_link is False:
            return data
        self._rest += data
        out = b""
        if self._is_link is None:
            head, end, rest = self._rest.partition(_END_OF_HEAD)
            if not end:
                return b""
            self._is_link = b"upgrade: websocket" in head.lower()
            if not self._is_link:
                out, self._rest = self._rest, b""
                return out
            out, self._rest = head + end, rest
        while (length := _frame_length(self._rest)) is not None:
            frame, self._rest = self._rest[:length], self._rest[length:]
            out += frame if frame[0] & _CONTROL else frame * 2
        return out


def _frame_length(data: bytes) -> int | None:
    """Bytes of the frame (RFC 6455, 5.2) that begins here; None where it is not complete."""
    if len(data) < 2:
        return None
    head, payload = 2, data[1] & 0x7F
    if payload in (126, 127):
        extra = 2 if payload == 126 else 8
        head += extra
        if len(data) < head:
            return None
        payload = int.from_bytes(data[2:head], "big")
    whole = head + payload + (4 if data[1] & 0x80 else 0)
    return whole if len(data) >= whole else None
