"""A real browser for tests: Debian's Chromium without a screen, driven by selenium."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from selenium.common.exceptions import StaleElementReferenceException, TimeoutException
from selenium.webdriver import Chrome, ChromeOptions, ChromeService
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import WebDriverWait

PROGRAMS = ("chromium", "chromedriver")
SECONDS = 60  # for what a real engine has to do first, on a busy machine


class Unavailable(Exception):
    """There is no browser here."""


def start(profile: Path, *, width: int = 1100, height: int = 900, dark: bool = False) -> Chrome:
    """Raises Unavailable."""
    missing = [name for name in PROGRAMS if not shutil.which(name)]
    if missing:
        raise Unavailable(f"{', '.join(missing)} not found: apt-get install chromium-driver")
    options = ChromeOptions()
    options.binary_location = shutil.which("chromium") or ""
    for flag in (
        "--headless=new --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-sync "
        "--disable-background-networking --disable-component-update --disable-dev-shm-usage "
        f"--user-data-dir={profile} --window-size={width},{height} --lang=en"
        + (" --force-dark-mode" if dark else "")
    ).split():
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    return Chrome(options, ChromeService(shutil.which("chromedriver")))


class Page:
    """The owner's page in a browser, as a person uses it."""

    def __init__(self, browser: Chrome) -> None:
        self.browser = browser

    def find(self, css: str) -> WebElement:
        return self.browser.find_element(By.CSS_SELECTOR, css)

    def all(self, css: str) -> list[WebElement]:
        return self.browser.find_elements(By.CSS_SELECTOR, css)

    def text(self, css: str) -> str:
        """What is seen there; empty where nothing is."""
        try:
            return str(
                self.browser.execute_script(
                    "const e = document.querySelector(arguments[0]); "
                    "return e && e.offsetParent !== null ? e.innerText : ''",
                    css,
                )
            )
        except Exception:  # the document is just being left
            return ""

    def until_text(self, css: str, part: str, seconds: float = SECONDS) -> None:
        """Wait until a text is seen there."""
        self._until(lambda: part in self.text(css), f"{part!r} is not in {css}", seconds)

    def until_seen(self, css: str, seconds: float = SECONDS) -> WebElement:
        """Wait until an element is seen."""
        self._until(lambda: any(e.is_displayed() for e in self.all(css)), f"no {css}", seconds)
        return next(element for element in self.all(css) if element.is_displayed())

    def _until(self, what: Callable[[], bool], why: str, seconds: float) -> None:
        try:
            WebDriverWait(self.browser, seconds, 0.1, [StaleElementReferenceException]).until(
                lambda _: what()
            )
        except TimeoutException:
            seen = self.browser.execute_script("return document.body.innerText")
            raise AssertionError(f"{why} after {seconds:g} s; the page says\n{seen}") from None

    def complaints(self) -> list[str]:
        """What the browser's console holds of errors: refused by CSP, failed scripts."""
        lines = self.browser.get_log("browser")
        return [str(line["message"]) for line in lines if line["level"] == "SEVERE"]
