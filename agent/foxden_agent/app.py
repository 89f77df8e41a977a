"""The agent put together: engines, cards, workers and the link, in the order they start."""

from __future__ import annotations

import asyncio
import logging
import os
import platform
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path

import psutil

from foxden_agent import arrived_models, clock, identity, idle_engine, mended_models, models
from foxden_agent.card_engine import CardEngine
from foxden_agent.installing.environment import EngineMissing, engine_python
from foxden_agent.joined_pools import JoinedPools, tls_once
from foxden_agent.link_driver import LinkDriver
from foxden_agent.links import Links, Served
from foxden_agent.models import LocalModel
from foxden_agent.owner_first import Lent, OwnerFirst, available
from foxden_agent.page.seen import Seen
from foxden_agent.page.timeline import Timeline
from foxden_agent.page.today import Today
from foxden_agent.pictures import PictureSender
from foxden_agent.placement import CardFacts, ModelFacts
from foxden_agent.placement.placer import Placer, read_models
from foxden_agent.placement.remembered import Measurements
from foxden_agent.policy import settings_json
from foxden_agent.policy.owner_files import POLICY, OwnerFiles, OwnersWill, begin_run
from foxden_agent.readings import Readings
from foxden_agent.settings import AgentSettings
from foxden_agent.updating import yielding
from foxden_agent.watching.choose import watching
from foxden_agent.watching.devices import CudaDevice
from foxden_agent.watching.history import History
from foxden_agent.watching.recorder import Recorder
from foxden_agent.watching.recording import BadRecording, Recording
from foxden_agent.worker import CardWorker
from foxden_proto import limits
from foxden_proto.link import AgentLink
from foxden_proto.programs import Loop, watched
from foxden_proto.v1 import link_pb2 as pb
from foxden_proto.v1 import pool_pb2

log = logging.getLogger(__name__)

_STOPPED = "its owner stopped it"


class StartError(Exception):
    """The agent cannot start; the text says why and what to do."""


@dataclass(frozen=True)
class Running:
    """An agent that works; `online` is set when the broker first says welcome."""

    agent_id: str
    cards: list[pool_pb2.CardInfo]
    online: asyncio.Event
    failed: asyncio.Future[None]  # ends with the exception of the first loop that dies
    seen: Seen  # what the owner's page shows of it


@contextmanager
def installation(folder: Path) -> Iterator[None]:
    """Hold the agent's folder: one agent at a time runs from it. Raises StartError or HomeInUse."""
    with ExitStack() as stack:
        try:
            stack.enter_context(identity.only_one(folder))
        except OSError as error:
            raise _unwritable(folder, error) from None
        yield


def _unwritable(folder: Path, error: OSError) -> StartError:
    return StartError(
        f"The folder {folder} cannot be written ({error.strerror}): "
        "choose another with --home, or give yourself the right to write there."
    )


