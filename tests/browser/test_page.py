"""The owner's page in a real browser, served by a real agent."""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from browser import Page
from hub_server import UNET_16, Hub, Repo, demo_files, serving
from page_calls import calls_of
from real_pool import Pool, Process, wait_until
from selenium.webdriver.common.keys import Keys

from foxden_agent.model_hub.starters import starters
from foxden_agent.page import whereabouts
from foxden_agent.page.call import PageCalls

pytestmark = [pytest.mark.system, pytest.mark.engine]


def mode(pool: Pool) -> str:
    """As `foxden cards` tells it."""
    (card,) = pool.client().cards()
    return str(card.mode)


def press(page: Page, *keys: str) -> None:
    page.browser.switch_to.active_element.send_keys(*keys)


def focus(page: Page) -> str:
    """The id, or else the text, of what has the focus."""
    element = page.browser.switch_to.active_element
    return str(element.get_attribute("id") or element.text)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """Has the demo model by two names of the list, and no other model of it."""
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    repos = {one.repo: Repo(demo_files()) for one in starters()[:2]}
    for repo in repos:  # the same bytes would be the same model
        repos[repo].files["tokenizer/added_tokens.json"] = b"{}" + b" " * len(repo)
    with serving(Hub(repos)) as one:
        monkeypatch.setenv("HF_ENDPOINT", one.address)
        yield one


def test_first_run_x_from_a_link_over_a_model_to_the_picture_and_online(
    tmp_path: Path, page: Page, hub: Hub
) -> None:
    pool = Pool(tmp_path)
    home = tmp_path / "new"
    chosen = starters()[1]
    try:
        pool.start_broker()
        link = pool.client().create_join_link().text
        words = ["--home", str(home), "--device", "cpu", "--page-port", "0"]
        agent = Process(["-m", "foxden_agent"], words, tmp_path / "new.log")
        pool.agents["new"] = agent
        page.browser.get(calls_of(home).address())
        page.until_seen("#join-link").send_keys(link[:-1] + Keys.ENTER)
        page.find("#step-join button").click()
        page.until_text("#step-join", "copy the whole link")
        page.find("#join-link").clear()
        page.find("#join-link").send_keys(link)
        page.find("#step-join button").click()
        page.until_seen("#join-name")
        wait_until(lambda: focus(page) == "join-name", why="the focus does not follow")
        press(page, "Ann's PC")
        page.find("#step-join button.first").click()
        page.until_text("#step-engine", "nothing to fetch")
        page.until_seen("#step-model fieldset")
        for one in starters():
            assert one.title in page.text("#step-model")
        assert chosen.licence in page.text("#step-model")
        assert page.text("#step-model").count("MB to fetch") == 2
        assert len(page.all("#step-model input:disabled")) == 3
        # The first that can be had is chosen; by the keyboard it becomes the other one.
        wait_until(lambda: focus(page).startswith("model-"), why="the focus does not follow")
        press(page, Keys.ARROW_DOWN)
        assert focus(page) == "model-segmind-SSD-1B"
        hub.spoilt = {UNET_16}
        press(page, Keys.TAB)
        press(page, Keys.ENTER)
        page.until_text("#step-model .problem", "other bytes")
        hub.spoilt = set()
        assert page.find("#model-segmind-SSD-1B").is_selected()
        page.find("#step-model button.first").click()
        page.until_text("#step-model", f"{chosen.title} is in your folder")
        picture = page.until_seen(".picture")
        wait_until(lambda: picture.get_property("naturalWidth") == 64, why="no picture is shown")
        page.until_seen("#step-online button").click()
        page.until_seen("#to-now").click()
        page.until_text("#cards", "Ready")
        (card,) = pool.client().cards()
        assert card.name.endswith("in Ann's PC")
        assert {model.name for model in pool.client().models()} == {"foxden-demo", "SSD-1B"}
        # One that comes by command is offered without a restart.
        words = ["fetch-model", starters()[0].repo, "--home", str(home), "--yes"]
        subprocess.run([sys.executable, "-m", "foxden", *words], check=True, timeout=120)
        wait_until(
            lambda: "stable-diffusion-v1-5" in {one.name for one in pool.client().models()},
            60,
            "what was fetched is not offered",
        )
        kept = [path.suffix for path in home.rglob("*") if path.is_file()]
        assert ".png" not in kept
        for log in tmp_path.glob("*.log"):
            assert link.rpartition("/")[2] not in log.read_text()
        assert agent.stop() == 0
        assert whereabouts.read(home / "agent") is None
    finally:
        for process in pool.agents.values():
            process.discard()
        pool.close()


