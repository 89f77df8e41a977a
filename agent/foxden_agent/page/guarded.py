"""The guard before an ASGI application: what it refuses, or is too large, never gets there."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from functools import partial
from typing import Any

from foxden_agent.page import guard
from foxden_agent.page.keys import Keys

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]


_PLAIN = [(b"content-type", b"text/plain; charset=utf-8")]


class Guarded:
    """Lets through what the guard allows, and puts the same headers on every answer."""

    def __init__(self, app: Application, keys: Keys, port: int) -> None:
        self._app = app
        self._keys = keys
        self._port = port

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        headers = {name.decode("latin-1"): v.decode("latin-1") for name, v in scope["headers"]}
        answer = partial(_with_headers, send)
        why = guard.refusal(scope["method"], scope["path"], headers, self._port, self._keys)
        if not why and _announced(headers) > guard.BODY_BYTES:
            why = "That is more than this page takes."
        if why:
            await answer({"type": "http.response.start", "status": 403, "headers": _PLAIN})
            await answer({"type": "http.response.body", "body": why.encode() + b"\n"})
            return
        await self._app(scope, _bounded(receive), answer)


def _announced(headers: dict[str, str]) -> int:
    length = headers.get("content-length", "0")
    return int(length) if length.isascii() and length.isdigit() else guard.BODY_BYTES + 1


def _bounded(receive: Receive) -> Receive:
    """A body that was not announced is broken off where it becomes too large."""
    got = 0

    async def take() -> MutableMapping[str, Any]:
        nonlocal got
        message = await receive()
        got += len(message.get("body", b""))
        if got > guard.BODY_BYTES:
            return {"type": "http.disconnect"}
        return message

    return take


async def _with_headers(send: Send, message: MutableMapping[str, Any]) -> None:
    if message["type"] == "http.response.start":
        extra = [(name.encode(), value.encode()) for name, value in guard.HEADERS.items()]
        message = {**message, "headers": [*message.get("headers", ()), *extra]}
    await send(message)
