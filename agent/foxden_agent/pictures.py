"""Sends pictures and checkpoints to the broker, and fetches checkpoints. They live in memory alone:
nothing touches the disk."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import random
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass

from foxden_agent.backoff import delays
from foxden_agent.plain_httpx import httpx
from foxden_proto.address import CERTIFICATE_NAME, Address

log = logging.getLogger(__name__)

_WORDS_BYTES = 1000  # of a refusal


class PictureRefused(Exception):
    """The broker will never take or give these bytes; the text is its reason."""

    def __init__(self, status: int, reason: str, what: str = "a picture") -> None:
        self.status = status
        super().__init__(f"the broker refused {what} ({status}): {reason}")

    @property
    def stale(self) -> bool:
        """True where the image belongs to another card by now, and nothing is wrong."""
        return self.status in (401, 410)


class Unreachable(Exception):
    """The broker could not be reached for too long."""


@dataclass(frozen=True)
class Stored:
    """Bytes the broker has; the receipt proves that this lease sent it."""

    sha256: str
    size: int  # bytes
    receipt: str


class PictureSender:
    """One kept-alive HTTP connection to the broker's HTTP door."""

    def __init__(self, address: Address, tls: Callable[[], ssl.SSLContext | None]) -> None:
        self._address = address
        self._tls = tls
        self._client: httpx.AsyncClient | None = None

    async def put(
        self,
        path: str,
        token: str,
        png: bytes,
        wanted: Callable[[], bool],
        what: str = "a picture",
    ) -> Stored | None:
        """PUT bytes, again and again while the broker is away and somebody still `wanted` them.

        None: nobody does any more. Raises PictureRefused.
        """
        sha256 = hashlib.sha256(png).hexdigest()
        headers = {"Authorization": f"Bearer {token}", "X-Foxden-Sha256": sha256}
        extensions = self._extensions
        for pause in delays(0.2, 10.0, random.Random()):
            if not wanted():
                return None
            try:
                client = await self._open()
                answer = await client.put(path, content=png, headers=headers, extensions=extensions)
                if answer.status_code == 200:
                    told = answer.json()
                    return Stored(told["sha256"], told["size"], told["receipt"])
            except httpx.InvalidURL as error:
                raise PictureRefused(0, f"its address is none: {error}", what) from None
            except (httpx.HTTPError, OSError, ValueError, KeyError, TypeError) as error:
                # The last three: what answered is a proxy or a portal, and no broker.
                log.warning("%s could not be sent (%s); again in %.1f s", what, error, pause)
            else:
                if answer.status_code < 500:
                    raise PictureRefused(answer.status_code, answer.text[:200], what)
                log.warning("the broker cannot store %s now: %s", what, answer.text[:200])
            await asyncio.sleep(pause)
        return None

    async def get(
        self,
        path: str,
        token: str,
        sha256: str,
        size: int,
        *,
        wanted: Callable[[], bool],
        within: float,
    ) -> bytes:
        """The checkpoint at `path`: exactly `size` bytes with this sha256. Empty: nobody `wanted`
        it any more. Tries again while the broker is away, for `within` seconds.

        Raises PictureRefused where these bytes cannot be had, and Unreachable.
        """
        what = "a checkpoint"
        until = time.monotonic() + within
        for pause in delays(0.2, 5.0, random.Random()):
            if not wanted():
                return b""
            try:
                async with asyncio.timeout(max(0.0, until - time.monotonic())):
                    status, data = await self._read(path, token, size)
            except httpx.InvalidURL as error:
                raise PictureRefused(0, f"its address is none: {error}", what) from None
            except TimeoutError:
                raise Unreachable(f"{what} could not be fetched for {within:g} s") from None
            except (httpx.HTTPError, OSError) as error:
                log.warning("%s could not be fetched (%s); again in %.1f s", what, error, pause)
            else:
                if status == 200 and hashlib.sha256(data).hexdigest() == sha256:
                    return data
                if status == 200:
                    raise PictureRefused(status, "it is another one than was announced", what)
                if status < 500:
                    raise PictureRefused(status, data[:200].decode(errors="replace"), what)
                log.warning("the broker cannot give %s now (%d)", what, status)
            if time.monotonic() + pause >= until:
                break
            await asyncio.sleep(pause)
        raise Unreachable(f"{what} could not be fetched for {within:g} s")

    async def _read(self, path: str, token: str, size: int) -> tuple[int, bytes]:
        """Status and body; of a body that is longer than `size` no more than its beginning."""
        client = await self._open()
        headers = {"Authorization": f"Bearer {token}"}
        data = bytearray()
        async with client.stream(
            "GET", path, headers=headers, extensions=self._extensions
        ) as answer:
            most = size + 1 if answer.status_code == 200 else _WORDS_BYTES
            async for chunk in answer.aiter_raw():
                data += chunk[: most - len(data)]
                if len(data) >= most:
                    break
        return answer.status_code, bytes(data)

    @property
    def _extensions(self) -> dict[str, str]:
        # The certificate's name is fixed where the CA is pinned, whatever address was dialled.
        return {"sni_hostname": CERTIFICATE_NAME} if self._address.pin else {}

    async def close(self) -> None:
        if self._client is not None:
            await self._client.aclose()

    async def _open(self) -> httpx.AsyncClient:
        if self._client is None:
            tls = await asyncio.to_thread(self._tls)
            self._client = httpx.AsyncClient(
                base_url=self._address.http_url,
                verify=tls if tls is not None else True,
                trust_env=not self._address.loopback,
                timeout=httpx.Timeout(30.0, connect=10.0),
            )
        return self._client