def test_pause_and_resume_x_the_pool_hears_of_it_and_the_page_says_why(
    evening: Pool, calls: PageCalls, page: Page
) -> None:
    page.browser.get(calls.address())
    page.until_text("#cards", "Ready")
    assert page.browser.current_url.endswith("/"), "the key stays in the address bar"
    page.find("#do-hour").click()
    page.until_text("#cards", "paused: by you, goes on at")
    wait_until(lambda: mode(evening) == "paused", 5, "the pool does not hear of the pause")
    page.until_seen("#do-resume").click()
    page.until_text("#cards", "Ready")
    wait_until(lambda: mode(evening) == "ready", 5, "the pool does not hear of the end")
    page.until_seen("#do-finish").click()
    wait_until(lambda: mode(evening) == "draining", 5, "it takes work still")
    page.until_seen("#do-resume").click()
    wait_until(lambda: mode(evening) == "ready", 5, "it takes no work again")


def test_task_x_its_steps_are_shown_and_its_prompt_nowhere(
    evening: Pool, calls: PageCalls, page: Page
) -> None:
    page.browser.get(calls.address())
    page.until_text("#cards", "Ready")
    before = calls.status()["today"]
    secret = "a purple elephant"
    job = evening.client().submit(secret, steps=100, width=128, height=128, seed=1)
    page.until_text("#cards", "step ")
    told = json.dumps([calls.status(), calls._call("GET", "/api/log")])
    assert "foxden-demo" in told
    assert secret not in told
    job.result(timeout=60)
    page.until_text("#facts", str(before + 1))


def test_settings_x_refused_beside_the_field_and_saved_at_once(
    evening: Pool, calls: PageCalls, page: Page
) -> None:
    page.browser.get(calls.address())
    page.until_seen("nav a[href='#settings']").click()
    hot = page.until_seen("#f-temperature-resume")
    hot.clear()
    hot.send_keys("99" + Keys.ENTER)
    page.until_text("#f-temperature-resume-problem", "which is 87")
    assert focus(page) == "f-temperature-resume"
    assert hot.get_attribute("aria-invalid") == "true"
    policy = evening.folder / "one" / "agent" / "policy.json"
    assert not policy.exists() or "99" not in policy.read_text()
    hot.clear()
    hot.send_keys("74")
    page.find("#f-quiet_hours").send_keys("daily 00:00-24:00")
    page.find("#save").click()
    page.until_text("#saved", "Saved")
    saved = json.loads(policy.read_text())  # all of it, as the form has it
    assert saved["temperature"]["resume"] == 74
    wait_until(lambda: mode(evening) == "quiet_hours", 5, "the new hours do not count")
    hours = page.find("#f-quiet_hours")
    hours.clear()
    page.find("#save").click()
    page.until_text("#saved", "Saved")
    calls.do("settings", values={"hold": 0})
    wait_until(lambda: mode(evening) == "ready", 5, "the hours are not over")
    calls.do("settings", values={"hold": 30})


