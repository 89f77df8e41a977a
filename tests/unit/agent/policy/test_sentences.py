"""The words of a reason: every code in every language, with every fact that it is given."""

from __future__ import annotations

import string

import pytest

from foxden_agent.policy.sentences import CATALOGUES, CHARACTERS, sentence
from foxden_agent.policy.values import Code, Reason


@pytest.mark.parametrize("language", CATALOGUES)
@pytest.mark.parametrize("code", Code)
def test_code_has_words_in_this_language_from_the_same_facts_as_in_english(
    language: str, code: Code
) -> None:
    def names(form: str) -> set[str]:
        return {name for _, name, _, _ in string.Formatter().parse(form) if name}

    text, english = CATALOGUES[language].texts[code], CATALOGUES["en"].texts[code]
    assert names(text.lasting) <= names(english.lasting)
    assert names(text.ending) <= names(english.ending)
    assert not text.ending or "left" in names(text.ending)


@pytest.mark.parametrize(
    ("code", "facts", "said"),
    [
        (Code.FULL_SCREEN, {"program": "a.exe"}, "paused: a.exe is full screen"),
        (Code.FULL_SCREEN, {"program": ""}, "paused: a program is full screen"),
        (Code.FULL_SCREEN, {"program": "a\x1b[2J\n.exe"}, "paused: a[2J.exe is full screen"),
        (Code.FULL_SCREEN, {"program": "a.exe", "left": 24.6},
         "paused: a.exe was full screen, goes on in 25 s"),
        (Code.HOT, {"temperature": 87.4, "resume": 75.0}, "hot: 87 °C, goes on below 75 °C"),
        (Code.HOT, {"temperature": 70.0, "resume": 75.0, "left": 0.2},
         "hot: 70 °C, goes on in 1 s if it stays below 75 °C"),
        (Code.OVER_BUDGET, {"memory": 2**33, "limit": 2**32},
         "paused: the engine holds 8.0 GB of the card's memory and may hold 4.0 GB, "
         "goes on with less"),
        (Code.WARM, {"temperature": 83.0, "share": 1.0}, "warm: 83 °C, works all the time still"),
        (Code.WARM, {"temperature": 85.0, "share": 0.55}, "warm: 85 °C, works 55% of the time"),
        (Code.WARM, {"temperature": 80.0, "share": 1.0, "left": 7.0},
         "warm: 80 °C, at full speed in 7 s"),
        (Code.CARD_GONE, {"problem": "The driver has lost the card: restart the PC."},
         "broken: the card or its driver does not answer, goes on by itself when it does. "
         "The driver has lost the card: restart the PC"),
        (Code.STARTING, {"delay": 7200.0}, "quiet hours: not before 2 h after the start"),
        (Code.ENGINE_BROKEN, {"problem": "{left} is no field"}, "broken: {left} is no field"),
    ],
)  # fmt: skip
def test_facts_become_words(code: Code, facts: dict[str, str | float], said: str) -> None:
    assert sentence(Reason(code, tuple(facts.items()))) == said


def test_language_that_is_not_there_is_english() -> None:
    reason = Reason(Code.OWNER)
    assert sentence(reason, "tlh") == sentence(reason, "en")


def test_long_names_and_problems_are_cut() -> None:
    long = "x" * 1000
    assert len(sentence(Reason(Code.ENGINE_BROKEN, (("problem", long),)))) == CHARACTERS
    assert len(sentence(Reason(Code.PROGRAM, (("program", long),)))) < 100
