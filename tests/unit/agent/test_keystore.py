"""Where a private key is kept: keyring × its mood → keyring or our own file, and in which words."""

from __future__ import annotations

import base64
import stat
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from foxden_agent.joining.errors import KeyLost, KeyUnavailable
from foxden_agent.joining.keystore import Kept, KeyStore

SECRET = bytes(range(32))
TEXT = base64.b64encode(SECRET).decode()


class NoKeyringError(Exception):
    pass


class KeyringLocked(Exception):
    pass


class DBusErrorResponse(Exception):
    """What a bus without the service raises, which is no error of the keyring library."""


class Ring:
    """A keyring in memory. `mood`: well, or what it does instead."""

    def __init__(self) -> None:
        self.kept: dict[tuple[str, str], str] = {}
        self.mood: Exception | str = "well"
        self.go = threading.Event()  # lets a hanging one go on
        self.calls = 0

    def _now(self) -> None:
        self.calls += 1
        if isinstance(self.mood, Exception):
            raise self.mood
        if self.mood == "hangs":
            self.go.wait(60)

    def set_password(self, service: str, username: str, password: str, /) -> None:
        self._now()
        if self.mood != "forgets":
            self.kept[service, username] = password

    def get_password(self, service: str, username: str, /) -> str | None:
        self._now()
        return self.kept.get((service, username))

    def delete_password(self, service: str, username: str, /) -> None:
        self._now()
        del self.kept[service, username]


@pytest.fixture
def ring() -> Iterator[Ring]:
    made = Ring()
    yield made
    made.go.set()


@pytest.fixture
def store(tmp_path: Path, ring: Ring) -> KeyStore:
    return KeyStore(tmp_path, library=lambda: ring)


@pytest.fixture
def impatient(tmp_path: Path, ring: Ring) -> KeyStore:
    """For keyrings that hang."""
    return KeyStore(tmp_path, library=lambda: ring, seconds=0.3)


async def test_key_goes_to_the_keyring_and_comes_back_and_is_deleted(
    store: KeyStore, ring: Ring, tmp_path: Path
) -> None:
    assert await store.keep("k", SECRET) == Kept("keyring")
    assert await store.load("k", "keyring") == SECRET
    assert not (tmp_path / "keys").exists()
    assert await store.delete("k", "keyring") == ""
    assert ring.kept == {}
    assert await store.delete("k", "keyring") == ""  # it was gone before
    with pytest.raises(KeyLost, match="join again"):
        await store.load("k", "keyring")


@pytest.mark.parametrize(
    ("mood", "words"),
    [
        (NoKeyringError("No recommended backend"), "is not there"),
        (KeyringLocked("Failed to unlock"), "is locked"),
        (DBusErrorResponse("TimedOut"), "does not work (DBusErrorResponse)"),
        (ModuleNotFoundError("keyring"), "not installed"),
        ("hangs", "did not answer in time"),
        ("forgets", "does not work"),
    ],
    ids=str,
)
async def test_where_the_keyring_does_not_work_the_key_is_in_a_file_of_our_own(
    store: KeyStore,
    impatient: KeyStore,
    ring: Ring,
    tmp_path: Path,
    mood: Exception | str,
    words: str,
) -> None:
    ring.mood = mood
    store = impatient if mood == "hangs" else store
    kept = await store.keep("k", SECRET)
    assert kept.where == "file"
    assert words in kept.remark
    assert TEXT not in kept.remark
    file = tmp_path / "keys" / "k.key"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert await store.load("k", "file") == SECRET
    assert await store.delete("k", "file") == ""
    assert not file.parent.exists()


async def test_keyring_that_hangs_is_not_called_a_second_time_while_it_does(
    impatient: KeyStore, ring: Ring
) -> None:
    ring.mood = "hangs"
    for _ in range(3):
        with pytest.raises(KeyUnavailable, match="unlock the keyring"):
            await impatient.load("k", "keyring")
    assert ring.calls == 1


async def test_key_that_a_hanging_keyring_takes_too_late_is_taken_out_again(
    impatient: KeyStore, ring: Ring
) -> None:
    ring.mood = "hangs"
    assert (await impatient.keep("k", SECRET)).where == "file"
    ring.mood = "well"
    ring.go.set()
    assert impatient._hanging is not None
    impatient._hanging.join(10)
    assert ring.kept == {}


async def test_keyring_that_is_locked_now_is_tried_again_later(store: KeyStore, ring: Ring) -> None:
    await store.keep("k", SECRET)
    ring.mood = KeyringLocked()
    with pytest.raises(KeyUnavailable, match="is locked"):
        await store.load("k", "keyring")
    assert "left in the keyring" in await store.delete("k", "keyring")
    ring.mood = "well"
    assert await store.load("k", "keyring") == SECRET


@pytest.mark.parametrize("text", ["", "%%%", base64.b64encode(b"short").decode()])
async def test_damaged_key_file_is_a_key_that_is_lost(
    store: KeyStore, tmp_path: Path, text: str
) -> None:
    (tmp_path / "keys").mkdir()
    (tmp_path / "keys" / "k.key").write_text(text)
    with pytest.raises(KeyLost):
        await store.load("k", "file")


@pytest.fixture
def real_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], KeyStore]:
    keyring = pytest.importorskip("keyring")

    def make(backend: str) -> KeyStore:
        monkeypatch.setattr(keyring.core, "_keyring_backend", keyring.core.load_keyring(backend))
        return KeyStore(tmp_path)

    return make


@pytest.mark.parametrize(
    ("backend", "words"),
    [
        ("keyring.backends.fail.Keyring", "is not there"),
        ("keyring.backends.null.Keyring", "does not work"),
    ],
)
async def test_backends_of_the_real_library_that_keep_nothing_are_seen_through(
    real_store: Callable[[str], KeyStore], backend: str, words: str
) -> None:
    store = real_store(backend)
    kept = await store.keep("k", SECRET)
    assert kept.where == "file"
    assert words in kept.remark
    assert await store.load("k", "file") == SECRET