def test_keyboard_alone_x_through_all_pages_and_a_pause(
    evening: Pool, calls: PageCalls, page: Page
) -> None:
    page.browser.get(calls.address())
    page.until_text("#cards", "Ready")
    press(page, Keys.TAB)
    assert focus(page) == "Skip to the content"
    for name in ("Now", "History"):
        press(page, Keys.TAB)
        assert focus(page) == name
    press(page, Keys.ENTER)
    page.until_text("#story", "Ready")
    assert focus(page) == "main", "a new view takes the focus"
    press(page, Keys.TAB)
    press(page, Keys.ARROW_LEFT)
    page.until_text(".readout", "°C")
    page.browser.find_element("css selector", "nav a[href='#log']").send_keys(Keys.ENTER)
    page.until_text("#lines", "as session")
    page.browser.find_element("css selector", "nav a").send_keys(Keys.ENTER)
    page.until_seen("#do-hour")
    press(page, Keys.TAB)
    assert focus(page) == "do-hour"
    press(page, Keys.SPACE)
    page.until_text("#cards", "paused: by you")
    page.until_seen("#do-resume")
    assert focus(page) == "do-resume"
    press(page, Keys.ENTER)
    page.until_text("#cards", "Ready")
    assert page.all("main h1:first-of-type")
    unnamed = page.browser.execute_script(
        "return [...document.querySelectorAll('input, textarea, select, progress')]"
        ".filter(e => !e.labels?.length && !e.getAttribute('aria-label')).map(e => e.outerHTML)"
    )
    assert unnamed == []


def test_narrow_screen_x_no_page_is_wider_than_it(calls: PageCalls, page: Page) -> None:
    narrow = {"width": 360, "height": 740, "deviceScaleFactor": 1, "mobile": False}
    page.browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", narrow)
    try:
        page.browser.get(calls.address())
        page.until_text("#cards", "Ready")
        for name, seen in {"now": "#do-hour", "history": ".curve", "settings": "#f-hold"}.items():
            page.find(f"nav a[href='#{name}']").click()
            page.until_seen(seen)
            width = page.browser.execute_script("return document.documentElement.scrollWidth")
            assert width <= 360, f"{name} is {width} px wide"
    finally:
        page.browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


@pytest.mark.parametrize("display", ["", ":4242"], ids=["no screen", "no browser"])
def test_no_screen_or_no_browser_x_foxden_page_prints_an_address_that_opens(
    evening: Pool, page: Page, display: str
) -> None:
    words = [sys.executable, "-m", "foxden", "--home", str(evening.folder / "one"), "page"]
    environment = {"PATH": "/nowhere", "HOME": str(evening.folder), "DISPLAY": display}
    done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stderr
    address = done.stdout.strip().splitlines()[-1]
    page.browser.get(address)
    page.until_text("#cards", "Ready")


def test_stranger_x_another_name_origin_port_or_browser_gets_nothing(
    evening: Pool, calls: PageCalls, page: Page
) -> None:
    where = whereabouts.read(evening.folder / "one" / "agent")
    assert where is not None

    def answer(path: str, method: str = "GET", **headers: str) -> int:
        request = urllib.request.Request(where.origin + path, method=method)
        request.data = b"{}" if method == "POST" else None
        for name, value in headers.items():
            request.add_header(name.replace("_", "-"), value)
        try:
            return int(urllib.request.urlopen(request, timeout=10).status)
        except urllib.error.HTTPError as error:
            return error.code

    owner = {"Authorization": f"Bearer {where.secret}", "Content_Type": "application/json"}
    assert answer("/api/status", **owner) == 200
    assert answer("/api/status") == 403
    assert answer("/api/status", **owner, Host="evil.example") == 403
    assert answer("/", Host=f"evil.example:{where.port}") == 403
    assert answer("/api/pause", "POST", **owner, Origin="http://evil.example") == 403
    assert answer("/api/pause", "POST", **owner, Origin="http://127.0.0.1:9") == 403
    for path in ("/../../etc/passwd", "/texts/en.json", "/page.json", "/files/"):
        assert answer(path, **owner) == 404
    address = calls.address()
    page.browser.get(address)
    page.until_text("#cards", "Ready")
    page.browser.get(address)  # somebody has read it, and comes second
    page.until_text("#locked", "opens with a key")
    assert mode(evening) == "ready"
