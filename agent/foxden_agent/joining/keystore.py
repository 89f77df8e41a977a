"""Where an agent's private keys are kept: the system's keyring, or a file of our own.

A keyring may ask its owner for a password, or wait for a service that never comes: it was seen to
hang for two minutes and for ever. Hence it is only called on a thread that may be left behind, with
a time limit, and whatever it raises counts: its backends raise far more than they promise.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

from foxden_agent.joining.errors import KeyLost, KeyUnavailable
from foxden_proto.home import write_private

T = TypeVar("T")

_SERVICE = "Foxden agent"
_SECONDS = 5.0
KEYRING, FILE = "keyring", "file"


class Keyring(Protocol):
    """What is used of the library `keyring`, and of its backends."""

    def get_password(self, service: str, username: str, /) -> str | None: ...
    def set_password(self, service: str, username: str, password: str, /) -> None: ...
    def delete_password(self, service: str, username: str, /) -> None: ...


@dataclass(frozen=True)
class Kept:
    """Where a key is now. `remark`: why it is not in the keyring; empty where it is."""

    where: str  # KEYRING or FILE
    remark: str = ""


class _Hangs(Exception):
    """The keyring did not answer in time."""


def _library() -> Keyring:
    import keyring  # on the thread: choosing a backend may talk to other programs

    return keyring


class KeyStore:
    """The keys of one agent; `folder` is the agent's. `library` is for tests."""

    def __init__(
        self,
        folder: Path,
        *,
        library: Callable[[], Keyring] = _library,
        seconds: float = _SECONDS,
    ) -> None:
        self._folder = folder / "keys"
        self._library = library
        self._seconds = seconds
        self._hanging: threading.Thread | None = None

    async def keep(self, key_id: str, secret: bytes) -> Kept:
        """Store a key under a new id, in the keyring if there is one that works. Raises OSError
        where it cannot be kept in a file either."""
        text = base64.b64encode(secret).decode()

        def store(keyring: Keyring, wanted: Callable[[], bool]) -> None:
            keyring.set_password(_SERVICE, key_id, text)
            if not wanted():  # it was given up meanwhile, and is in a file by now
                keyring.delete_password(_SERVICE, key_id)
            elif keyring.get_password(_SERVICE, key_id) != text:
                raise RuntimeError("it does not keep what it is given")

        try:
            await self._on_a_thread(store)
        except Exception as error:  # noqa: BLE001 - see above
            await asyncio.to_thread(write_private, self._path(key_id), text)
            return Kept(FILE, _why(error))
        return Kept(KEYRING)

    async def load(self, key_id: str, where: str) -> bytes:
        """The key. Raises KeyUnavailable where its keyring is locked or hangs, KeyLost."""
        if where == FILE:
            try:
                text = await asyncio.to_thread(self._path(key_id).read_text)
            except FileNotFoundError:
                text = ""
            except OSError as error:
                what = f"The key file {self._path(key_id)} cannot be read ({error.strerror})"
                raise KeyUnavailable(f"{what}: give yourself the right to read it.") from None
        else:
            try:
                text = await self._on_a_thread(
                    lambda keyring, _: keyring.get_password(_SERVICE, key_id) or ""
                )
            except Exception as error:  # noqa: BLE001 - see above
                raise KeyUnavailable(
                    f"The system's keyring, which has this machine's key, {_why(error)}: log in to "
                    "the desktop or unlock the keyring; the agent tries again by itself."
                ) from None
        secret = _decoded(text)
        if len(secret) != 32:
            raise KeyLost(
                "This machine's key for the pool is gone: ask for a new link and join again."
            )
        return secret

    async def delete(self, key_id: str, where: str) -> str:
        """Forget a key. Returns what is left behind and why; empty: nothing."""
        if where == FILE:
            try:
                await asyncio.to_thread(self._path(key_id).unlink, missing_ok=True)
                with contextlib.suppress(OSError):  # others are in it
                    self._folder.rmdir()
            except OSError as error:
                return f"the key file {self._path(key_id)} could not be deleted ({error.strerror})"
            return ""

        def delete(keyring: Keyring, _: Callable[[], bool]) -> None:
            if keyring.get_password(_SERVICE, key_id) is not None:
                keyring.delete_password(_SERVICE, key_id)

        try:
            await self._on_a_thread(delete)
        except Exception as error:  # noqa: BLE001 - see above
            return f"the key {key_id!r} of {_SERVICE!r} is left in the keyring, which {_why(error)}"
        return ""

    def _path(self, key_id: str) -> Path:
        return self._folder / f"{key_id}.key"

    async def _on_a_thread(self, do: Callable[[Keyring, Callable[[], bool]], T]) -> T:
        """A daemon thread: the program may end while a keyring still waits for a password."""
        if self._hanging is not None and self._hanging.is_alive():
            raise _Hangs
        loop = asyncio.get_running_loop()
        done: asyncio.Future[T] = loop.create_future()

        def settle(error: Exception | None, value: T | None) -> None:
            if done.done():
                return
            if error is not None:
                done.set_exception(error)
            else:
                done.set_result(value)  # type: ignore[arg-type]

        def work() -> None:
            error, value = None, None
            try:
                value = do(self._library(), lambda: not done.done())
            except Exception as raised:  # noqa: BLE001 - see above
                error = raised
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
                loop.call_soon_threadsafe(settle, error, value)

        thread = threading.Thread(target=work, name="keyring", daemon=True)
        thread.start()
        try:
            async with asyncio.timeout(self._seconds):
                return await done
        except TimeoutError:
            self._hanging = thread
            raise _Hangs from None
        finally:
            done.cancel()


def _why(error: Exception) -> str:
    """What is wrong with a keyring, to follow its name. Never with what it was given."""
    if isinstance(error, _Hangs):
        return "did not answer in time (it may be waiting for a password)"
    kind = type(error).__name__
    if kind == "NoKeyringError":
        return "is not there: this system has none that we know"
    if kind in ("KeyringLocked", "InitError"):
        return "is locked"
    if kind in ("ModuleNotFoundError", "ImportError"):
        return "cannot be used: the package `keyring` is not installed"
    return f"does not work ({kind})"


def _decoded(text: str) -> bytes:
    try:
        return base64.b64decode(text.strip(), validate=True)
    except ValueError:
        return b""
