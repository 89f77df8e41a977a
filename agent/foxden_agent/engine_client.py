"""The agent's side of its engine: starts the child process, talks to it, and can end it at once.

Killing the child is how a card's memory is given back, at any moment and whatever it is doing.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import secrets
import subprocess
import sys
import tempfile
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Awaitable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import grpc

from foxden_agent.engine_errors import EngineDied, EngineNotStarted, EngineRefused, EngineSilent
from foxden_agent.installing.shell import engine_environment
from foxden_proto import limits
from foxden_proto.timers import Timers
from foxden_proto.v1.engine_pb2 import (
    Batch,
    DescribeRequest,
    EngineDescription,
    EngineEvent,
    LoadRequest,
    LoadResponse,
    ModelSource,
    Placement,
    SetShareRequest,
    StopRequest,
    UnloadRequest,
    UnloadResponse,
)
from foxden_proto.v1.engine_pb2_grpc import EngineStub
from foxden_proto.v1.pool_pb2 import TIER_DISK, TIER_VRAM, Tier

if TYPE_CHECKING:
    from foxden_proto.v1.engine_pb2_grpc import EngineAsyncStub

log = logging.getLogger(__name__)
T = TypeVar("T")

_STARTED_WITHIN = 30.0  # seconds until the child listens; it imports no torch before that
_LONGEST_LINE = 64 * limits.KIB


class EngineProcess:
    """One engine child process; made by `start`, ended by `kill` (or `async with`).

    Every call raises EngineDied, EngineSilent or EngineRefused, and nothing else of the kind.
    """

    def __init__(
        self, process: Process, folder: tempfile.TemporaryDirectory[str] | None, timers: Timers
    ) -> None:
        self._process = process
        self._folder = folder
        self._timers = timers
        self._last_line = ""
        self._metadata: tuple[tuple[str, str], ...] = ()
        self._channel: grpc.aio.Channel | None = None
        self._stub: EngineAsyncStub | None = None
        self._readers: list[asyncio.Task[None]] = []
        self._exited = asyncio.ensure_future(process.wait())

    @classmethod
    async def start(
        cls,
        device: str = "auto",
        *,
        timers: Timers | None = None,
        low_priority: bool = False,
        python: Path | None = None,
    ) -> EngineProcess:
        """Start the child and connect to it. It imports torch meanwhile; `describe` waits for that.

        `device` is "auto", "cpu" or "cuda:N". `low_priority` lets other programs use the processor
        first; `python` is the one that has torch, if not this one. Raises EngineNotStarted,
        EngineDied or EngineSilent where the child doesn't come up; nothing is left behind then.
        """
        python = python or Path(sys.executable)
        command = [str(python), "-m", "foxden_agent.engine", "--device", device]
        if low_priority:
            command += ["--low-priority"]
        folder = None
        try:
            if sys.platform != "win32":  # gRPC serves no unix sockets there
                # /tmp and not TMPDIR's choice: a socket's path has 107 bytes at most. Mode 0700.
                folder = tempfile.TemporaryDirectory(
                    prefix="foxden-", dir=_short_folder(), ignore_cleanup_errors=True
                )
                command += ["--socket", str(Path(folder.name) / "engine")]
            process = await asyncio.create_subprocess_exec(
                *command,
                stdin=PIPE,
                stdout=PIPE,
                stderr=PIPE,
                limit=_LONGEST_LINE,
                env=engine_environment(python, os.environ),
                creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),
            )
        except BaseException as error:
            if folder is not None:
                folder.cleanup()
            if isinstance(error, OSError):
                raise EngineNotStarted(error) from error
            raise
        engine = cls(process, folder, timers or Timers.from_environment())
        try:
            await engine._connect()
        except BaseException:
            await engine.kill()
            raise
        return engine

    async def __aenter__(self) -> EngineProcess:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.kill()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def alive(self) -> bool:
        return self._process.returncode is None

    @property
    def exited(self) -> Awaitable[int]:
        """Await it to learn the exit code once the process has ended; can be awaited often."""
        return asyncio.shield(self._exited)

    async def describe(self) -> EngineDescription:
        """What the engine runs on; answered once torch is imported."""
        return await self._patiently(
            self._calls.Describe(DescribeRequest(), metadata=self._metadata),
            self._timers.load_budget,
            "importing torch",
        )

    async def load(
        self,
        model: ModelSource,
        placement: Placement | None = None,
        tier: Tier.ValueType = TIER_VRAM,
        *,
        size: int = 0,
    ) -> LoadResponse:
        """Bring a model onto the card as `placement` says, or into RAM alone, which it does beside
        a batch.

        `size` is its bytes on disk: a big one is waited for longer. EngineRefused names the model.
        """
        request = LoadRequest(model=model, placement=placement, tier=tier)
        return await self._patiently(
            self._calls.Load(request, metadata=self._metadata),
            self._timers.load_deadline(size),
            "loading",
        )

    async def unload(
        self, sha256s: Iterable[str], to: Tier.ValueType = TIER_DISK
    ) -> UnloadResponse:
        """Put models off the card; with TIER_RAM they stay warm there. Refused while it draws."""
        request = UnloadRequest(sha256s=list(sha256s), to=to)
        return await self._patiently(
            self._calls.Unload(request, metadata=self._metadata),
            self._timers.engine_silent,
            "unloading",
        )

    async def stop(self, item_ids: Iterable[str]) -> None:
        """Stop items of the running batch at their next step; ids it doesn't know are ignored."""
        request = StopRequest(item_ids=list(item_ids))
        await self._patiently(
            self._calls.Stop(request, metadata=self._metadata),
            self._timers.engine_silent,
            "stopping",
        )

    async def set_share(self, share: float) -> None:
        """Duty cycle: the share of the time that is worked, above 0 and at most 1 (no rests).

        Counts at once, also within a step's rest, until the engine ends.
        """
        await self._patiently(
            self._calls.SetShare(SetShareRequest(share=share), metadata=self._metadata),
            self._timers.engine_silent,
            "setting its share",
        )

    async def generate(self, batch: Batch) -> AsyncIterator[EngineEvent]:
        """Draw a batch. Ends after each item has its picture or its EngineStopped.

        With `batch.checkpoints`, EngineCheckpoints come in between; keep each item's newest. A
        batch whose items come with one goes on from there, or is refused
        (`about_the_checkpoint`).
        Leaving the iterator early (aclose) stops the batch. Raises EngineSilent where no event
        came for `timers.engine_silent` seconds, or `load_budget` seconds while loading.
        """
        call = self._calls.Generate(batch, metadata=self._metadata)
        stage = "starting"
        try:
            while True:
                patience = (
                    self._timers.load_budget
                    if stage in ("starting", "loading")
                    else self._timers.engine_silent
                )
                event = await self._patiently(call.read(), patience, stage)
                if not isinstance(event, EngineEvent):  # grpc.aio.EOF
                    return
                if event.HasField("stage"):
                    stage = event.stage.stage
                yield event
        finally:
            call.cancel()

    async def kill(self) -> None:
        """End the process at once and tidy up. Can be called at any time, and again."""
        # The shield keeps a cancelled caller from leaving a process or a folder behind.
        await asyncio.shield(asyncio.ensure_future(self._end()))

    async def _end(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        await asyncio.shield(self._exited)
        if self._channel is not None:
            await self._channel.close()
        for reader in self._readers:
            reader.cancel()
        await asyncio.gather(*self._readers, return_exceptions=True)
        if self._process.stdin is not None:
            self._process.stdin.close()
        if self._folder is not None:
            self._folder.cleanup()

    async def _connect(self) -> None:
        secret = secrets.token_hex(32)
        stdin, stdout, stderr = self._process.stdin, self._process.stdout, self._process.stderr
        assert stdin is not None
        assert stdout is not None
        assert stderr is not None
        self._readers.append(asyncio.create_task(self._forward(stderr, logging.INFO)))
        try:
            stdin.write(f"{secret}\n".encode())
            await stdin.drain()
            async with asyncio.timeout(_STARTED_WITHIN):
                line = (await stdout.readline()).decode().strip()
        except TimeoutError:
            raise EngineSilent(_STARTED_WITHIN, "starting") from None
        except (ConnectionError, ValueError):
            line = ""
        if not line.startswith("listening "):
            # It is dying by itself. Killing it now could reap it before asyncio's watcher does,
            # and its exit code would be lost (asyncio then reports 255).
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(2.0):
                    await asyncio.shield(self._exited)
            if self.alive:
                self._process.kill()
            raise await self._death()
        self._readers.append(asyncio.create_task(self._forward(stdout, logging.DEBUG)))
        self._metadata = (("foxden-secret", secret),)
        self._channel = grpc.aio.insecure_channel(
            line.removeprefix("listening "),
            options=[
                ("grpc.max_receive_message_length", limits.PICTURE_BYTES + limits.MIB),
                (
                    "grpc.max_send_message_length",
                    limits.BATCH_IMAGES * limits.CHECKPOINT_BYTES + limits.MIB,
                ),
                ("grpc.enable_http_proxy", 0),
                # A process on the same machine can't be "temporarily unreachable".
                ("grpc.enable_retries", 0),
            ],
        )
        self._stub = EngineStub(self._channel)

    @property
    def _calls(self) -> EngineAsyncStub:
        if self._process.returncode is not None:
            raise EngineDied(self._process.returncode, self._last_line)
        assert self._stub is not None, "start() connects before it returns"
        return self._stub

    async def _patiently(self, answer: Awaitable[T], seconds: float, doing: str) -> T:
        """The answer, or which of the three errors it is that there is none."""
        try:
            # Not wait_for: where the answer and a cancel come at one moment, Python 3.11's returns
            # the answer and forgets the cancel, and an agent that shuts down waits for ever.
            async with asyncio.timeout(seconds):
                return await answer
        except TimeoutError:
            raise EngineSilent(seconds, doing) from None
        except grpc.aio.AioRpcError as error:
            code, text = error.code(), error.details() or str(error.code())
        if code is grpc.StatusCode.UNAVAILABLE:
            # The connection broke: the process is ending. It is reaped within moments.
            raise await self._death()
        raise EngineRefused(text, code)

    async def _death(self) -> EngineDied:
        try:
            async with asyncio.timeout(5.0):
                code = await asyncio.shield(self._exited)
        except TimeoutError:
            raise EngineSilent(5.0, "its connection is broken") from None
        with contextlib.suppress(TimeoutError):  # let the last words arrive
            async with asyncio.timeout(1.0):
                await asyncio.shield(self._readers[0])
        return EngineDied(code, self._last_line)

    async def _forward(self, stream: asyncio.StreamReader, level: int) -> None:
        while True:
            try:
                line = await stream.readline()
            except ValueError:  # longer than the limit; the reader has dropped it
                continue
            if not line:
                return
            text = line.decode(errors="replace").rstrip()
            if text:
                self._last_line = text[-300:]
                log.log(level, "engine: %s", text)


def _short_folder() -> str | None:
    return "/tmp" if os.access("/tmp", os.W_OK) else None  # noqa: S108 -- made inside it, 0700
