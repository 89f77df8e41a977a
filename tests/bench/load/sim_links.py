"""Thousands of idle agents in one process: a WebSocket each, heartbeats, and redials with jitter.

    python sim_links.py '{"url": ..., "token": ..., "links": 5000}'

They speak the link's frames over bare asyncio streams: the real driver would need more memory and
processor time than the broker that is measured. Prints a line of JSON when every link is welcome,
and again whenever it reads `welcome` and all are. Ends when its standard input does.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import random
import sys
import time
from contextlib import suppress
from typing import Any

from foxden_agent.backoff import delays
from foxden_proto import limits
from foxden_proto.address import Address, parse
from foxden_proto.link import AgentLink, HeartbeatDue, Silent
from foxden_proto.timers import Timers
from foxden_proto.v1 import link_pb2, pool_pb2
from load.sim_agents import card_info, model_sha256

_BINARY, _CLOSE = 0x82, 0x8


class Closed(Exception):
    """The broker has ended the connection, or does not answer as one should."""


class IdleAgent:
    """One agent with one card that never gets work. The rules are the real link's."""

    def __init__(self, number: int, address: Address, settings: dict[str, Any]) -> None:
        name = f"idle-{number:05}"
        self._card_id, self._model = f"{name}:0", settings.get("model", "idle-model")
        self._address, self._token = address, settings["token"]
        self._timers = Timers.from_environment()
        hello = link_pb2.Hello(
            protocol=limits.LINK_PROTOCOL,
            agent_id=name,
            agent_name=name,
            agent_version="simulated",
            cards=[card_info(self._card_id, name, self._model)],
        )
        self.link = AgentLink(self._timers, hello, time.monotonic())

    async def run(self, first_pause: float) -> None:
        await asyncio.sleep(first_pause)
        timers = self._timers
        pauses = delays(timers.reconnect_first, timers.reconnect_most, random.Random())
        while True:
            with suppress(OSError, Closed, asyncio.IncompleteReadError, TimeoutError):
                await self._converse()
            if self.link.up:
                pauses = delays(timers.reconnect_first, timers.reconnect_most, random.Random())
            self.link.lost(time.monotonic())
            await asyncio.sleep(next(pauses))

    async def _converse(self) -> None:
        async with asyncio.timeout(self._timers.silent):
            reader, writer = await self._dial()
        beating = None
        try:
            self.link.opened(time.monotonic())
            self._send(writer)
            beating = asyncio.ensure_future(self._beat(writer))
            while True:
                for _ in self.link.receive(await _frame(reader), time.monotonic()):
                    pass
                self._send(writer)
        finally:
            if beating is not None:
                beating.cancel()
            writer.transport.abort()

    async def _beat(self, writer: asyncio.StreamWriter) -> None:
        while True:
            now = time.monotonic()
            pause = self.link.wake_at(now) - now
            await asyncio.sleep(max(0.05, pause if self.link.up else min(pause, 0.5)))
            for event in self.link.tick(time.monotonic()):
                if isinstance(event, HeartbeatDue):
                    sha256 = model_sha256(self._model)
                    readings = pool_pb2.CardReadings(card_id=self._card_id, loaded_models=[sha256])
                    mode = link_pb2.CardMode(card_id=self._card_id, mode=pool_pb2.MODE_READY)
                    self.link.heartbeat([readings], [mode])
                elif isinstance(event, Silent):
                    writer.transport.abort()
            self._send(writer)

    async def _dial(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        host, port = self._address.host, self._address.http_port
        reader, writer = await asyncio.open_connection(host, port)
        key = base64.b64encode(random.randbytes(16)).decode()
        lines = [
            "GET /v1/link HTTP/1.1",
            f"Host: {host}:{port}",
            "Upgrade: websocket",
            "Connection: Upgrade",
            f"Sec-WebSocket-Key: {key}",
            "Sec-WebSocket-Version: 13",
            f"Authorization: Bearer {self._token}",
        ]
        writer.write("\r\n".join([*lines, "", ""]).encode())
        answer = await reader.readuntil(b"\r\n\r\n")
        if b" 101 " not in answer.split(b"\r\n", 1)[0]:
            writer.transport.abort()
            raise Closed(answer[:100].decode("latin-1"))
        return reader, writer

    def _send(self, writer: asyncio.StreamWriter) -> None:
        for data in self.link.outgoing():
            writer.write(_masked(data))


def _masked(data: bytes) -> bytes:
    """One binary frame of a client. A mask of zeros is allowed, and spares the work."""
    size = len(data)
    if size < 126:
        head = bytes([_BINARY, 0x80 | size])
    elif size < 65536:
        head = bytes([_BINARY, 0x80 | 126]) + size.to_bytes(2, "big")
    else:
        head = bytes([_BINARY, 0x80 | 127]) + size.to_bytes(8, "big")
    return head + bytes(4) + data


async def _frame(reader: asyncio.StreamReader) -> bytes:
    first, second = await reader.readexactly(2)
    size = second & 0x7F
    if size == 126:
        size = int.from_bytes(await reader.readexactly(2), "big")
    elif size == 127:
        size = int.from_bytes(await reader.readexactly(8), "big")
    data = await reader.readexactly(size)
    if first & 0xF == _CLOSE:
        raise Closed(data[2:].decode(errors="replace"))
    return data


async def main(settings: dict[str, Any]) -> None:
    address = parse(settings["url"])
    agents = [IdleAgent(n, address, settings) for n in range(settings["links"])]
    per_second = float(settings.get("per_second", 500))
    running = [
        asyncio.ensure_future(agent.run(number / per_second)) for number, agent in enumerate(agents)
    ]

    async def all_welcome() -> None:
        while not all(agent.link.up for agent in agents):
            for task in running:
                if task.done():
                    task.result()
            await asyncio.sleep(0.1)

    await all_welcome()
    print(json.dumps({"pid": os.getpid()}), flush=True)
    loop = asyncio.get_running_loop()
    while line := (await loop.run_in_executor(None, sys.stdin.readline)).strip():
        if line == "lost":  # until the first link has noticed that the broker is gone
            while all(agent.link.up for agent in agents):  # noqa: ASYNC110 - thousands of links
                await asyncio.sleep(0.01)
        else:
            await all_welcome()
        print(json.dumps({"up": sum(agent.link.up for agent in agents)}), flush=True)


if __name__ == "__main__":
    asyncio.run(main(json.loads(sys.argv[1])))
