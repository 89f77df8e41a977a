"""One seed, from the first program to the last invariant."""

from __future__ import annotations

import asyncio
import gc
import hashlib
import logging
import random
import shutil
import tempfile
import traceback
from collections import defaultdict, deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from foxden_broker.joining import links
from foxden_broker.store import agents as agent_rows
from foxden_broker.store import tokens as token_rows
from foxden_broker.tokens import new_token
from foxden_proto.address import Address
from foxden_proto.v1 import pool_pb2
from foxden_proto.v1.generation_pb2 import ImageRequest
from foxden_proto.v1.link_pb2 import AgentFrame, BrokerFrame
from simulated.chaos import Chaos
from simulated.clock import Stuck, VirtualLoop, Wall, seeded
from simulated.disk import Disk
from simulated.invariants import broken, jobs_of
from simulated.network import Network
from simulated.programs import ACCOUNT, Broker, Machine, installed
from simulated.users import User

log = logging.getLogger(__name__)

_PATIENCE = 400.0  # simulated seconds after the last fault, beside the work itself


@dataclass
class Outcome:
    """How a seed went."""

    seed: int
    violations: list[str] = field(default_factory=list)
    trace: list[str] = field(default_factory=list)  # the last events
    digest: str = ""  # of all events: two runs of one seed have the same
    seconds: float = 0.0  # simulated
    quiet_after: float = 0.0  # simulated seconds from the last fault
    jobs: int = 0
    images: int = 0
    events: int = 0
    faults: int = 0
    pictures: list[tuple[str, int, str, str]] = field(default_factory=list)  # prompt … sha256


