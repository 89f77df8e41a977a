"""Serves the page on 127.0.0.1 while the agent lives. The agent works in full where this cannot."""

from __future__ import annotations

import asyncio
import logging
import secrets
import socket
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

import uvicorn

from foxden_agent.page import routes, whereabouts
from foxden_agent.page.keys import Keys
from foxden_agent.page.shown import Shown
from foxden_agent.page.whereabouts import Whereabouts

log = logging.getLogger(__name__)

_CONNECTIONS = 48  # at a time; another user of this machine may open some, and can do no more


class _Uvicorn(uvicorn.Server):
    """Leaves the signals to the program."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@asynccontextmanager
async def served(shown: Shown, port: int) -> AsyncIterator[Whereabouts]:
    """Serve for as long as the context lasts; any free port where `port` is taken or 0.

    Raises OSError where there is no port at all, or the folder cannot be written.
    """
    listener = listen(port)
    where = Whereabouts(listener.getsockname()[1], secrets.token_urlsafe(32))
    app = routes.create(shown, Keys(where.secret, time.monotonic), where)
    http = _Uvicorn(
        uvicorn.Config(
            app,
            log_config=None,
            log_level="warning",
            access_log=False,
            proxy_headers=False,
            server_header=False,
            lifespan="off",
            http="h11",
            ws="none",
            h11_max_incomplete_event_size=16 * 1024,
            limit_concurrency=_CONNECTIONS,
            timeout_keep_alive=15,
            timeout_graceful_shutdown=1,
        )
    )
    try:
        await asyncio.to_thread(whereabouts.write, shown.folder, where)
    except BaseException:
        listener.close()
        raise
    serving = asyncio.create_task(http.serve(sockets=[listener]), name="page")
    serving.add_done_callback(_say_end)
    log.info("the owner's page is at %s: open it with `foxden page`", where.origin)
    try:
        yield where
    finally:
        whereabouts.forget(shown.folder, where)
        http.should_exit = True
        await asyncio.wait([serving], timeout=2)
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)


def listen(port: int) -> socket.socket:
    """A listening socket on 127.0.0.1. Raises OSError."""
    for wanted in (port, 0):
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        try:
            if hasattr(socket, "SO_EXCLUSIVEADDRUSE"):  # Windows: nobody may share our port
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_EXCLUSIVEADDRUSE, 1)
            else:
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(("127.0.0.1", wanted))
            listener.listen(16)
        except OSError:
            listener.close()
            if wanted == 0:
                raise
            continue
        return listener
    raise AssertionError("the loop above returns or raises")


def _say_end(serving: asyncio.Task[None]) -> None:
    if not serving.cancelled() and (error := serving.exception()) is not None:
        log.error("the owner's page died (%s); the agent goes on without it", error)
