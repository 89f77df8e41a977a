"""An engine without torch: the far end of the agent's tests. It speaks the Engine service over a
real socket in a real process, and its prompts say how it is to behave:

    "slow"     takes steps until it is told to stop
    "stuck"    takes three steps, and then one that never ends
    "stale"    refuses to go on from any checkpoint
    "poison"   ends the whole batch with INTERNAL, as an error inside torch does
    "deadly"   the process is gone
    "big"      out of memory where it does not ride alone
    "huge"     out of memory in any case
    "tall"     out of memory where nothing is offloaded
    "spilling" a picture, but the driver put some of it into RAM
    "broken"   a model that cannot be loaded
    else       a picture after two steps

A checkpoint of it is its step and its prompt in words. It goes on from one at the step that this
names, and where it finds something else there, it refuses.

The folder FAKE_ENGINE names holds `state` (`well`; `ill`: INTERNAL to everything; `dead`: does not
start) and `calls`, where each batch is written down as one line of JSON: process id, prompts, and
the step that it went on from.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc

from foxden_proto.v1 import engine_pb2 as pb
from foxden_proto.v1.engine_pb2_grpc import EngineServicer, add_EngineServicer_to_server
from foxden_proto.v1.pool_pb2 import TIER_DISK, TIER_RAM

STEP_SECONDS = 0.02


def install(folder: Path) -> Path:
    """A program to be started instead of Python (sys.executable); what it is to do is in
    `folder`."""
    folder.mkdir(exist_ok=True)
    (folder / "state").write_text("well")
    (folder / "calls").touch()
    program = folder / "python"
    program.write_text(
        f"#!/bin/sh\nFAKE_ENGINE='{folder}' exec '{sys.executable}' '{__file__}' \"$@\"\n"
    )
    program.chmod(0o700)
    return program


def loads(folder: Path) -> list[tuple[int, str, int]]:
    """The process id, the model's sha256 and the tier of each load that was asked for."""
    if not (folder / "loads").exists():
        return []
    return [tuple(json.loads(line)) for line in (folder / "loads").read_text().splitlines()]


def calls(folder: Path) -> list[tuple[int, list[str]]]:
    """The process id and the prompts of each batch that an engine of this folder was given."""
    lines = (folder / "calls").read_text().splitlines()
    return [(pid, prompts) for pid, prompts, _ in map(json.loads, lines)]


def resumed(folder: Path) -> list[int]:
    """The step that each batch went on from."""
    return [json.loads(line)[2] for line in (folder / "calls").read_text().splitlines()]


def checkpoint(prompt: str, step: int) -> bytes:
    return f"step {step} of {prompt}".encode()


def shares(folder: Path) -> list[float]:
    """The shares of the time that engines of this folder were told to work, in turn."""
    return [float(line) for line in (folder / "shares").read_text().splitlines()]


def placements(folder: Path) -> list[list[str]]:
    """Data type and offload of each batch that an engine of this folder was given."""
    return [json.loads(line) for line in (folder / "placements").read_text().splitlines()]


