"""The two programs, put together from their real parts, that can be started and killed."""

from __future__ import annotations

import asyncio
import random
import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, cast
from unittest import mock

import httpx

import foxden_agent.app
import foxden_agent.card_engine
import foxden_agent.identity
import foxden_agent.joined_pools
import foxden_agent.joining.keys
import foxden_agent.link_driver
from foxden_agent import joining
from foxden_agent.identity import HomeInUse
from foxden_agent.joined_pools import IdentityChanged
from foxden_agent.link_driver import LinkDriver, LinkRefused
from foxden_agent.models import LocalModel
from foxden_agent.readings import CardReadings, MachineReadings, Readings
from foxden_agent.settings import AgentSettings
from foxden_agent.watching.devices import CudaDevice
from foxden_agent.watching.watcher import Deliver
from foxden_agent.worker import CardWorker
from foxden_broker import dispatcher, http_api, keeper
from foxden_broker.account import Account
from foxden_broker.auth import Doorkeeper
from foxden_broker.backup import Copier
from foxden_broker.grpc_api import AdminService, Door, GenerationService
from foxden_broker.joining.enrolment import Enrolment
from foxden_broker.metrics import Metrics
from foxden_broker.store.base import StoreError
from foxden_broker.store.sql_store import SqlStore
from foxden_broker.uploads import Signer
from foxden_proto.address import Address
from foxden_proto.programs import watched
from foxden_proto.timers import Timers
from foxden_proto.v1 import pool_pb2
from simulated.clock import CURRENT, Process
from simulated.disk import Disk, SimulatedBlobs, SimulatedDatabase
from simulated.engine import EngineFaults, SimulatedEngine
from simulated.network import Dialled, HttpTransport, Network

ACCOUNT = "main"
_SIGNING_KEY = bytes(range(32))


class Broker:
    """One broker after the other on one disk: `foxden_broker.app.broker` without its sockets."""

    def __init__(self, disk: Disk, network: Network, violated: Callable[[str], None]) -> None:
        self._disk, self._network, self._violated = disk, network, violated
        self.process: Process | None = None
        self.account: Account | None = None
        self.admin: AdminService | None = None

    @property
    def up(self) -> bool:
        return self._network.broker is not None

    async def start(self) -> None:
        """Until its doors are open; it may be killed meanwhile."""
        self.process = process = Process("broker")
        starting = process.start(self._start(process), "start")
        await asyncio.wait([starting])
        if not starting.cancelled() and (error := starting.exception()) is not None:
            raise error

    async def _start(self, process: Process) -> None:
        metrics, copier = Metrics(), cast("Copier", None)  # nobody asks for a backup here
        store = SqlStore(SimulatedDatabase(self._disk, process))
        blobs = SimulatedBlobs(self._disk, process)
        while True:
            account = Account(ACCOUNT, store, blobs, Signer(_SIGNING_KEY), Timers())
            account.metrics = metrics
            try:
                await account.load()
                break
            except StoreError:  # the service manager starts it again
                await asyncio.sleep(1.0)
        doorkeeper = Doorkeeper(store)
        door = Door({ACCOUNT: account}, store, doorkeeper, metrics, copier)
        self.account, self.admin = account, AdminService(door)
        app = http_api.create(
            *({ACCOUNT: account}, doorkeeper, "", metrics),
            metrics_open=False,
            enrolment=Enrolment(store, {ACCOUNT}, Signer(_SIGNING_KEY)),
        )
        process.start(self._loops(account), "loops")
        self._network.broker_up(process, app, GenerationService(door))

    async def _loops(self, account: Account) -> None:
        loops = [("dispatcher", dispatcher.run(account)), ("keeper", keeper.run(account))]
        async with watched(loops) as failed:
            try:
                await failed
            except Exception as error:
                self._violated(f"a loop of the broker died: {error!r}")
                raise

    async def kill(self, *, silently: bool = False) -> None:
        """As kill -9; `silently`: as a power cut, which closes no connection."""
        process, self.process = self.process, None
        if process is not None:
            process.alive = False
            self._network.broker_gone(silently=silently)
            await process.kill()


