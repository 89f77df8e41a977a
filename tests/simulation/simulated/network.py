"""The network between agents, clients and the broker: latency, resets, black holes, repeats.

It offers what the programs use: `dial` in the place of `websockets.connect`, a transport for httpx,
and calls for the SDK's stubs. All reach the broker's real doors. A WebSocket never repeats or
swaps frames, but a proxy or another broker in between may after a reconnect: `again` says how
many frames come a second time, right away or up to seconds later.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

import httpx
from websockets.exceptions import ConnectionClosedError

from foxden_proto.v1 import link_pb2 as pb
from simulated.clock import Process

# They open and close a connection.
_ONCE = ("challenge", "proof", "admitted", "hello", "goodbye", "welcome", "rejected")
_MOST_ON_THE_WAY = 200  # messages; then a sender has to wait, as for a full socket


@dataclass
class NetworkFaults:
    reset: float = 0.0  # the chance that a connection breaks with a message on it
    again: float = 0.0  # the chance that a frame is delivered once more
    lost_call: float = 0.0  # the chance that a call's request or answer is lost
    slow: float = 1.0  # times the usual latency


class Socket:
    """One WebSocket: `agent` is the name of the machine that dialled."""

    def __init__(self, network: Network, agent: str) -> None:
        self.network, self.agent = network, agent
        self.open = True
        self.welcomed = False  # the welcome has arrived
        self.to_broker = Pipe(self, "->", pb.AgentFrame)
        self.to_agent = Pipe(self, "<-", pb.BrokerFrame)
        self.accepted = asyncio.get_running_loop().create_future()

    def reset(self, *, silently: bool = False) -> None:
        """Broken for both ends at once; `silently`: nobody is told but by the silence."""
        if not self.open:
            return
        self.open = False
        self.network.sockets.pop(self, None)
        if not silently:
            self.to_agent.end()
        self.to_broker.end()
        if not self.accepted.done():
            self.accepted.set_result(False)

    def __hash__(self) -> int:
        return id(self)


class Pipe:
    """One direction: messages in order, each after its latency."""

    def __init__(self, socket: Socket, arrow: str, kind: Any) -> None:
        self._socket, self._arrow, self._kind = socket, arrow, kind
        self._arrived: asyncio.Queue[bytes | None] = asyncio.Queue()
        self._held: list[bytes | None] = []  # in a black hole
        self._last = 0.0
        self._on_the_way = 0
        self._room = asyncio.Event()
        self._room.set()
        self._ended = False

    async def put(self, data: bytes) -> None:
        network = self._socket.network
        if not self._socket.open or self._ended:
            raise OSError("the connection is gone")
        await self._room.wait()
        draw, faults = network.draw, network.faults
        if draw.random() < faults.reset:
            network.note(f"{self._socket.agent}: the connection is reset")
            self._socket.reset()
            return
        self._later(data)
        if draw.random() < faults.again and self._name(data) not in _ONCE:
            later = draw.choice([0.0, 0.0, draw.uniform(0, 3), draw.uniform(0, 60)])
            asyncio.get_running_loop().call_later(later, self._again, data)

    def _again(self, data: bytes) -> None:
        """On this machine's connection of that time, which may be a later one."""
        network = self._socket.network
        for socket in network.sockets:
            if socket.agent == self._socket.agent and socket.accepted.done():
                pipe = socket.to_broker if self._arrow == "->" else socket.to_agent
                if socket.welcomed:
                    network.note(f"{socket.agent}: once more")
                    pipe._later(data)

    def _later(self, data: bytes | None) -> None:
        self._on_the_way += 1
        if self._on_the_way > _MOST_ON_THE_WAY:
            self._room.clear()
        loop = asyncio.get_running_loop()
        # Timers of one moment come in any order: each message has its own.
        self._last = max(loop.time() + self._socket.network.latency(), self._last + 1e-6)
        loop.call_at(self._last, self._deliver, data)

    def _deliver(self, data: bytes | None) -> None:
        if self._ended:
            return
        if self._socket.agent in self._socket.network.holes:
            self._held.append(data)
            return
        self._on_the_way -= 1
        if self._on_the_way < _MOST_ON_THE_WAY // 2:
            self._room.set()
        if data is not None:
            name = self._name(data)
            if name == "welcome":
                self._socket.welcomed = True
            self._socket.network.note(f"{self._socket.agent} {self._arrow} {name}", data)
        self._arrived.put_nowait(data)

    def healed(self) -> None:
        held, self._held = self._held, []
        for data in held:
            self._deliver(data)

    def close(self) -> None:
        """The end of the stream, behind what is on the way."""
        self._later(None)

    def end(self) -> None:
        """At once; what is on the way is lost."""
        self._ended = True
        self._room.set()
        self._arrived.put_nowait(None)

    async def get(self) -> bytes | None:
        data = await self._arrived.get()
        if data is None:
            self._arrived.put_nowait(None)  # for whoever asks again
        return data

    def _name(self, data: bytes) -> str:
        return str(self._kind.FromString(data).WhichOneof("frame"))


