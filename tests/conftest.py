"""For all tests: in CI nothing is skipped, Ctrl-C reaches whom it is meant for, and a test that
fails shows what its programs said."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Generator

import pytest

BEGAN = pytest.StashKey[float]()  # a test's setup, in seconds since 1970


def pytest_configure() -> None:
    """A shell starts what runs in its background with Ctrl-C ignored, and every program started
    from there inherits that: tests that press it would wait for ever."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A skip in CI is a failure: what CI does not run, nobody runs. CI is also where nobody can
    look at the logs afterwards."""
    report = yield
    if call.when == "setup":
        item.stash[BEGAN] = call.start
    if report.failed and "real_pool" in sys.modules:  # real processes, each with a log of its own
        import last_words

        report.sections += last_words.of_open_pools(item.stash[BEGAN])
    if report.skipped and os.environ.get("CI") == "true" and not hasattr(report, "wasxfail"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome = "failed"
        report.longrepr = f"skipped in CI: {reason}"
    return report
