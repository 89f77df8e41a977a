"""A machine's key and a real keyring: kept, used and deleted; and one that is locked or hangs."""

from __future__ import annotations

import json
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from desktop import Desktop, Unavailable
from real_pool import Pool
from secret_service import SecretService

from foxden import Client

pytestmark = pytest.mark.system


@pytest.fixture
def keyring(tmp_path: Path) -> Iterator[SecretService]:
    """Without a screen: it cannot ask for its password."""
    try:
        made = SecretService(tmp_path / "owner")
    except Unavailable as why:
        pytest.skip(str(why))
    yield made
    made.close()


@pytest.fixture
def asking(tmp_path: Path) -> Iterator[SecretService]:
    """On a screen where it asks for its password."""
    try:
        desktop = Desktop(panel=False)
        made = SecretService(tmp_path / "owner", desktop.display)
    except Unavailable as why:
        pytest.skip(str(why))
    yield made
    made.close()
    desktop.close()


def foxden(keyring: SecretService, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "foxden", *words]
    return subprocess.run(
        command,
        env=keyring.environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
    )


def join(pool: Pool, keyring: SecretService) -> str:
    """Join a broker, and say what the command said."""
    if not pool.url:
        pool.start_broker("--public-host", "localhost")
    client: Client = pool.client()
    link = client.create_join_link().text
    done = foxden(keyring, "join", link, "--yes")
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def home(keyring: SecretService) -> Path:
    return Path(keyring.environment["HOME"]) / ".local/share/foxden/agent"


def key_files(keyring: SecretService) -> list[Path]:
    return list((home(keyring) / "keys").glob("*"))


def leave(keyring: SecretService) -> dict:
    done = foxden(keyring, "leave", "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_key_is_in_the_keyring_alone_and_used_from_there_and_goes_with_the_pool(
    pool: Pool, keyring: SecretService
) -> None:
    said = join(pool, keyring)
    assert "keyring" not in said  # nothing to be remarked
    ((key_id, key),) = keyring.keys().items()
    files = [path.read_text() for path in home(keyring).rglob("*") if path.is_file()]
    assert any(key_id in text for text in files)
    assert not any(key in text for text in files)
    told = leave(keyring)
    assert (told["broker_told"], told["problems"]) == (True, [])  # what it said was signed with it
    assert keyring.keys() == {}


def test_locked_keyring_x_join_is_said_and_the_key_is_in_a_file_of_the_user_alone(
    pool: Pool, keyring: SecretService
) -> None:
    keyring.lock()
    said = join(pool, keyring)
    assert "keyring is locked." in said
    (file,) = key_files(keyring)
    assert str(file.parent) in said
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
    assert leave(keyring)["broker_told"]
    assert key_files(keyring) == []


def test_keyring_that_is_locked_x_leave_says_what_stays_in_it(
    pool: Pool, keyring: SecretService
) -> None:
    join(pool, keyring)
    (key_id,) = keyring.keys()
    keyring.lock()
    told = leave(keyring)
    assert not told["broker_told"]
    untold, stays = told["problems"]
    assert "is locked" in untold
    assert f"{key_id!r}" in stays
    assert "is left in the keyring, which is locked" in stays
    assert not (home(keyring) / "pools.json").exists()


def test_keyring_that_answers_nothing_x_join_goes_on_with_a_file(
    pool: Pool, keyring: SecretService
) -> None:
    keyring.hang()
    said = join(pool, keyring)
    assert "keyring did not answer in time" in said
    (file,) = key_files(keyring)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    keyring.go_on()
    assert keyring.keys() == {}


def test_keyring_that_asks_and_nobody_answers_x_join_goes_on_with_a_file(
    pool: Pool, asking: SecretService
) -> None:
    asking.lock()
    said = join(pool, asking)
    assert "keyring did not answer in time (it may be waiting for a password)" in said
    assert len(key_files(asking)) == 1
    assert asking.is_locked()