class Machine:
    """One PC with an agent: `foxden_agent.app.agent` with a simulated engine."""

    def __init__(
        self,
        name: str,
        folder: Path,
        network: Network,
        draw: random.Random,
        models: list[pool_pb2.Model],
        note: Callable[..., None],
        violated: Callable[[str], None],
    ) -> None:
        self.violated = violated
        self.name, self.network, self.draw, self.note = name, network, draw, note
        self.folder, self.home = folder, 0
        self.cards = draw.choice([1, 1, 2])
        self.pace = draw.choice([0.5, 1.0, 1.0, 3.0])  # times as long as a good card
        self.models = [LocalModel(model, folder / model.name) for model in models]
        self.token = self.link = ""  # one of them; with a link it joins by a key of its own
        self.stays_out = False  # its owner does not want to join just now
        self.engine_faults = EngineFaults()
        self.engines: dict[str, SimulatedEngine] = {}
        self.driver: LinkDriver | None = None
        self.workers: list[CardWorker] = []
        self.game = ""  # that the owner plays
        self.process: Process | None = None

    @property
    def up(self) -> bool:
        return self.process is not None

    def start(self) -> None:
        self.workers, self.driver, self.engines = [], None, {}
        self.process = process = Process(self.name, self)
        process.start(self._run(), f"agent {self.name}")

    async def _run(self) -> None:
        settings = AgentSettings(
            self.folder / f"home-{self.home}",
            None if self.link else Address("127.0.0.1"),
            self.token,
            name=self.name,
            timers=Timers(),
        )
        while True:
            await self.join(settings.folder)
            try:
                async with foxden_agent.app.agent(settings) as running:
                    await running.failed
            except LinkRefused as error:
                self.note(f"{self.name}: refused: {error}")
                # The service manager tries again; an owner who has his link still, sooner.
                most = 5 if self.link else 60
                await asyncio.sleep(self.draw.uniform(most / 3, most))
            except IdentityChanged as changed:
                self.note(f"{self.name}: {changed}")

    async def join(self, folder: Path) -> None:
        """By its link, until it is in; nothing where it has a token."""
        while self.link:
            try:
                if not self.stays_out:
                    await joining.join(folder, self.link, name=self.name)
                    return
            except (joining.JoinError, HomeInUse) as error:
                self.note(f"{self.name}: not joined: {error}")
            await asyncio.sleep(self.draw.uniform(1, 10))

    async def leave(self) -> bool:
        """While its agent runs. Whether the broker was told."""
        folder = self.folder / f"home-{self.home}" / "agent"
        if self.process is None:
            return False
        leaving = self.process.start(joining.leave(folder), f"leave {self.name}")
        await asyncio.wait([leaving])
        if leaving.cancelled() or leaving.exception() is not None:
            return False
        left: joining.Left = leaving.result()
        return left.broker_told

    def join_again(self) -> None:
        """While its agent runs."""
        if self.process is not None:
            folder = self.folder / f"home-{self.home}" / "agent"
            self.process.start(self.join(folder), f"join {self.name}")

    async def stop(self) -> None:
        """Its owner stops it: it says goodbye."""
        process, self.process = self.process, None
        if process is not None:
            await process.end()

    async def kill(self) -> None:
        process, self.process = self.process, None
        if process is not None:
            process.alive = False
            for socket in [s for s in self.network.sockets if s.agent == self.name]:
                socket.reset(silently=self.draw.random() < 0.3)
            for engine in self.engines.values():
                engine.die()
            await process.kill()

    def forget(self) -> None:
        """Installed anew: another agent to the broker."""
        self.home += 1

    def take_back(self, *, checkpoint: bool) -> None:
        """The owner begins to play: what the cards draw is given back; without `checkpoint`, as by
        an engine that makes none."""
        self.game = "a game"
        if not checkpoint:
            for worker in self.workers:
                for image in worker._batch:
                    image.checkpoints.clear()

    def give_cards(self) -> None:
        """The owner is done."""
        self.game = ""


def _machine() -> Machine:
    process = CURRENT.get()
    assert process is not None
    machine: Machine = process.machine
    return machine


class _Watching:
    """Reads the machine's owner once a second, and of the cards nothing but that they are there."""

    def __init__(self, devices: Sequence[CudaDevice], deliver: Deliver, **_: Any) -> None:
        self._devices, self._deliver, self._machine = devices, deliver, _machine()
        self.latest: Readings | None = None

    async def run(self) -> None:
        while True:
            at = time.monotonic()
            seen = MachineReadings(at, time.time(), full_screen=self._machine.game)
            cards = tuple(CardReadings(one.device, at) for one in self._devices)
            self.latest = Readings(seen, cards)
            self._deliver(self.latest)
            await asyncio.sleep(1.0)


class _Driver(LinkDriver):
    """Known to its machine."""

    def __init__(self, *args: Any, **named: Any) -> None:
        super().__init__(*args, **named)
        _machine().driver = self

    async def run(self) -> None:
        machine = _machine()
        try:
            await super().run()
        finally:  # a pool that was left has no link; the next one makes another
            if machine.link and machine.driver is self:
                machine.driver = None


class _Worker(CardWorker):
    def __init__(self, *args: Any, **named: Any) -> None:
        super().__init__(*args, **named)
        _machine().workers.append(self)


@contextmanager
def installed() -> Iterator[None]:
    """What the agent's program reaches of the world is the simulation's."""

    def connect(_url: str, *, additional_headers: Any, open_timeout: Any, **_: Any) -> Dialled:
        machine = _machine()
        process = CURRENT.get()
        assert process is not None
        return Dialled(machine.network, machine.name, process, additional_headers, open_timeout)

    def scan(_: AgentSettings) -> list[LocalModel]:
        return _machine().models

    async def no_keyring(*_: Any) -> None:
        raise ModuleNotFoundError("keyring")

    def new_key() -> bytes:
        return secrets.token_bytes(32)  # the library's own chance is no seed's

    real_client = httpx.AsyncClient

    def client(*, base_url: str, timeout: Any, **_: Any) -> httpx.AsyncClient:
        machine = _machine()
        transport = HttpTransport(machine.network, machine.name)
        return real_client(base_url=base_url, transport=transport, trust_env=False)

    with (
        mock.patch.object(foxden_agent.link_driver, "connect", connect),
        mock.patch.object(foxden_agent.card_engine, "EngineProcess", SimulatedEngine),
        mock.patch.object(foxden_agent.app, "_scan", scan),
        mock.patch.object(foxden_agent.app, "read_models", return_value={}),  # they have no files
        # All machines are one here, and its lock on a card is a real file.
        mock.patch.object(foxden_agent.identity, "only_one_per_card", return_value=nullcontext()),
        mock.patch.object(foxden_agent.app, "LinkDriver", _Driver),
        mock.patch.object(foxden_agent.joined_pools, "LinkDriver", _Driver),
        mock.patch.object(joining.KeyStore, "_on_a_thread", no_keyring),
        mock.patch.object(foxden_agent.joining.keys, "new_key", new_key),
        mock.patch.object(foxden_agent.app, "watching", _Watching),
        mock.patch.object(foxden_agent.app, "CardWorker", _Worker),
        mock.patch.object(httpx, "AsyncClient", client),
    ):
        yield