@asynccontextmanager
async def agent(settings: AgentSettings) -> AsyncIterator[Running]:
    """Run an agent for as long as the context lasts. The caller holds its `installation`.

    Raises StartError, identity.CardInUse or EngineFailed.
    """
    async with AsyncExitStack() as stack:
        try:
            agent_id = identity.agent_id(settings.folder)
        except OSError as error:
            raise _unwritable(settings.folder, error) from None
        # The engine takes seconds to import torch; the models are read meanwhile.
        scanning = asyncio.create_task(asyncio.to_thread(_scan, settings))
        engines = await _start_engines(settings, stack)
        # A hello is one frame: what is beyond it is not offered rather than breaking the link.
        most_models = limits.MODELS_PER_AGENT // len(engines)
        found = (await scanning)[:most_models]
        model_facts = await asyncio.to_thread(read_models, found)
        will, recording = await asyncio.to_thread(_will, settings)
        placers = _placers(agent_id, engines, model_facts, settings)
        cards = [
            _card(agent_id, engine, placer, found, settings)
            for engine, placer in zip(engines, placers, strict=True)
        ]
        hello = pb.Hello(
            protocol=limits.LINK_PROTOCOL,
            agent_id=agent_id,
            agent_name=settings.name or platform.node() or "a PC",
            agent_version=version("foxden"),
            cards=cards,
        )
        workers: dict[str, CardWorker] = {}
        online = asyncio.Event()
        link = Links(settings.timers, hello, workers, lambda: owner.modes())
        shelf = {one.model.sha256: one for one in found}

        def offers_changed() -> None:
            _say_changes(link, cards, workers, list(shelf.values()))
            link.flush()

        def changed() -> None:
            owner.again()  # an engine that is broken is a mode of its card
            offers_changed()

        lent: dict[str, Lent] = {}
        for card, engine, placer in zip(cards, engines, placers, strict=True):
            workers[card.card_id] = CardWorker(
                card.card_id,
                card.device,
                engine,
                shelf,
                link,
                link,
                link.flush,
                together=card.most_together,
                placer=placer,
                changed=changed,
            )
            mine = lent[card.device] = Lent(card.card_id, workers[card.card_id], engine)
            if card.device.startswith("cuda") and recording is None:
                placer.memory_free = partial(_available, mine)
                engine.models.free_memory = partial(_free, mine)
            engine.models.owner_present = lambda: owner.user_here
        also: list[Callable[[Readings], None]] = [lambda readings: seen.look(readings)]
        if settings.record:
            also.append(Recorder(settings.record))
        owner = OwnerFirst(lent, link, link.flush, will, offers_changed=offers_changed, also=also)
        today = Today(settings.folder)
        stack.callback(today.save)
        for worker in workers.values():
            worker.held.on_picture = today.add
        names = {card.device: card.name for card in cards}
        seen = Seen(
            *(hello.agent_name, names, lent, owner),
            online=lambda: link.up,
            history=History(),
            timeline=Timeline(),
            today=today,
        )
        watcher = watching(
            [
                CudaDevice(
                    *(device.device, device.name, device.memory_total),
                    uuid=device.uuid,
                    pci=device.pci_bus_id,
                )
                for device in (engine.description.device for engine in engines)
            ],
            owner.deliver,
            replay=recording,
            speed=settings.replay_speed,
            own_pids=lambda: frozenset(one.pid for one in engines if one.pid is not None),
            listed_programs=lambda: owner.programs,
        )
        loops: list[Loop] = [
            ("watching", watcher.run()),
            *_own_link(settings, link, owner, online, stack),
            ("links' clock", link.keep_time()),
            ("pools", _pools(settings, agent_id, link, owner, online)),
            (
                "mended models",
                mended_models.run(
                    *(found, shelf, partial(_scan, settings), offers_changed),
                    every=2 * settings.timers.heartbeat,
                ),
            ),
            (
                "arrived models",
                arrived_models.run(
                    *(settings.models_folder, found, model_facts, shelf),
                    *(partial(_scan, settings), offers_changed, most_models),
                    every=2 * settings.timers.heartbeat,
                ),
            ),
            *((f"worker {card_id}", worker.run()) for card_id, worker in workers.items()),
            *(
                (f"idle {one.card_id}", idle_engine.run(engine, one.is_busy, settings.idle_unload))
                for one, engine in zip(workers.values(), engines, strict=True)
            ),
        ]
        if settings.supervised:  # then somebody starts it again
            restart = yielding.run(
                settings.folder,
                lambda: any(worker.is_busy() for worker in workers.values()),
                lambda: owner.decisions.values(),
            )
            loops.append(("restart", restart))
        async with watched(loops) as failed:
            try:
                yield Running(agent_id, cards, online, failed, seen)
            finally:
                # Said before anything is torn down, so that the images go elsewhere at once.
                link.drain(_STOPPED)
                await _give_back_all(workers, settings.timers.release / 5)
                link.goodbye(_STOPPED)
                link.flush()
                await asyncio.sleep(0.05)


def _own_link(
    settings: AgentSettings,
    links: Links,
    owner: OwnerFirst,
    online: asyncio.Event,
    stack: AsyncExitStack,
) -> list[Loop]:
    """The link to the owner's own broker, which comes before all others; none without one."""
    if settings.broker is None:
        return []
    hello = links.hello(links.identity.agent_id)
    link = AgentLink(settings.timers, hello, clock.now())
    tls = tls_once(settings.broker)
    sender = PictureSender(settings.broker, tls)
    stack.push_async_callback(sender.close)

    def changed(state: str, _reason: str) -> None:
        if state == "online":
            online.set()

    served = Served(settings.broker.grpc_target, True, link, sender, changed)
    driver = served.driver = LinkDriver(
        link,
        settings.broker,
        settings.token,
        on_event=lambda event: links.handle(served, event),
        readings=lambda: (owner.told(), links.modes_for(served)),
        tls=tls,
    )
    links.add(served)
    return [("link", _once_read(owner, driver)), ("link clock", driver.keep_time())]


async def _pools(
    settings: AgentSettings,
    agent_id: str,
    links: Links,
    owner: OwnerFirst,
    online: asyncio.Event,
) -> None:
    """Serve the joined pools, now and later."""
    alone = settings.broker is None

    def first() -> None:
        if settings.broker is None:  # ready is who has its own broker when that says so
            online.set()

    await JoinedPools(settings.folder, agent_id, links, owner, alone=alone, online=first).run()


