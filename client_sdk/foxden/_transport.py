"""One broker's channel: how it is trusted, how calls are repeated, how the token travels."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import grpc
import grpc.aio

from foxden._translate import retryable, translate
from foxden.config import Config
from foxden.errors import FoxdenError, Unavailable, WrongBroker
from foxden_proto import trust
from foxden_proto.address import CERTIFICATE_NAME, Address
from foxden_proto.v1.generation_pb2_grpc import GenerationStub
from foxden_proto.v1.pool_pb2_grpc import AdminStub, PoolStub

if TYPE_CHECKING:  # known to the type checker alone
    from foxden_proto.v1.generation_pb2_grpc import GenerationAsyncStub
    from foxden_proto.v1.pool_pb2_grpc import AdminAsyncStub, PoolAsyncStub

RETRY_FOR = 60.0  # seconds a call keeps trying an unreachable broker
ATTEMPT_SECONDS = 20.0  # for one try of a call with one answer
_MIB = 1024 * 1024

T = TypeVar("T")

_OPTIONS: list[tuple[str, int | str]] = [
    ("grpc.max_receive_message_length", 16 * _MIB),  # Get of a job of 1000 images, with attempts
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.http2.max_pings_without_data", 0),  # a long wait in the queue is silent both ways
    ("grpc.enable_retries", 0),  # `retryable` decides, nobody else
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 2_000),
    ("grpc.use_local_subchannel_pool", 1),  # another client's back-off is not ours
]


@dataclass(frozen=True)
class Stubs:
    generation: GenerationAsyncStub
    pool: PoolAsyncStub
    admin: AdminAsyncStub


def delays(first: float = 0.1, most: float = 3.0, jitter: float = 0.5) -> Iterator[float]:
    """Seconds to wait before each new try: doubling, with jitter, for ever."""
    delay = first
    while True:
        yield delay * random.uniform(1 - jitter, 1 + jitter)
        delay = min(delay * 2, most)


class Patience:
    """How long one call goes on trying: `retry_for` seconds from the first failure since it last
    heard something. A watch that was silent for an hour has the whole of it when its stream breaks.
    """

    def __init__(self, retry_for: float, where: str) -> None:
        self._retry_for, self._where = retry_for, where
        self.renew()

    def renew(self) -> None:
        """The broker was heard."""
        self._since: float | None = None
        self._delays = delays()

    def delay(self, error: Exception) -> float:
        """Seconds to wait before the next try. Raises the translated error where there is none."""
        pause = next(self._delays)
        now = time.monotonic()
        self._since = now if self._since is None else self._since
        spent = now - self._since
        if retryable(error) and spent + pause <= self._retry_for:
            return pause
        if isinstance(error, grpc.aio.AioRpcError):
            raise translate(error, self._where) from None
        raise error


class Transport:
    """The channel to one broker; connects at the first call. Belongs to one event loop."""

    def __init__(self, config: Config, retry_for: float = RETRY_FOR) -> None:
        self.address = config.address
        self.retry_for = retry_for
        self.metadata = (
            [("authorization", f"Bearer {config.token}")] if config.token else []
        )  # beside the message, never logged
        self._channel: grpc.aio.Channel | None = None
        self._stubs: Stubs | None = None
        self._opening = asyncio.Lock()

    @property
    def where(self) -> str:
        return f"the broker at {self.address.grpc_target}"

    @property
    def opened(self) -> bool:
        return self._channel is not None

    def patience(self) -> Patience:
        return Patience(self.retry_for, self.where)

    async def stubs(self) -> Stubs:
        """The services of the broker. Raises Unavailable while a pinned CA cannot be fetched."""
        async with self._opening:
            if self._stubs is None:
                self._channel = await open_channel(self.address)
                self._stubs = Stubs(
                    GenerationStub(self._channel), PoolStub(self._channel), AdminStub(self._channel)
                )
            return self._stubs

    async def call(self, attempt: Callable[[Stubs], Awaitable[T]]) -> T:
        """Make one call, again where `retryable` says so. Raises an error of our tree."""
        patience = self.patience()
        while True:
            try:
                return await attempt(await self.stubs())
            except (grpc.aio.AioRpcError, FoxdenError) as error:
                pause = patience.delay(error)
            await asyncio.sleep(pause)

    async def close(self) -> None:
        channel, self._channel, self._stubs = self._channel, None, None
        if channel is not None:
            await channel.close()


async def open_channel(address: Address) -> grpc.aio.Channel:
    """A channel that trusts what the address says, and nothing else."""
    if address.plain:
        options = [*_OPTIONS, ("grpc.enable_http_proxy", 0)]
        return grpc.aio.insecure_channel(address.grpc_target, options=options)
    if not address.pin:
        credentials = grpc.ssl_channel_credentials()
        return grpc.aio.secure_channel(address.grpc_target, credentials, options=_OPTIONS)
    try:
        root = await asyncio.to_thread(trust.pinned_root, address)
    except trust.WrongBroker as error:
        raise WrongBroker(str(error)) from None
    except trust.BrokerUnreachable as error:
        raise Unavailable(str(error)) from None
    credentials = grpc.ssl_channel_credentials(root.encode())
    options = [*_OPTIONS, ("grpc.ssl_target_name_override", CERTIFICATE_NAME)]
    return grpc.aio.secure_channel(address.grpc_target, credentials, options=options)
