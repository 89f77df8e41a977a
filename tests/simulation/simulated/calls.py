"""The SDK's calls, carried to the broker's gRPC service without gRPC."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
from grpc.aio import AioRpcError, Metadata

from foxden._transport import Transport
from foxden.config import Config
from simulated.network import Network


class _Aborted(Exception):
    def __init__(self, status: Any) -> None:
        self.status = status


class _Context:
    """What the services ask of a call's context."""

    def __init__(self, metadata: Any) -> None:
        self._metadata = metadata

    def invocation_metadata(self) -> Any:
        return tuple(self._metadata or ())

    async def send_initial_metadata(self, metadata: Any) -> None:
        pass

    async def abort_with_status(self, status: Any) -> None:
        raise _Aborted(status)


def _unavailable(details: str) -> AioRpcError:
    return AioRpcError(grpc.StatusCode.UNAVAILABLE, Metadata(), Metadata(), details)


def _failed(aborted: _Aborted) -> AioRpcError:
    status = aborted.status
    return AioRpcError(status.code, Metadata(), Metadata(*status.trailing_metadata), status.details)


class _Stream:
    """A call that is answered with a stream."""

    def __init__(self, caller: Generation, messages: AsyncIterator[Any]) -> None:
        self._caller, self._messages = caller, messages

    def __aiter__(self) -> AsyncIterator[Any]:
        return self._messages

    async def wait_for_connection(self) -> None:
        await self._caller._reach(20.0)


class Generation:
    """In the place of `GenerationStub`, for one client's machine."""

    def __init__(self, network: Network, machine: str) -> None:
        self._network, self._machine = network, machine

    def __getattr__(self, name: str) -> Any:
        async def unary(request: Any, *, metadata: Any, timeout: float = 20.0) -> Any:
            return await self._unary(name, request, metadata, timeout)

        def stream(request: Any, *, metadata: Any) -> _Stream:
            return _Stream(self, self._stream(name, request, metadata))

        return stream if name in ("Watch", "Download") else unary

    async def _reach(self, timeout: float) -> Any:
        network = self._network
        try:
            await network.reach(self._machine, timeout)
        except OSError as error:
            raise _unavailable(str(error)) from None
        if network.service is None:
            raise _unavailable("the connection was refused")
        return network.service

    async def _unary(self, name: str, request: Any, metadata: Any, timeout: float) -> Any:
        network = self._network
        service = await self._reach(timeout)
        broker = network.broker
        assert broker is not None
        lose = network.draw.random() < network.faults.lost_call
        if lose and network.draw.random() < 0.5:
            raise _unavailable("the connection broke on the way there")
        copied = type(request).FromString(request.SerializeToString())
        times = 2 if network.draw.random() < network.faults.again else 1
        calls = [
            broker.start(getattr(service, name)(copied, _Context(metadata)), f"{name} call")
            for _ in range(times)
        ]
        call = network.draw.choice(calls)
        for one in calls:  # nobody waits for the other
            one.add_done_callback(lambda ended: ended.cancelled() or ended.exception())
        done, _ = await asyncio.wait([call], timeout=timeout)
        if not done:
            call.cancel()
            deadline = grpc.StatusCode.DEADLINE_EXCEEDED
            raise AioRpcError(deadline, Metadata(), Metadata(), "no answer came")
        await asyncio.sleep(network.latency())
        if lose or call.cancelled() or self._machine in network.holes or not broker.alive:
            raise _unavailable("the connection broke on the way back")
        error = call.exception()
        if isinstance(error, _Aborted):
            raise _failed(error)
        if error is not None:
            raise error
        return call.result()

    async def _stream(self, name: str, request: Any, metadata: Any) -> AsyncIterator[Any]:
        network = self._network
        service = await self._reach(20.0)
        broker = network.broker
        assert broker is not None
        arrived: asyncio.Queue[Any] = asyncio.Queue(64)  # a slow reader holds up its own stream

        async def serve() -> None:
            error: Exception | None = None
            stream = getattr(service, name)(request, _Context(metadata))
            try:
                async for message in stream:
                    await arrived.put(message)
                error = StopAsyncIteration()
            except Exception as raised:
                error = raised
            except asyncio.CancelledError:
                error = _unavailable("the broker went away")
                raise
            finally:
                await stream.aclose()
                if error is not None:
                    while arrived.full():
                        arrived.get_nowait()
                    arrived.put_nowait(error)

        serving = broker.start(serve(), f"{name} stream")
        try:
            while True:
                message = await arrived.get()
                await asyncio.sleep(network.latency() / 4)
                if self._machine in network.holes or (
                    network.draw.random() < network.faults.lost_call / 4
                ):
                    raise _unavailable("the stream broke")
                if isinstance(message, StopAsyncIteration):
                    return
                if isinstance(message, _Aborted):
                    raise _failed(message)
                if isinstance(message, Exception):
                    raise message
                yield message
        finally:
            serving.cancel()


class SimulatedTransport(Transport):
    """The SDK's transport, whose channel is the simulated network."""

    def __init__(self, network: Network, machine: str, config: Config, retry_for: float) -> None:
        super().__init__(config, retry_for)
        self._services: Any = _Services(Generation(network, machine))

    async def stubs(self) -> Any:
        return self._services


class _Services:
    def __init__(self, generation: Generation) -> None:
        self.generation = generation
