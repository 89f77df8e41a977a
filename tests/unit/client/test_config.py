"""Which broker and which token: arguments before the environment before the file."""

from __future__ import annotations

import stat

import pytest

import foxden
from foxden import config

FILE_URL, ENV_URL, GIVEN_URL = (f"foxden://{name}.example:7433" for name in ("file", "env", "arg"))


@pytest.fixture
def written():
    return config.write(None, FILE_URL, "fxd_file")


def test_nothing_configured_says_what_to_run():
    with pytest.raises(foxden.InvalidRequest, match=r"foxden up.*foxden login") as caught:
        foxden.Client()
    assert caught.value.field == "url"


def test_the_file_is_private_and_used_last(written, monkeypatch):
    assert stat.S_IMODE(written.stat().st_mode) == 0o600
    found = config.resolve()
    assert (str(found.address), found.token) == (FILE_URL, "fxd_file")
    monkeypatch.setenv("FOXDEN_URL", ENV_URL)
    monkeypatch.setenv("FOXDEN_TOKEN", "fxd_env")
    found = config.resolve()
    assert (str(found.address), found.token) == (ENV_URL, "fxd_env")
    found = config.resolve(GIVEN_URL, "fxd_arg")
    assert (str(found.address), found.token) == (GIVEN_URL, "fxd_arg")


def test_the_files_token_goes_to_the_files_address_alone(written):
    assert config.resolve(GIVEN_URL).token == ""
    assert config.resolve(FILE_URL).token == "fxd_file"


def test_a_home_that_is_given_is_the_one_that_is_read(tmp_path):
    config.write(tmp_path / "other", FILE_URL, "fxd_other")
    assert config.resolve(home=tmp_path / "other").token == "fxd_other"


@pytest.mark.parametrize("text", ["", "[]", '{"url": "x"}', "\x00"])
def test_a_file_that_cannot_be_read_says_so(written, text):
    written.write_text(text)
    with pytest.raises(foxden.InvalidRequest, match="foxden login"):
        foxden.Client()


@pytest.mark.parametrize(
    ("url", "token", "field"),
    [
        ("http://pool.example", "fxd_x", "url"),
        ("foxden://pool.example?pin=12", "fxd_x", "url"),
        ("foxden://pool.example", "fxd_\nx", "token"),
        ("foxden://pool.example", "fxd_ü", "token"),
    ],
)
def test_a_malformed_address_or_token_is_refused_by_name(url, token, field):
    with pytest.raises(foxden.InvalidRequest) as caught:
        foxden.Client(url, token)
    assert caught.value.field == field
    assert token not in caught.value.message


def test_a_token_stays_out_of_every_repr():
    found = config.resolve(GIVEN_URL, " fxd_secret\n")
    assert found.token == "fxd_secret"
    assert "secret" not in repr(found) + repr(foxden.Client(GIVEN_URL, "fxd_secret"))
