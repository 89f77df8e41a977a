"""The calls of a machine that joins or leaves. The broker is verified before anything is said."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TypeVar

import httpx
from google.protobuf.message import DecodeError, Message

from foxden_agent.joining.errors import BrokerUnreachable, LinkRefused, WrongBroker
from foxden_proto import trust
from foxden_proto.address import CERTIFICATE_NAME, Address
from foxden_proto.join_links import Refusal
from foxden_proto.v1 import join_pb2 as pb

Answer = TypeVar("Answer", bound=Message)

_ANSWER_BYTES = 64 * 1024
_TRIES = (0.0, 0.5, 1.5)  # seconds before each: an answer that was lost may be asked for again
_LOST = (
    "Nothing is used up: see that this machine is online, that the broker runs and that its HTTP "
    "port can be reached, then do the same again."
)


class Calls:
    """One broker's joining calls, over a connection that knows it."""

    def __init__(self, client: httpx.AsyncClient, address: Address) -> None:
        self._client = client
        self._address = address
        # The certificate's name is fixed where the CA is pinned, whatever address was dialled.
        self._name = {"sni_hostname": CERTIFICATE_NAME} if address.pin else {}

    async def greet(self) -> None:
        """Open the connection, which shows whether the broker has its certificate's key. Raises
        WrongBroker or BrokerUnreachable."""
        try:
            await self._client.get("/healthz", extensions=self._name)
        except httpx.HTTPError as error:
            if _is_certificate(error):
                raise _wrong(self._address) from None
            raise self._silent(error) from None

    async def post(
        self, path: str, answer: type[Answer], request: Message | None = None, bearer: str = ""
    ) -> Answer:
        """Ask, again where the connection breaks. Raises LinkRefused, WrongBroker or
        BrokerUnreachable."""
        problem: Exception | None = None
        for pause in _TRIES:
            await asyncio.sleep(pause)
            try:
                return await self._once(path, answer, request, bearer)
            except httpx.HTTPError as error:
                if _is_certificate(error):
                    raise _wrong(self._address) from None
                problem = error
            except LinkRefused as refused:
                if refused.why is not Refusal.UNAVAILABLE:
                    raise
                problem = refused
        raise self._silent(problem)

    def _silent(self, problem: Exception | None) -> BrokerUnreachable:
        why = str(problem) or type(problem).__name__
        return BrokerUnreachable(
            f"The broker at {self._address.http_url} does not answer ({why}). {_LOST}"
        )

    async def _once(
        self, path: str, answer: type[Answer], request: Message | None, bearer: str
    ) -> Answer:
        headers = {"Content-Type": "application/x-protobuf"}
        if bearer:
            headers["Authorization"] = f"Bearer {bearer}"
        content = request.SerializeToString() if request is not None else b""
        async with self._client.stream(
            "POST", path, content=content, headers=headers, extensions=self._name
        ) as response:
            data = bytearray()
            async for chunk in response.aiter_raw():
                data += chunk
                if len(data) > _ANSWER_BYTES:
                    break
        try:
            if response.status_code == 200:
                return answer.FromString(bytes(data))
            told = pb.JoinProblem.FromString(bytes(data))
            if told.message:
                why = _refusal(told.reason)
                raise LinkRefused(told.message[:500], why, max(0.0, told.retry_after))
        except DecodeError:
            pass
        raise BrokerUnreachable(
            f"What answers at {self._address.http_url} does not know join links (status "
            f"{response.status_code}): it is an older broker, or a proxy between. Ask the "
            "administrator."
        )


@asynccontextmanager
async def calls(address: Address) -> AsyncIterator[Calls]:
    """Calls to the broker at this address, which has shown that it is the one the address names:
    its CA, or its public certificate, before a byte of ours is sent. Raises WrongBroker or
    BrokerUnreachable."""
    try:
        tls = await asyncio.to_thread(trust.tls_context, address)
    except trust.WrongBroker:
        raise _wrong(address) from None
    except trust.BrokerUnreachable as error:
        raise BrokerUnreachable(f"{_capital(str(error))}. {_LOST}") from None
    async with httpx.AsyncClient(
        base_url=address.http_url,
        verify=tls if tls is not None else True,
        trust_env=not address.loopback,
        timeout=httpx.Timeout(20.0, connect=10.0),
    ) as client:
        made = Calls(client, address)
        await made.greet()
        yield made


def _wrong(address: Address) -> WrongBroker:
    return WrongBroker(
        f"What answers at {address.http_url} is not the broker of this link: its certificate is "
        "another one. It was told nothing. Somebody may be between you and the broker, or the "
        "broker was set up anew: ask the administrator, and for a new link if it was."
    )


def _is_certificate(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, ssl.SSLCertVerificationError):
            return True
        error = error.__cause__ or error.__context__
    return False


def _refusal(word: str) -> Refusal | None:
    return Refusal(word) if word in {one.value for one in Refusal} else None


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
