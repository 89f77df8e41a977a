"""A browser and real programs for the tests of the owner's page."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import browser
import pytest
from page_calls import calls_of
from real_pool import Pool

from foxden_agent.page.call import PageCalls


@pytest.fixture(scope="session")
def chrome(tmp_path_factory: pytest.TempPathFactory) -> Iterator[browser.Page]:
    """One browser for all tests; each opens the page of its own agent with a key."""
    try:
        driver = browser.start(tmp_path_factory.mktemp("profile"))
    except browser.Unavailable as why:
        pytest.skip(str(why))
    yield browser.Page(driver)
    driver.quit()


@pytest.fixture
def page(chrome: browser.Page) -> Iterator[browser.Page]:
    """The browser, whose console must hold no error of ours at the end."""
    chrome.complaints()  # of the test before
    yield chrome
    # What a test asks for on purpose, and an agent that has ended before its page is closed.
    expected = ("422", "403", "ERR_CONNECTION_REFUSED")
    complaints = [one for one in chrome.complaints() if not any(word in one for word in expected)]
    assert complaints == []


@pytest.fixture(scope="session")
def evening(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pool]:
    """A broker and an agent that plays a recorded evening as it was, one second a second."""
    made = Pool(tmp_path_factory.mktemp("evening"))
    made.start_broker()
    recording = Path(__file__).parents[2] / "readings" / "evening.jsonl"
    replay = ["--replay", str(recording), "--replay-speed", "1"]
    made.start_agent("one", arguments=[*replay, "--page-port", "0"])
    yield made
    made.close()


@pytest.fixture
def calls(evening: Pool) -> PageCalls:
    return calls_of(evening.folder / "one")