class World:
    """Everything there is in one seed."""

    def __init__(
        self,
        seed: int,
        folder: Path,
        loop: VirtualLoop,
        wall: Wall,
        last: int,
        repeats: float | None,
    ) -> None:
        self.outcome = Outcome(seed)
        self._loop, self.wall = loop, wall
        self._trace: deque[tuple[float, str, bytes]] = deque(maxlen=last)
        self._digest = hashlib.sha256()
        draw = random.Random(f"world {seed}")
        self.draw = draw
        self.disk = Disk(random.Random(f"disk {seed}"), self.violated, self.note)
        self.network = Network(random.Random(f"network {seed}"), self.note)
        self.broker = Broker(self.disk, self.network, self.violated)
        self.changing_broker = asyncio.Lock()
        self.changing: dict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self.disk.transact(lambda c: token_rows.ensure_account(c, ACCOUNT, "main", 1))
        models = [_model(name) for name in ("anime", "photo", "sketch")[: draw.randint(1, 3)]]
        self._admin = self.new_token("administrator", "admin")
        self.machines = [
            Machine(
                f"pc-{number}",
                folder,
                self.network,
                random.Random(f"pc {number} of {seed}"),
                models if number == 0 else draw.sample(models, draw.randint(1, len(models))),
                self.note,
                self.violated,
            )
            for number in range(draw.randint(1, 5))
        ]
        for machine in self.machines:
            machine.folder = folder / machine.name
            if draw.random() < 0.4:
                machine.link = self.new_link()
            else:
                machine.token = self.new_token("card owner", "agent")
        self.users = [
            User(
                f"user-{number}",
                self.new_token(f"user-{number}", "generate"),
                self.network,
                random.Random(f"user {number} of {seed}"),
                [model.name for model in models],
                repeats is not None,
                self.note,
                self.violated,
            )
            for number in range(draw.randint(1, 4))
        ]
        self._repeats = repeats
        self.chaos = Chaos(self, random.Random(f"chaos {seed}"))

    # What the parts tell

    def note(self, text: str, data: bytes = b"") -> None:
        now = self._loop.time()
        self._trace.append((now, text, data))
        self._digest.update(f"{now:.6f} {text}".encode() + data)
        self.outcome.events += 1
        self.outcome.faults += text.startswith("FAULT")

    def violated(self, text: str) -> None:
        self.note(f"VIOLATED {text}")
        self.outcome.violations.append(f"at {self._loop.time():.3f} s: {text}")

    # What the parts need

    def new_token(self, member: str, scope: str) -> str:
        now = int(self.wall.time() * 1000)
        token, text = new_token(ACCOUNT, member, frozenset({scope}), now)
        self.disk.transact(lambda conn: token_rows.add(conn, token))
        return text

    def new_link(self) -> str:
        now = int(self.wall.time() * 1000)
        link, text = links.new_link(
            *(ACCOUNT, Address("127.0.0.1")),
            uses=100,
            approve=False,
            member="administrator",
            now_ms=now,
            expires_ms=now + 86_400_000,
        )
        self.disk.transact(lambda conn: agent_rows.add_link(conn, link))
        return text

    async def revoke(self, *, token_id: str = "", agent_id: str = "") -> bool:
        """By the administrator's call. False: the broker could not be asked."""
        admin, process = self.broker.admin, self.broker.process
        if admin is None or process is None or not self.broker.up:
            return False
        context = _Admin(self._admin)
        if agent_id:
            asked = admin.RevokeAgent(pool_pb2.RevokeAgentRequest(agent=agent_id), context)
        else:
            asked = admin.RevokeToken(pool_pb2.RevokeTokenRequest(token_id=token_id), context)
        call = process.start(asked, "revoke call")
        await asyncio.wait([call])
        return not call.cancelled() and call.exception() is None

    def is_revoked(self, agent_id: str) -> bool:
        query = "SELECT count(*) FROM agent WHERE agent_id = ? AND revoked_ms <> 0"
        (count,) = self.disk.raw.execute(query, (agent_id,)).fetchone()
        return bool(count)

    def accepted_of(self, agent_id: str) -> int:
        query = "SELECT count(*) FROM task WHERE agent_id = ? AND state = 'done'"
        (count,) = self.disk.raw.execute(query, (agent_id,)).fetchone()
        return int(count)

    # The run

    async def run(self) -> None:
        for machine in self.machines:
            machine.folder.mkdir()
        if self.draw.random() < 0.5:
            await self.broker.start()
        if self._repeats is None:
            self.chaos.set_in()
        else:
            self.network.faults.again = self._repeats
        for machine in self.machines:
            machine.start()
        for user in self.users:
            user.start()
        if not self.broker.up:
            await asyncio.sleep(self.draw.uniform(0, 20))
            await self.broker.start()
        if self._repeats is None:
            await self.chaos.run(self.draw.choice([60.0, 150.0, 400.0]))
        else:
            await asyncio.sleep(400.0)
        await self.chaos.heal()
        self.note("healed")
        healed = self._loop.time()
        work = sum(w.count for user in self.users for w in user.wishes)
        bound = _PATIENCE + 25.0 * work
        await self._until_quiet(healed + bound)
        self.outcome.quiet_after = self._loop.time() - healed
        await asyncio.sleep(70.0)  # the last repeated frames, and what should not happen any more
        await self._until_quiet(self._loop.time() + 100.0)
        for text in broken(self.disk, self.users, self.broker, self.machines):
            self.violated(text)
        for user in self.users:
            if not user.done:
                self.violated(
                    f"{user.name} still waits: {[t.get_name() for t in user.process.tasks]}"
                )
        jobs = jobs_of(self.disk)
        self.outcome.jobs = len(jobs)
        self.outcome.images = sum(job.done for job in jobs)
        self.outcome.pictures = sorted(
            (ImageRequest.FromString(job.request).prompt, task.index, task.state.value, sha256)
            for job in jobs
            for task in job.tasks
            for sha256 in [task.picture.sha256 if task.picture else ""]
        )

    async def _until_quiet(self, bound: float) -> None:
        while not self._quiet() and self._loop.time() < bound:  # noqa: ASYNC110  reads a database
            await asyncio.sleep(1.0)

    def _quiet(self) -> bool:
        if not all(user.done for user in self.users):
            return False
        query = "SELECT count(*) FROM job WHERE state IN ('queued', 'running')"
        (still_open,) = self.disk.raw.execute(query).fetchone()
        account = self.broker.account
        assert account is not None
        held = any(m.driver is not None and m.driver.link.held for m in self.machines)
        return not still_open and not account.pool.held and not held

    async def end(self) -> None:
        for user in self.users:
            await user.process.kill()
        for machine in self.machines:
            await machine.kill()
        await self.broker.kill()

    def finish(self) -> Outcome:
        self.outcome.seconds = self._loop.time() - 1000.0
        self.outcome.digest = self._digest.hexdigest()[:16]
        self.outcome.trace = [_line(*event) for event in self._trace]
        return self.outcome