async def _once_read(owner: OwnerFirst, driver: LinkDriver) -> None:
    """Keep the link up, from the first readings on: nobody knows before whether the owner plays."""
    await owner.first.wait()
    await driver.run()


def _available(mine: Lent) -> int | None:
    return available(mine.readings, engine_runs=mine.engine.running)


def _free(mine: Lent) -> int | None:
    return mine.readings.memory_free if mine.readings is not None else None


def _will(settings: AgentSettings) -> tuple[Callable[[], OwnersWill], Recording | None]:
    """What the owner wants, asked again with each reading; and the recording to play, if any.

    A recording brings the policy that it was made under: it holds unless this agent's owner has
    set one. Raises StartError.
    """
    try:
        run = begin_run(settings.folder)
        recording = Recording(settings.replay) if settings.replay else None
    except BadRecording as error:
        raise StartError(str(error)) from None
    files = OwnerFiles(settings.folder, run)
    if recording is None or not recording.policy:
        return files.look, recording
    recorded, bad = settings_json.read(recording.policy)
    if bad:
        raise StartError(f"The policy in {settings.replay} cannot be followed: {bad[0]}.")
    own = settings.folder / POLICY

    def look() -> OwnersWill:
        will = files.look()
        return will if own.exists() else replace(will, policy=recorded)

    return look, recording


async def _give_back_all(workers: dict[str, CardWorker], within: float) -> None:
    """What is drawn goes on elsewhere from its last step, if that takes no longer than `within`."""
    for worker in workers.values():
        worker.give_back([_STOPPED])
    await asyncio.gather(*(worker.held.last_things(within) for worker in workers.values()))


def _scan(settings: AgentSettings) -> list[LocalModel]:
    return models.scan(settings.models_folder, settings.folder / "models.json")


async def _start_engines(settings: AgentSettings, stack: AsyncExitStack) -> list[CardEngine]:
    """One engine per card: the device that was asked for, or every CUDA device there is."""

    try:
        python = engine_python(settings.home)
    except EngineMissing as error:
        raise StartError(str(error)) from None

    async def start(device: str) -> CardEngine:
        engine = CardEngine(device, settings.timers, python)
        stack.push_async_callback(engine.kill)
        await engine.ready()
        stack.enter_context(identity.only_one_per_card(engine.description.device.device))
        return engine

    first = await start(settings.device)
    engines = [first]
    if settings.device == "auto":
        described = first.description
        for device in described.devices:
            if device.device.startswith("cuda") and device.device != described.device.device:
                engines.append(await start(device.device))
    return engines


def _placers(
    agent_id: str,
    engines: list[CardEngine],
    model_facts: dict[str, ModelFacts],
    settings: AgentSettings,
) -> list[Placer]:
    """One per card; they share what is remembered."""
    file = settings.folder / "placement.json"
    measurements = Measurements.read(file, int(time.time() // 86400))
    return [
        Placer(
            f"{agent_id}.{engine.description.device.device}",
            CardFacts(
                engine.description.device.device,
                engine.description.device.memory_total,
                engine.description.compute_capability,
                engine.description.device.name,
                ram_total=psutil.virtual_memory().total,
                budget=settings.vram_budget,
                windows=sys.platform == "win32",
            ),
            model_facts,
            measurements,
            file,
        )
        for engine in engines
    ]


def _card(
    agent_id: str,
    engine: CardEngine,
    placer: Placer,
    found: list[LocalModel],
    settings: AgentSettings,
) -> pool_pb2.CardInfo:
    described = engine.description
    machine = settings.name or platform.node() or "a PC"
    return pool_pb2.CardInfo(
        card_id=f"{agent_id}.{described.device.device}",
        name=f"{described.device.name} in {machine}"[:100],
        device=described.device.device,
        memory_total=described.device.memory_total,
        models=[one.model for one in found],
        samplers=described.samplers,
        engine=described.versions,
        compute_capability=described.compute_capability,
        most_together=placer.together(found, os.cpu_count() or 1),
        fits=placer.fits(found),
    )


def _say_changes(
    link: Links,
    cards: list[pool_pb2.CardInfo],
    workers: dict[str, CardWorker],
    offered: list[LocalModel],
) -> None:
    """Tell the broker at once what the cards can do now, and let the next Hello say it too."""
    before = [card.SerializeToString(deterministic=True) for card in cards]
    for card in cards:
        worker = workers[card.card_id]
        del card.models[:]
        card.models.extend(one.model for one in offered)
        if worker.placer is not None:
            together = worker.placer.together(offered, os.cpu_count() or 1)
            worker.together = min(worker.together, together)
            del card.fits[:]
            card.fits.extend(worker.placer.fits(offered))
        card.most_together = worker.together
    if before != [card.SerializeToString(deterministic=True) for card in cards]:
        link.cards_changed(cards)