class FakeEngine(EngineServicer):
    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._stopped: set[str] = set()
        self._in_ram: set[str] = set()

    def Describe(
        self, request: pb.DescribeRequest, context: grpc.ServicerContext
    ) -> pb.EngineDescription:
        device = pb.Device(device="cpu", name="a fake")
        return pb.EngineDescription(device=device, versions="fake 1")

    def Load(self, request: pb.LoadRequest, context: grpc.ServicerContext) -> pb.LoadResponse:
        with (self._folder / "loads").open("a") as file:
            file.write(json.dumps([os.getpid(), request.model.sha256, int(request.tier)]) + "\n")
        if request.model.name == "changed while used":
            os.kill(os.getpid(), signal.SIGBUS)
            threading.Event().wait()  # another thread may take the signal: not one step further
        if request.model.name == "endless":
            threading.Event().wait()
        if request.model.name == "too big":
            context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "out of memory")
        came_from = TIER_RAM if request.model.sha256 in self._in_ram else TIER_DISK
        if request.tier == TIER_RAM:
            self._in_ram.add(request.model.sha256)
        return pb.LoadResponse(seconds=0.5, memory=1000, came_from=came_from)

    def Unload(self, request: pb.UnloadRequest, context: grpc.ServicerContext) -> pb.UnloadResponse:
        return pb.UnloadResponse()

    def Stop(self, request: pb.StopRequest, context: grpc.ServicerContext) -> pb.StopResponse:
        self._stopped.update(request.item_ids)
        return pb.StopResponse()

    def SetShare(
        self, request: pb.SetShareRequest, context: grpc.ServicerContext
    ) -> pb.SetShareResponse:
        with (self._folder / "shares").open("a") as file:
            file.write(f"{request.share}\n")
        return pb.SetShareResponse()

    def Generate(
        self, request: pb.Batch, context: grpc.ServicerContext
    ) -> Iterator[pb.EngineEvent]:
        prompts = [item.request.prompt for item in request.items]
        (begun,) = {
            item.checkpoint.split(b" ")[1] if item.checkpoint else b"0" for item in request.items
        }
        step = int(begun)
        with (self._folder / "calls").open("a") as file:
            file.write(json.dumps([os.getpid(), prompts, step]) + "\n")
        with (self._folder / "placements").open("a") as file:
            file.write(json.dumps([request.placement.dtype, request.placement.offload]) + "\n")
        for item in request.items:
            whole = not step or item.checkpoint == checkpoint(item.request.prompt, step)
            if not whole or (step and item.request.prompt == "stale"):
                context.abort(grpc.StatusCode.ABORTED, "this checkpoint is of another request")
        if "broken" in prompts:
            yield pb.EngineEvent(stage=pb.EngineStage(stage="loading"))
            context.abort(grpc.StatusCode.FAILED_PRECONDITION, "it can't be loaded")
        yield pb.EngineEvent(stage=pb.EngineStage(stage="sampling"))
        if "deadly" in prompts:
            os._exit(3)
        if "poison" in prompts or (self._folder / "state").read_text() == "ill":
            context.abort(grpc.StatusCode.INTERNAL, "an error of the fake")
        if "tall" in prompts and not request.placement.offload:
            context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "out of memory")
        if "huge" in prompts or ("big" in prompts and len(prompts) > 1):
            context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "out of memory")
        left = {item.item_id: item for item in request.items}
        first = step
        while step < first + 2 or any(
            item.request.prompt in ("slow", "stuck") for item in left.values()
        ):
            step += 1
            if step == first + 4 and any(i.request.prompt == "stuck" for i in left.values()):
                threading.Event().wait()
            yield pb.EngineEvent(step=pb.EngineStep(step=step, steps=1_000_000))
            for item_id, item in left.items() if request.checkpoints else ():
                kept = checkpoint(item.request.prompt, step)
                told = pb.EngineCheckpoint(item_id=item_id, step=step, data=kept)
                yield pb.EngineEvent(checkpoint=told)
            for item_id in self._stopped & set(left):
                del left[item_id]
                yield pb.EngineEvent(stopped=pb.EngineStopped(item_id=item_id))
            time.sleep(STEP_SECONDS)
        for item_id, item in left.items():
            png = f"a picture of {item.request.prompt}, {os.getpid()}".encode()
            picture = pb.EnginePicture(item_id=item_id, png=png, batch_size=len(prompts))
            yield pb.EngineEvent(picture=picture)
        spilled = "spilling" in prompts
        yield pb.EngineEvent(measured=pb.EngineMeasured(peak_memory=1 << 30, spilled=spilled))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("-m")
    parser.add_argument("--device")
    parser.add_argument("--socket")
    parser.add_argument("--low-priority", action="store_true")
    arguments = parser.parse_args()
    folder = Path(os.environ["FAKE_ENGINE"])
    sys.stdin.buffer.readline()
    if (folder / "state").read_text() == "dead":
        sys.exit(7)
    server = grpc.server(ThreadPoolExecutor(4))
    add_EngineServicer_to_server(FakeEngine(folder), server)
    server.add_insecure_port(f"unix:{arguments.socket}")
    server.start()
    print(f"listening unix:{arguments.socket}", flush=True)
    threading.Thread(target=lambda: (sys.stdin.buffer.read(), os._exit(0)), daemon=True).start()
    server.wait_for_termination()


if __name__ == "__main__":
    main()
