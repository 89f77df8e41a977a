"""The tray without a screen: its menu, its icons, which way it takes, and why there is none."""

from __future__ import annotations

import copy
import itertools
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import foxden_agent.page
from foxden_agent.page.plots import mode_name
from foxden_agent.policy.values import SEVERITY
from foxden_agent.tray.hosts import Found, backend, why_none
from foxden_agent.tray.icons import MODES, icon
from foxden_agent.tray.menu import SEPARATOR, Entry, menu, mode, tip
from foxden_agent.tray.starting import why_not

FILES = Path(foxden_agent.page.__file__).parent / "files"
TEXTS = json.loads((FILES / "texts/en.json").read_text(encoding="utf-8"))
GIB = 2**30
CARD: dict[str, Any] = {
    "name": "RTX 4070 in den",
    "mode": "ready",
    "reasons": [],
    "readings": {"temperature": 61.4, "memory_used": 3 * GIB, "memory_total": 12 * GIB},
}
STATUS: dict[str, Any] = {
    "phase": "running",
    "online": True,
    "today": 12,
    "paused_by_hand": False,
    "may_quit": True,
    "cards": [CARD],
}
PAUSED = {
    **STATUS,
    "paused_by_hand": True,
    "cards": [{**CARD, "mode": "paused", "reasons": [{"code": "owner", "text": "paused: by you"}]}],
}


def texts(entries: tuple[Entry, ...]) -> list[str]:
    return [entry.text for entry in entries if entry is not SEPARATOR]


def actions(entries: tuple[Entry, ...]) -> list[str]:
    inner = [actions(entry.items) for entry in entries]
    return [entry.action for entry in entries if entry.action] + list(itertools.chain(*inner))


def test_ready_x_line_figures_count_and_every_choice() -> None:
    made = menu(STATUS, TEXTS)
    assert texts(made)[:3] == ["Ready", "61 °C · 3.0 of 12.0 GB", "Pictures today: 12"]
    assert sorted(actions(made)) == [
        "open",
        "pause/finish",
        "pause/hour",
        "pause/restart",
        "pause/tomorrow",
        "quit",
    ]
    assert [entry.action for entry in made if entry.default] == ["open"]
    assert not any(entry.action for entry in made[:3]), "what is only read cannot be clicked"


def test_paused_by_hand_x_the_reason_and_resume() -> None:
    made = menu(PAUSED, TEXTS)
    assert texts(made)[0] == "Paused: by you"
    assert actions(made) == ["open", "resume", "quit"]
    assert tip(PAUSED, TEXTS) == "Foxden – Paused: by you"


def test_agent_of_another_program_x_the_icon_can_be_hidden_and_nothing_quit() -> None:
    made = menu({**STATUS, "may_quit": False}, TEXTS)
    assert "quit" not in actions(made)
    assert "hide" in actions(made)


def test_no_answer_no_link_no_readings_first_run_x_each_has_its_words() -> None:
    assert actions(menu(None, {})) == ["hide"]
    assert mode(None) == "away"
    offline = {**STATUS, "online": False}
    assert TEXTS["tray.offline"] in texts(menu(offline, TEXTS))
    assert mode(offline) == "offline"
    blind = copy.deepcopy(STATUS)
    blind["cards"][0]["readings"] = dict.fromkeys(CARD["readings"])
    assert texts(menu(blind, TEXTS))[:2] == ["Ready", "Pictures today: 12"]
    first = {"phase": "first_run", "may_quit": True}
    assert actions(menu(first, TEXTS)) == ["open", "open", "quit"]
    assert mode(first) == "unread"
    assert actions(menu({"phase": "starting", "may_quit": True}, TEXTS)) == ["open", "quit"]


def test_several_cards_x_each_by_name_and_the_icon_of_the_worst() -> None:
    other = {**CARD, "name": "RTX 3060 in den", "mode": "hot", "reasons": []}
    both = {**STATUS, "cards": [CARD, other]}
    said = texts(menu(both, TEXTS))
    assert "RTX 4070 in den: Ready" in said
    assert "RTX 3060 in den: Too warm" in said
    assert mode(both) == "hot"


def test_long_reason_x_is_cut_in_menu_and_tip() -> None:
    long = copy.deepcopy(PAUSED)
    long["cards"][0]["reasons"][0]["text"] = "x" * 300
    assert max(map(len, texts(menu(long, TEXTS)))) <= 60
    assert len(tip(long, TEXTS)) <= 127, "Windows takes no more"


def test_icons_x_one_for_each_mode_and_no_two_alike_without_colour() -> None:
    assert {mode_name(one) for one in SEVERITY} <= set(MODES)
    grey = {name: icon(name).convert("LA").tobytes() for name in MODES}
    for one, other in itertools.combinations(MODES, 2):
        differing = sum(abs(a - b) > 60 for a, b in zip(grey[one], grey[other], strict=True))
        assert differing > 100, f"{one} looks like {other}"
    assert icon("never heard of").tobytes() == icon("unread").tobytes()


@pytest.mark.parametrize(
    ("system", "found", "way"),
    [
        ("win32", Found(), "win32"),
        ("darwin", Found(), "darwin"),
        ("linux", Found(), ""),
        ("linux", Found(xlib=True, gtk=True, ayatana=True), ""),
        ("linux", Found(watcher=True, xembed=True, gtk=True, ayatana=True), "appindicator"),
        ("linux", Found(watcher=True, xembed=True, gtk=True, xlib=True), "gtk"),
        ("linux", Found(xembed=True, gtk=True, ayatana=True), "gtk"),
        ("linux", Found(xembed=True, xlib=True), "xorg"),
        ("linux", Found(watcher=True, xlib=True), ""),
    ],
)
def test_way(system: str, found: Found, way: str) -> None:
    assert backend(system, found) == way


def test_no_way_x_the_sentence_says_what_would_help() -> None:
    assert "python3-gi" in why_none(Found(watcher=True))
    assert "foxden page" in why_none(Found())


@pytest.mark.parametrize(
    ("environment", "system", "has_pystray", "says"),
    [
        ({}, "linux", True, "no screen"),
        ({"DISPLAY": ":0"}, "linux", False, "pip install pystray"),
        ({"DISPLAY": ":0"}, "linux", True, ""),
        ({}, "win32", True, ""),
        ({}, "win32", False, "pip install pystray"),
    ],
)
def test_no_tray_x_why(
    environment: dict[str, str], system: str, has_pystray: bool, says: str
) -> None:
    told = why_not(environment, system, lambda name: has_pystray)
    assert says in told
    assert bool(told) is bool(says)


def test_screen_that_does_not_answer_x_one_sentence_and_the_end(tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from foxden_agent.tray import program\n"
        f"program.run(Path({str(tmp_path)!r}), 'en', supervised=False, wait=0.0)"
    )
    environment = {"DISPLAY": ":4242", "PATH": "/usr/bin", "HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 1
    assert "NoTray: no panel of this desktop shows icons" in done.stderr


def test_no_screen_at_all_x_it_is_not_waited_for(tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from foxden_agent.tray import program\n"
        f"program.run(Path({str(tmp_path)!r}), 'en', supervised=False)"
    )
    environment = {"PATH": "/usr/bin", "HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=50
    )
    assert done.returncode == 1
    assert "NoTray: there is no screen here" in done.stderr
