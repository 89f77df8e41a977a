"""What goes wrong: one fault after the other, drawn from the seed, until it is enough."""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING

from simulated.disk import DiskFaults
from simulated.engine import EngineFaults
from simulated.network import NetworkFaults
from simulated.programs import Machine

if TYPE_CHECKING:
    from simulated.world import World

_FAULTS = {
    "broker_crash": 3,
    "agent_kill": 4,
    "agent_stop": 2,
    "agent_anew": 1,
    "hole": 4,
    "reset": 4,
    "disk": 3,
    "slow_network": 2,
    "clock_jump": 1,
    "owner": 4,
    "revoke": 2,
    "leave": 3,
    "engine_dies": 3,
}


class Chaos:
    """Draws the faults of one seed; `heal` takes them all back."""

    def __init__(self, world: World, draw: random.Random) -> None:
        self._world, self._draw = world, draw
        # Not every seed has every fault: what one fault does is clearer without the others.
        kinds = draw.sample(sorted(_FAULTS), draw.randint(1, len(_FAULTS)))
        self._kinds = {kind: _FAULTS[kind] for kind in kinds}
        self._pause = draw.choice([3.0, 8.0, 20.0])
        self._under_way: set[asyncio.Task[None]] = set()

    def set_in(self) -> None:
        """The faults that last."""
        draw, world = self._draw, self._world
        some = [0.0, 0.0, 0.01, 0.05, 0.2]
        world.network.faults = NetworkFaults(
            reset=draw.choice([0.0, 0.0, 0.002, 0.01]),
            again=draw.choice([0.0, 0.0, 0.1, 1.0]),
            lost_call=draw.choice(some),
        )
        world.disk.faults = DiskFaults(
            fail=draw.choice([0.0, 0.0, 0.02]),
            ambiguous=0.0 if world.disk.in_order else draw.choice([0.0, 0.03, 0.15]),
        )
        for machine in world.machines:
            machine.engine_faults = EngineFaults(
                crash=draw.choice(some),
                hang=draw.choice([0.0, 0.0, 0.05]),
                refuse=draw.choice(some),
                stale=draw.choice([0.0, 0.0, 0.3]),
                broken=draw.random() < 0.05,
            )

    async def run(self, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        until = loop.time() + seconds
        while loop.time() < until:
            await asyncio.sleep(self._draw.expovariate(1 / self._pause))
            (kind,) = self._draw.choices(list(self._kinds), list(self._kinds.values()))
            self._world.note(f"FAULT {kind}")
            task = asyncio.create_task(getattr(self, f"_{kind}")(), name=f"fault {kind}")
            self._under_way.add(task)
            task.add_done_callback(self._under_way.discard)

    async def heal(self) -> None:
        world = self._world
        for task in sorted(self._under_way, key=lambda task: task.get_name()):
            await asyncio.wait([task])
            task.result()
        world.network.faults, world.disk.faults = NetworkFaults(), DiskFaults()
        for name in sorted(world.network.holes):
            world.network.heal(name)
        for machine in world.machines:
            machine.engine_faults = EngineFaults()
            machine.give_cards()

    def _one(self) -> Machine:
        return self._draw.choice(self._world.machines)

    async def _broker_crash(self) -> None:
        if self._world.changing_broker.locked():
            return
        async with self._world.changing_broker:
            await self._world.broker.kill(silently=self._draw.random() < 0.3)
            await asyncio.sleep(self._draw.choice([0.1, 2.0, 20.0, 70.0]))
            await self._world.broker.start()

    async def _agent(self, how: str) -> None:
        machine = self._one()
        lock = self._world.changing[machine.name]
        if lock.locked():
            return
        async with lock:
            await (machine.stop() if how == "stop" else machine.kill())
            if how == "anew":
                machine.forget()
            await asyncio.sleep(self._draw.choice([0.1, 5.0, 30.0, 80.0]))
            machine.start()

    async def _agent_kill(self) -> None:
        await self._agent("kill")

    async def _agent_stop(self) -> None:
        await self._agent("stop")

    async def _agent_anew(self) -> None:
        await self._agent("anew")

    async def _hole(self) -> None:
        names = [m.name for m in self._world.machines] + [u.name for u in self._world.users]
        name = self._draw.choice(names)
        self._world.network.holes.add(name)
        await asyncio.sleep(self._draw.choice([1.0, 10.0, 40.0, 90.0]))
        self._world.network.heal(name)

    async def _reset(self) -> None:
        sockets = list(self._world.network.sockets)
        if sockets:
            self._draw.choice(sockets).reset(silently=self._draw.random() < 0.3)

    async def _disk(self) -> None:
        faults = self._world.disk.faults
        match self._draw.choice(["full", "fail", "slow"]):
            case "full":
                faults.full = True
                await asyncio.sleep(self._draw.uniform(0.5, 30))
                faults.full = False
            case "fail":
                before, faults.fail = faults.fail, self._draw.choice([0.3, 1.0])
                await asyncio.sleep(self._draw.uniform(0.5, 15))
                faults.fail = min(before, 0.01)
            case "slow":
                faults.slow = self._draw.choice([10.0, 100.0, 1000.0])
                await asyncio.sleep(self._draw.uniform(0.5, 15))
                faults.slow = 1.0

    async def _slow_network(self) -> None:
        self._world.network.faults.slow = self._draw.choice([10.0, 100.0])
        await asyncio.sleep(self._draw.uniform(5, 40))
        self._world.network.faults.slow = 1.0

    async def _clock_jump(self) -> None:
        self._world.wall.ahead += self._draw.uniform(-600, 600)

    async def _owner(self) -> None:
        machine = self._one()
        machine.take_back(checkpoint=self._draw.random() < 0.6)
        await asyncio.sleep(self._draw.uniform(2, 60))
        machine.give_cards()

    async def _engine_dies(self) -> None:
        for engine in list(self._one().engines.values()):
            engine.die()

    async def _revoke(self) -> None:
        """No result counts from an agent that was revoked, or whose token was, whatever it does to
        go on; then it gets another token or link."""
        world, machine = self._world, self._one()
        lock = world.changing[machine.name]
        if lock.locked() or machine.driver is None:
            return
        async with lock:
            agent_id = machine.driver.link.identity.agent_id
            if self._draw.random() < 0.5:  # it does what it can to go on
                machine.driver.link.heartbeat = lambda *_: None  # type: ignore[method-assign]
            if machine.link:
                await world.revoke(agent_id=agent_id)
                revoked = world.is_revoked(agent_id)  # the answer alone may be lost
            else:
                revoked = await world.revoke(token_id=machine.token.split("_")[2])
                if not revoked:
                    return
            if revoked:
                await self._is_out(machine, agent_id, "was revoked")
            await machine.kill()
            if machine.link and revoked:
                machine.link = world.new_link()
            elif not machine.link:
                machine.token = world.new_token("card owner", "agent")
            machine.start()

    async def _leave(self) -> None:
        """Its owner leaves the pool in the midst of work, and joins again later."""
        world, machine = self._world, self._one()
        lock = world.changing[machine.name]
        if lock.locked() or not machine.link or machine.driver is None:
            return
        async with lock:
            agent_id = machine.driver.link.identity.agent_id
            machine.stays_out = True
            if await machine.leave():
                await self._is_out(machine, agent_id, "has left")
            machine.stays_out = False
            if self._draw.random() < 0.5:
                await machine.kill()
                machine.start()
            else:
                machine.join_again()

    async def _is_out(self, machine: Machine, agent_id: str, how: str) -> None:
        world = self._world
        await asyncio.sleep(world.disk.faults.slow * 0.1 + 1.0)  # what was being written
        before = world.accepted_of(agent_id)
        await asyncio.sleep(self._draw.uniform(1, 40))
        if world.accepted_of(agent_id) != before:
            world.violated(f"{machine.name} {how}, and its results were accepted")
        account = world.broker.account
        session = account.sessions.get(agent_id) if account is not None else None
        if machine.link and session is not None and session.link.up:
            world.violated(f"{machine.name} {how}, and is online")
