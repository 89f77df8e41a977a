"""Sends finished pictures to the broker. They live in memory alone: nothing touches the disk."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import random
import ssl
from collections.abc import Callable
from dataclasses import dataclass

import httpx

from foxden_agent.backoff import delays
from foxden_proto.address import CERTIFICATE_NAME, Address

log = logging.getLogger(__name__)


class PictureRefused(Exception):
    """The broker will never take this picture; the text is its reason."""

    def __init__(self, status: int, reason: str) -> None:
        self.status = status
        super().__init__(f"the broker refused the picture ({status}): {reason}")

    @property
    def stale(self) -> bool:
        """True where the image belongs to another card by now, and nothing is wrong."""
        return self.status in (401, 410)


@dataclass(frozen=True)
class Stored:
    """A picture the broker has; the receipt proves that this lease sent it."""

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
        self, path: str, token: str, png: bytes, wanted: Callable[[], bool]
    ) -> Stored | None:
        """PUT a picture, again and again while the broker is away and somebody still `wanted` it.

        None: nobody does any more. Raises PictureRefused.
        """
        sha256 = hashlib.sha256(png).hexdigest()
        headers = {"Authorization": f"Bearer {token}", "X-Foxden-Sha256": sha256}
        # The certificate's name is fixed where the CA is pinned, whatever address was dialled.
        extensions = {"sni_hostname": CERTIFICATE_NAME} if self._address.pin else {}
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
                raise PictureRefused(0, f"its address is none: {error}") from None
            except (httpx.HTTPError, OSError, ValueError, KeyError, TypeError) as error:
                # The last three: what answered is a proxy or a portal, and no broker.
                log.warning("a picture could not be sent (%s); again in %.1f s", error, pause)
            else:
                if answer.status_code < 500:
                    raise PictureRefused(answer.status_code, answer.text[:200])
                log.warning("the broker cannot store a picture now: %s", answer.text[:200])
            await asyncio.sleep(pause)
        return None

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