def _model(name: str) -> pool_pb2.Model:
    return pool_pb2.Model(
        name=name,
        sha256=hashlib.sha256(name.encode()).hexdigest(),
        kind="checkpoint",
        family="sd1",
        default_width=64,
        default_height=64,
        default_steps=6,
        default_guidance_scale=7.0,
        default_sampler="Euler",
        default_schedule="automatic",
        multiple_of=8,
        min_size=64,
        max_size=512,
    )


class _Admin:
    def __init__(self, token: str) -> None:
        self._token = token

    def invocation_metadata(self) -> Any:
        return (("authorization", f"Bearer {self._token}"),)

    async def abort_with_status(self, status: Any) -> None:
        raise RuntimeError(str(status.details))


def _line(now: float, text: str, data: bytes) -> str:
    if not data:
        return f"{now:10.3f}  {text}"
    frame = (AgentFrame if " -> " in text else BrokerFrame).FromString(data)
    said = " ".join(str(frame).split())
    return f"{now:10.3f}  {text}  {said[:160]}"


class _Log(logging.Handler):
    """Errors that nobody expected; all else becomes a part of the trace."""

    def __init__(self, world: World) -> None:
        super().__init__(logging.INFO)
        self._world = world

    def emit(self, record: logging.LogRecord) -> None:
        text = f"{record.name.partition('.')[2] or record.name}: {record.getMessage()}"
        if record.exc_info and record.exc_info[1] is not None:
            error = record.exc_info[1]
            where = "".join(traceback.format_exception(error)[-3:])
            self._world.violated(f"{text}: {error!r}\n{where}")
        else:
            self._world.note(text)


def simulate(seed: int, last: int = 300, repeats: float | None = None) -> Outcome:
    """Run one seed to its end, keeping the `last` events. The same seed gives the same outcome,
    digest included, in a process with the same PYTHONHASHSEED.

    With `repeats` nothing goes wrong but that this share of all frames, uploads and calls comes
    twice; every job then ends in the same pictures.
    """
    loop = VirtualLoop()
    wall = Wall(loop)
    folder = Path(tempfile.mkdtemp(prefix="foxden-simulation-"))
    collecting = gc.isenabled()
    gc.collect()
    gc.disable()  # when a cycle is collected is nothing a seed decides
    root = logging.getLogger()
    level, handlers = root.level, root.handlers[:]
    asyncio.set_event_loop(loop)
    try:
        with seeded(seed, loop, wall), installed():
            world = World(seed, folder, loop, wall, last, repeats)
            root.handlers = [_Log(world)]
            root.setLevel(logging.INFO)

            def unexpected(_: Any, context: dict[str, Any]) -> None:
                error = context.get("exception")
                where = "".join(traceback.format_exception(error)[-4:]) if error else ""
                world.violated(f"{context['message']}: {error!r}\n{where}")

            loop.set_exception_handler(unexpected)
            try:
                loop.run_until_complete(world.run())
                loop.run_until_complete(world.end())
                loop.run_until_complete(loop.shutdown_asyncgens())
            except Stuck as error:
                world.violated(str(error))
            return world.finish()
    finally:
        root.handlers, root.level = handlers, level
        asyncio.set_event_loop(None)
        loop.close()
        shutil.rmtree(folder, ignore_errors=True)
        if collecting:
            gc.enable()
