"""What the benchmarks share: rows, paired measurements, pools of real processes."""

from __future__ import annotations

import base64
import json
import math
import operator
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import grpc
import psutil

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests" / "support"))

from real_pool import Pool  # noqa: E402

from foxden_proto.address import parse  # noqa: E402
from foxden_proto.v1 import generation_pb2, generation_pb2_grpc  # noqa: E402

_COMPARE = {"<=": operator.le, ">=": operator.ge}
NORMAL_TIMERS = {"FOXDEN_TIME_SCALE": "1"}  # the harness runs them three times faster otherwise


@dataclass(frozen=True)
class Row:
    """One line of the table. `reach` is "<= 1.05" or the like; empty: no aim was set."""

    name: str
    value: float
    unit: str
    reach: str = ""
    bound_by: str = ""

    @property
    def reached(self) -> bool | None:
        """Whether the value is where it should be; None where no aim was set."""
        if not self.reach:
            return None
        sign, _, limit = self.reach.partition(" ")
        return bool(_COMPARE[sign](self.value, float(limit)))


def median(values: list[float]) -> float:
    return statistics.median(values)


def quartiles(values: list[float]) -> str:
    """The middle half of the values, for a row's remark."""
    low, _, high = statistics.quantiles(values, n=4)
    return f"{low:.3g} to {high:.3g}"


def certain(values: list[float]) -> str:
    """Where the median of all such values lies, with 95 % (order statistics; six or more)."""
    ordered = sorted(values)
    from_each_end = max(1, math.floor(len(ordered) / 2 - 0.98 * math.sqrt(len(ordered))))
    return f"{ordered[from_each_end - 1]:.2g} to {ordered[-from_each_end]:.2g}"


def processor_seconds(pid: int) -> float:
    """Of all threads that a process has and had. Linux counts in nanoseconds, others in ticks."""
    if sys.platform == "linux":
        return time.clock_gettime((~pid << 3) | 2)  # clock_getcpuclockid(3) of another process
    times = psutil.Process(pid).cpu_times()
    return times.user + times.system


def timed(work: Callable[[], object]) -> float:
    """Seconds that it takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def interleaved(
    rounds: int, one: Callable[[], Any], other: Callable[[], Any]
) -> list[tuple[Any, Any]]:
    """Both sides by turns (A B, B A, ...): what else runs on the machine meets both alike."""
    pairs = []
    for number in range(rounds):
        if number % 2 == 0:
            first = one()
            pairs.append((first, other()))
        else:
            second = other()
            pairs.append((one(), second))
    return pairs


@contextmanager
def pool(*agents: str, **environment: str) -> Iterator[Pool]:
    """A real broker with these agents, all on this machine's CPU, gone afterwards."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="foxden-bench-")))
        made = Pool(folder)
        stack.callback(made.close)
        made.start_broker(**NORMAL_TIMERS)
        for name in agents:
            made.start_agent(name, **NORMAL_TIMERS, **environment)
        yield made


def engine_threads(of: Pool, job_id: str) -> int:
    """How many threads torch had when it drew a job's first picture, as recorded with it."""
    address = parse(of.url)
    with grpc.insecure_channel(address.grpc_target) as channel:
        job = generation_pb2_grpc.GenerationStub(channel).Get(
            generation_pb2.GetJobRequest(job_id=job_id),
            metadata=(("authorization", f"Bearer {of.token}"),),
        )
    found = re.search(r"threads=(\d+)", job.tasks[0].picture.placement)
    assert found, "the engine does not say how many threads it used"
    return int(found[1])


@dataclass(frozen=True)
class Drawn:
    """What the in-process side did: seconds without and of the PNG encoder, and RGB bytes."""

    seconds: float
    png_seconds: float
    pixels: bytes


class Plain:
    """diffusers in a process of its own, warm, drawing on command (plain.py)."""

    def __init__(self, **environment: str) -> None:
        self._environment = {**os.environ, **environment}
        self.threads = 0  # torch's, once it is there
        self.pid = 0

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("plain.py")), "serve"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=self._environment,
        )
        self.pid = self._process.pid
        self.threads = int(self._answer()["threads"])
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._process.kill()
        self._process.communicate()

    def draw(self, **request: object) -> Drawn:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        answer = self._answer()
        pixels = base64.b64decode(answer["pixels"])
        return Drawn(answer["seconds"], answer["png_seconds"], pixels)

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, "plain.py ended; run it by hand to see why"
        return json.loads(line)


def mean_difference(one: bytes, other: bytes) -> float:
    """Mean absolute difference of two pictures' bytes, 0 to 255."""
    assert len(one) == len(other), "the pictures have different sizes"
    return sum(abs(a - b) for a, b in zip(one, other, strict=True)) / len(one)