class Network:
    """Who can reach the broker, and how well."""

    def __init__(self, draw: random.Random, note: Callable[..., None]) -> None:
        self.draw, self.note = draw, note
        self.faults = NetworkFaults()
        self.sockets: dict[Socket, None] = {}
        self.holes: set[str] = set()  # machines whose packets vanish
        self.door: Any = None  # the broker's ASGI application while it runs
        self.service: Any = None  # its GenerationService
        self.broker: Process | None = None

    def latency(self) -> float:
        return (0.002 + self.draw.expovariate(1 / 0.01)) * self.faults.slow

    def heal(self, machine: str) -> None:
        self.holes.discard(machine)
        for socket in list(self.sockets):
            if socket.agent == machine:
                socket.to_agent.healed()
                socket.to_broker.healed()

    def broker_gone(self, *, silently: bool) -> None:
        self.door = self.service = self.broker = None
        for socket in list(self.sockets):
            socket.reset(silently=silently)

    def broker_up(self, process: Process, door: Any, service: Any) -> None:
        self.broker, self.door, self.service = process, door, service

    async def reach(self, machine: str, patience: float) -> Any:
        """The broker's HTTP door, after a connection was made. Raises OSError."""
        if machine in self.holes:
            await asyncio.sleep(patience)
            raise TimeoutError("timed out")
        await asyncio.sleep(self.latency())
        if self.door is None:
            raise ConnectionRefusedError("nobody listens there")
        return self.door


class Dialled:
    """In the place of `websockets.asyncio.client.connect`, for one machine."""

    def __init__(
        self, network: Network, machine: str, process: Process, headers: dict[str, str], within: Any
    ) -> None:
        self._network, self._machine, self._process = network, machine, process
        self._headers, self._within = headers, float(within)

    async def __aenter__(self) -> Dialled:
        network = self._network
        app = await network.reach(self._machine, self._within)
        self.socket = socket = Socket(network, self._machine)
        network.sockets[socket] = None
        assert network.broker is not None
        network.broker.start(_serve_socket(app, socket, self._headers), f"link {self._machine}")
        try:
            async with asyncio.timeout(self._within):
                if not await socket.accepted:
                    raise ConnectionClosedError(None, None)
        except BaseException:
            socket.reset()
            raise
        return self

    async def __aexit__(self, *exc: object) -> None:
        if not self._process.alive or self._network.draw.random() < 0.1:
            self.socket.reset()
        elif self.socket.open:
            self.socket.to_broker.close()
            self.socket.to_agent.end()

    @property
    def transport(self) -> Dialled:
        return self

    def abort(self) -> None:
        self.socket.to_agent.end()
        if self._machine in self._network.holes:
            self.socket.reset(silently=True)
        else:
            self.socket.reset()

    async def send(self, data: bytes) -> None:
        if not self._process.alive:
            return
        try:
            await self.socket.to_broker.put(data)
        except OSError:
            raise ConnectionClosedError(None, None) from None

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while (data := await self.socket.to_agent.get()) is not None:
            yield data
        if not self.socket.open:
            raise ConnectionClosedError(None, None)


async def _serve_socket(app: Any, socket: Socket, headers: dict[str, str]) -> None:
    """The broker's side: what uvicorn does, between the socket and the application."""
    told = False

    async def receive() -> dict[str, Any]:
        nonlocal told
        if not told:
            told = True
            return {"type": "websocket.connect"}
        data = await socket.to_broker.get()
        if data is None:
            return {"type": "websocket.disconnect", "code": 1006}
        return {"type": "websocket.receive", "bytes": data}

    async def send(message: dict[str, Any]) -> None:
        if message["type"] == "websocket.accept":
            if not socket.accepted.done():
                socket.accepted.set_result(True)
        elif message["type"] == "websocket.send":
            await socket.to_agent.put(message["bytes"])
        elif message["type"] == "websocket.close" and socket.open:
            socket.to_agent.close()
            socket.to_broker.end()

    raw = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
    scope = {"type": "websocket", "path": "/v1/link", "headers": raw, "query_string": b""}
    scope |= {"scheme": "ws", "asgi": {"version": "3.0"}, "subprotocols": [], "extensions": {}}
    try:
        await app(scope, receive, send)
    finally:
        if socket.open:
            socket.to_agent.close()
            socket.to_broker.end()
            socket.network.sockets.pop(socket, None)


class HttpTransport(httpx.AsyncBaseTransport):
    """Carries one machine's HTTP requests to the broker's door."""

    def __init__(self, network: Network, machine: str) -> None:
        self._network, self._machine = network, machine

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        network, patience = self._network, 30.0
        try:
            app = await network.reach(self._machine, 10.0)
        except OSError as error:
            raise httpx.ConnectError(str(error)) from None
        body = await request.aread()
        lose = network.draw.random() < network.faults.lost_call
        broker = network.broker
        if broker is None or (lose and network.draw.random() < 0.5):
            raise httpx.ReadError("the connection broke on the way there")
        times = 2 if network.draw.random() < network.faults.again else 1
        for _ in range(times):
            serving = broker.start(_serve_request(app, request, body), f"http {self._machine}")
            async with asyncio.timeout(patience):
                done, _ = await asyncio.wait([serving], timeout=patience)
        if not done or serving.cancelled():
            raise httpx.ReadTimeout("no answer came")
        status, answer = serving.result()
        if self._machine in network.holes:
            await asyncio.sleep(patience)
            raise httpx.ReadTimeout("no answer came")
        await asyncio.sleep(network.latency())
        if lose:
            raise httpx.ReadError("the connection broke on the way back")
        return httpx.Response(status, stream=httpx.ByteStream(answer), request=request)


async def _serve_request(app: Any, request: httpx.Request, body: bytes) -> tuple[int, bytes]:
    answer: list[Any] = [0, b""]

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: dict[str, Any]) -> None:
        if message["type"] == "http.response.start":
            answer[0] = message["status"]
        else:
            answer[1] += message.get("body", b"")

    raw = [(name.lower(), value) for name, value in request.headers.raw]
    path = request.url.path
    scope = {"type": "http", "method": request.method, "path": path, "raw_path": path.encode()}
    scope |= {"headers": raw, "query_string": b"", "scheme": "http", "http_version": "1.1"}
    await app(scope | {"asgi": {"version": "3.0"}}, receive, send)
    return answer[0], answer[1]
