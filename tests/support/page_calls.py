"""The page of an agent that a test has started, as programs of its owner call it."""

from __future__ import annotations

from pathlib import Path

from real_pool import wait_until

from foxden_agent.page.call import NoPage, PageCalls


def calls_of(home: Path) -> PageCalls:
    """The page of the agent with this home, once it answers."""
    calls = PageCalls(home / "agent")

    def answers() -> bool:
        try:
            return bool(calls.status())
        except NoPage:
            return False

    wait_until(answers, 30, "the page does not answer")
    return calls
