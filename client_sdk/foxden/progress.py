"""What `generate` shows while it waits: a bar in a terminal, a line in a notebook, or nothing."""

from __future__ import annotations

import html
import sys
from types import TracebackType
from typing import Any, Self

from foxden import events


class State:
    """How far a job is, as numbers and one line of text."""

    def __init__(self, count: int) -> None:
        self.count = count
        self._steps: dict[int, tuple[int, int]] = {}  # by image: finished, of
        self._cards: dict[int, str] = {}
        self._done: set[int] = set()
        self._queued: events.Queued | None = None

    def add(self, event: events.Event) -> None:
        match event:
            case events.Queued():
                self._queued = event
            case events.Started():
                self._cards[event.index] = event.card
                self._steps.pop(event.index, None)  # another card begins where it can
            case events.Progress():
                self._steps[event.index] = (event.step, event.steps)
            case events.PictureReady() | events.TaskFailed():
                self._done.add(event.index)
                self._cards.pop(event.index, None)

    @property
    def fraction(self) -> float:
        """0 to 1, over the steps of all images."""
        running = sum(
            step / steps
            for index, (step, steps) in self._steps.items()
            if index not in self._done and steps
        )
        return min(1.0, (len(self._done) + running) / self.count)

    @property
    def text(self) -> str:
        if len(self._done) >= self.count:
            return "done"
        if self._cards:
            cards = sorted(set(self._cards.values()))
            names = ", ".join(cards) if len(cards) <= 2 else f"{len(cards)} cards"
            return f"{len(self._done)}/{self.count} on {names}"
        if self._queued is None:
            return f"{len(self._done)}/{self.count}"
        if self._queued.waiting_for:
            return f"waiting: {self._queued.waiting_for}"
        eta = self._queued.eta_p50
        when = f", about {eta:.0f} s" if eta is not None else ""
        return f"{self._queued.position} before this one{when}"


class Silent:
    """Shows nothing; what the others do, they do on top of it."""

    def show(self, event: events.Event) -> None:
        pass

    def close(self) -> None:
        pass

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


class Terminal(Silent):
    """A bar on the error stream, gone when the job is done: results go to standard output."""

    def __init__(self, count: int) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

        self._state = State(count)
        self._progress = Progress(
            BarColumn(),
            TextColumn("{task.percentage:>3.0f}%"),
            TimeElapsedColumn(),
            TextColumn("{task.description}", markup=False),
            console=Console(stderr=True),
            transient=True,
        )
        self._task = self._progress.add_task("", total=1.0)
        self._progress.start()

    def show(self, event: events.Event) -> None:
        self._state.add(event)
        self._progress.update(
            self._task, completed=self._state.fraction, description=self._state.text
        )

    def close(self) -> None:
        self._progress.stop()


class Notebook(Silent):
    """One line with a bar, redrawn in place; gone when the job is done."""

    def __init__(self, count: int) -> None:
        self._state = State(count)
        self._handle: Any = sys.modules["IPython"].display.display(self._html(), display_id=True)

    def _html(self) -> Any:
        bar = f'<progress value="{self._state.fraction:.3f}"></progress>'
        return sys.modules["IPython"].display.HTML(f"{bar} {html.escape(self._state.text)}")

    def show(self, event: events.Event) -> None:
        self._state.add(event)
        self._handle.update(self._html())

    def close(self) -> None:
        self._handle.update(sys.modules["IPython"].display.HTML(""))


def display(wanted: bool | None, count: int) -> Silent:
    """The display for a job of `count` images; None chooses by where this runs."""
    if wanted is False:
        return Silent()
    if _in_notebook():
        return Notebook(count)
    if wanted or (sys.stderr is not None and sys.stderr.isatty()):
        return Terminal(count)
    return Silent()


def _in_notebook() -> bool:
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    return shell is not None and hasattr(shell, "kernel")
