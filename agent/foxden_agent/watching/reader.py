"""A blocking read on a thread of its own, so that a driver that hangs holds nobody else up."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class Reader(Generic[T]):
    """At most one read is under way. The thread is a daemon: at the end nobody waits for it."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._questions: queue.SimpleQueue[tuple[Callable[[], T], asyncio.Future[T]] | None]
        self._questions = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._answer: asyncio.Future[T] | None = None

    def ask(self, read: Callable[[], T]) -> asyncio.Future[T]:
        """The answer to come: of this read, or of an earlier one that is still under way."""
        if self._answer is None or self._answer.done():
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name=self.name, daemon=True)
                self._thread.start()
            self._answer = asyncio.get_running_loop().create_future()
            self._questions.put((read, self._answer))
        return self._answer

    def close(self) -> None:
        """Let the thread end when its driver lets it."""
        self._questions.put(None)

    def _run(self) -> None:
        while (question := self._questions.get()) is not None:
            read, answer = question
            try:
                value = read()
            except Exception as error:  # noqa: BLE001 - it is the asker's to judge
                _tell(answer, partial(answer.set_exception, error))
            else:
                _tell(answer, partial(answer.set_result, value))
            del question, read, answer


def _tell(answer: asyncio.Future[Any], settle: Callable[[], None]) -> None:
    def tell() -> None:
        if not answer.done():  # whoever waited was cancelled
            settle()
            answer.exception()  # seen: an asker that gave up hears of it no more

    with suppress(RuntimeError):  # the loop is closed: it is over anyway
        answer.get_loop().call_soon_threadsafe(tell)
