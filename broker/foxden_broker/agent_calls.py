"""What the broker does with each thing an agent says."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from google.protobuf.message import Message

from foxden_broker.account import Account, now_ms
from foxden_broker.pool_parts import Held, PoolCard
from foxden_broker.retries import after_failure
from foxden_broker.session import Session
from foxden_broker.store.base import Checkpoint, Lease, Picture, StoreError, Task
from foxden_proto import link, logs
from foxden_proto.link import LeaseKey
from foxden_proto.link_checks import LinkError
from foxden_proto.states import TaskEvent
from foxden_proto.v1 import generation_pb2 as gen
from foxden_proto.v1 import link_pb2 as pb
from foxden_proto.v1 import pool_pb2

log = logging.getLogger(__name__)

_REASON_CHARACTERS = 500
_NAME_CHARACTERS = 100


async def handle(account: Account, session: Session, event: link.Event) -> None:
    """Act on one event of an agent's link; its answers are flushed at the end."""
    match event:
        case pb.Hello():
            await _hello(account, session, event)
        case pb.Heartbeat():
            for readings in event.cards:
                _with_card(account, session, readings.card_id, readings=readings)
            for mode in event.modes:
                _mode(account, session, mode)
        case pb.ModeChanged():
            _mode(account, session, event.mode)
        case pb.CardsChanged():
            await _cards(account, session, event.cards)
        case pb.Refused():
            for refused in event.leases:
                await _refused(account, session, refused, event)
        case pb.TaskStarted():
            await _started(account, session, event)
        case pb.TaskProgress():
            _progress(account, session, event)
        case pb.TaskFinished():
            await _finished(account, session, event)
        case pb.TaskFailed():
            await _failed(account, session, event)
        case pb.TaskReleased():
            await _released(account, session, event)
        case pb.TaskCheckpoint():
            await _checkpoint(account, session, event)
        case pb.TaskStopped():
            await _stopped(account, session, event)
        case pb.ModelLoaded():
            _model_loaded(account, session, event)
        case pb.Goodbye():
            why = _text(event.reason, _REASON_CHARACTERS) or "the agent said goodbye"
            await put_back(account, session.agent_id, why)
        case link.Unacknowledged():
            for lease in event.leases:
                if _holds(account, session, lease):
                    why = "the agent did not answer in time"
                    await account.end_lease(lease, TaskEvent.REFUSE, why, blame=True)
        case link.LeasesExpired():
            pass  # the keeper sees the link's state, and asks again where the store cannot write
        case link.Silent():
            await session.close("silent for too long")
        case Message():  # acknowledged, draining: the link itself keeps them
            account.wake.set()
    account.refresh(session)
    session.flush()


def _text(said: str, most: int) -> str:
    """What an agent wrote, as it can be stored: PostgreSQL takes no NUL, and a link that was cut
    for it would bring it again and again."""
    return said.replace("\x00", "")[:most]


def offline(account: Account, session: Session) -> None:
    """The agent's connection is over; its images stay its own until the link's grace ends."""
    account.refresh(session)
    for card in account.pool.cards_of(session.agent_id):
        card.online = False
        card.last_seen_ms = now_ms()
        account.pool.card_changed(card.info.card_id)
    account.cards_changed()


async def _hello(account: Account, session: Session, hello: pb.Hello) -> None:
    claimed = {LeaseKey.of(held.lease): held for held in hello.held}
    mine = {held.lease: held for held in account.pool.leases_of(session.agent_id)}
    # An outcome that waits is always let in: the store alone can say whether it still counts.
    keep = [key for key, held in claimed.items() if key in mine or held.ended]
    drop = [key for key in claimed if key not in keep]
    this_connection = session.session_id
    for lease, held in mine.items():
        if lease not in claimed:
            await account.lose(held, "the agent came back without it")
            continue
        held.restored = False  # its agent has seen this broker with it
        if claimed[lease].started and not held.started:
            await _start(account, held)
    await _cards(account, session, hello.cards, hello)
    for mode in hello.modes:
        _mode(account, session, mode)
    if session.session_id != this_connection:
        return  # a newer connection took over while the store was writing; its hello is answered
    session.link.welcome(session.session_id, account.account_id, keep, drop)
    for key in keep:
        job = account.pool.jobs.get(key.job_id)
        if job is not None and job.cancelled and not claimed[key].ended:
            session.link.stop(key)  # the cancel came while the link was broken
    log.info(
        *("agent %s (%s) is online", hello.agent_name, session.agent_id),
        extra=logs.fields(agent=session.agent_id, account=account.account_id),
    )


async def _cards(
    account: Account,
    session: Session,
    cards: Sequence[pool_pb2.CardInfo],
    hello: pb.Hello | None = None,
) -> None:
    known = {card.info.card_id: card for card in account.pool.cards_of(session.agent_id)}
    name = version = ""
    if hello is not None:
        name, version = _text(hello.agent_name, _NAME_CHARACTERS), _text(hello.agent_version, 40)
    elif known:
        any_card = next(iter(known.values()))
        name, version = any_card.agent_name, any_card.agent_version
    taken = [
        card.card_id
        for card in cards
        if card.card_id in account.pool.cards and card.card_id not in known
    ]
    if taken:
        raise LinkError(
            f"card {taken[0]} belongs to another agent: give this installation a home of its own"
        )
    for card_id in set(known) - {card.card_id for card in cards}:
        account.pool.forget_card(card_id)
    for card in cards:
        card.name = _text(card.name, _NAME_CHARACTERS) or card.card_id
        before = known.get(card.card_id)
        account.pool.put_card(
            PoolCard(
                card,
                session.agent_id,
                name,
                version,
                now_ms(),
                online=True,
                mode=before.mode if before else pool_pb2.MODE_READY,
                reasons=before.reasons if before else (),
                standing=before.standing if before else "",
                readings=before.readings if before else pool_pb2.CardReadings(card_id=card.card_id),
            )
        )
    rows = [(card.card_id, card.SerializeToString()) for card in cards]
    await account.store.save_cards(
        account.account_id, session.agent_id, name, version, rows, now_ms()
    )
    await account.resolve_waiting()
    account.cards_changed()


def _mode(account: Account, session: Session, mode: pb.CardMode) -> None:
    _with_card(account, session, mode.card_id, mode=mode.mode, reasons=tuple(mode.reasons))


def _with_card(account: Account, session: Session, card_id: str, **values: object) -> None:
    card = account.pool.cards.get(card_id)
    if card is None or card.agent_id != session.agent_id:
        return
    before = _standing(card)
    for name, value in values.items():
        setattr(card, name, value)
    card.last_seen_ms = now_ms()
    if before != _standing(card):
        account.pool.card_changed(card_id)
        account.cards_changed()


def _standing(card: PoolCard) -> tuple[object, ...]:
    """What of a card the scheduler and those who watch have to hear at once."""
    readings = card.readings
    in_memory = tuple(readings.loaded_models), tuple(readings.models_in_ram)
    return card.mode, card.reasons, in_memory


def _model_loaded(account: Account, session: Session, told: pb.ModelLoaded) -> None:
    card = account.pool.cards.get(told.card_id)
    if card is None or card.agent_id != session.agent_id:
        return
    # Only of models that it offers: made-up ones would fill the table of estimates.
    if told.tier == pool_pb2.TIER_VRAM or told.model_sha256 not in {
        model.sha256 for model in card.info.models
    }:
        return
    from_ram = told.tier == pool_pb2.TIER_RAM
    account.pool.model_loaded(told.card_id, told.model_sha256, told.seconds, from_ram=from_ram)


def _holds(account: Account, session: Session, lease: Lease) -> Held | None:
    held = account.pool.held.get(lease)
    return held if held is not None and held.agent_id == session.agent_id else None


async def _refused(
    account: Account, session: Session, message: pb.Lease, refused: pb.Refused
) -> None:
    lease = LeaseKey.of(message)
    held = _holds(account, session, lease)
    if held is not None:
        why = _text(refused.reason, _REASON_CHARACTERS) or "the agent refused it"
        card = account.pool.cards.get(held.card_id)
        # Its owner came first, and the card has said so. One that refuses and says that it is
        # ready would be given the same again at once: it is left alone for a moment.
        owner = refused.not_ready and card is not None and not card.works
        await account.end_lease(lease, TaskEvent.REFUSE, why, blame=not owner)


async def _started(account: Account, session: Session, event: pb.TaskStarted) -> None:
    held = _holds(account, session, LeaseKey.of(event.lease))
    if held is not None and not held.started:
        await _start(account, held)


async def _start(account: Account, held: Held) -> None:
    change = await account.store.start(account.account_id, held.lease, now_ms())
    if change is not None:
        account.noted(change)
        account.pool.started(held)
        account.hub.changed(held.lease.job_id, change)
    elif held.lease in account.pool.held:
        account.doubt(held.lease.job_id, held.lease.index)


def _progress(account: Account, session: Session, event: pb.TaskProgress) -> None:
    if _holds(account, session, LeaseKey.of(event.lease)) is None:
        return
    account.hub.progressed(
        event.lease.job_id,
        gen.Progress(
            index=event.lease.index, step=event.step, steps=event.steps, preview=event.preview
        ),
    )


async def _finished(account: Account, session: Session, event: pb.TaskFinished) -> None:
    lease = LeaseKey.of(event.lease)
    told = event.picture
    if not account.signer.check_receipt(
        event.receipt, account.account_id, lease, told.sha256, told.size
    ):
        log.warning("agent %s finished %s without a receipt", session.agent_id, lease)
        session.link.settle(event.lease, False)
        return
    found = await _drawn(account, session, lease)
    if found is None:
        session.link.settle(event.lease, False)
        return
    task, request = found
    # Estimates and deadlines of everybody's images come from this: no longer than it can be true.
    lasted = max(0, now_ms() - task.leased_ms) / 1000
    picture = gen.Picture(
        index=lease.index,
        seed=request.seed + lease.index,
        width=request.width,
        height=request.height,
        card=task.card_name,
        model=request.model,
        model_sha256=request.model_sha256,
        seconds=min(max(0.0, told.seconds), lasted),
        sha256=told.sha256,
        size=told.size,
        media_type="image/png",
        batch_size=max(1, told.batch_size),
        placement=told.placement[:100],
        versions=told.versions[:200],
    )
    held = _holds(account, session, lease)
    if held is not None and not held.started:
        await _start(account, held)  # its start frame was lost with a connection
    change, holds = await account.store.finish(
        account.account_id,
        lease,
        Picture(told.sha256, told.size, picture.SerializeToString()),
        now_ms(),
    )
    account.checkpoints.forget(lease)
    if change is not None:
        account.noted(change)
        account.pool.ended(lease, change.task.state, change.event, blame=False, run=picture.seconds)
        account.changed(lease.job_id, change)
    elif lease in account.pool.held:
        account.doubt(lease.job_id, lease.index)
    session.link.settle(event.lease, holds)


async def _drawn(
    account: Account, session: Session, lease: Lease
) -> tuple[Task, gen.ImageRequest] | None:
    """The image that was drawn and what was asked for: from memory where its lease still lives,
    and from the store for an outcome that comes late."""
    held, opened = _holds(account, session, lease), account.pool.jobs.get(lease.job_id)
    if held is not None and held.task is not None and opened is not None:
        return held.task, opened.request
    job = await account.store.job(account.account_id, lease.job_id)
    if job is None or not 0 <= lease.index < len(job.tasks):
        return None
    return job.tasks[lease.index], gen.ImageRequest.FromString(job.request)


async def _failed(account: Account, session: Session, event: pb.TaskFailed) -> None:
    lease = LeaseKey.of(event.lease)
    held = _holds(account, session, lease)
    if held is not None and event.checkpoint_refused and held.resumed:
        why = _text(event.reason, _REASON_CHARACTERS) or "its checkpoint is of no use there"
        await account.begin_again(held, why)
    elif held is not None:
        decide = after_failure(account.capable_ids(lease.job_id), retryable=event.retryable)
        why = _text(event.reason, _REASON_CHARACTERS) or "the engine failed"
        # What no card could do better says nothing about this one.
        await account.end_lease(lease, decide, why, blame=event.retryable)
    session.link.settle(event.lease, True)


async def _stopped(account: Account, session: Session, event: pb.TaskStopped) -> None:
    lease = LeaseKey.of(event.lease)
    job = account.pool.jobs.get(lease.job_id)
    if _holds(account, session, lease) and job is not None:
        if job.cancelled:
            await account.end_lease(lease, TaskEvent.CANCEL, "cancelled by the client")
        else:
            # An agent's word alone cancels nothing: it was told to stop because this took too
            # long, and the store could not write that down, or it stopped by itself.
            decide = after_failure(account.capable_ids(lease.job_id))
            await account.end_lease(lease, decide, "its card stopped drawing it", blame=True)
    session.link.settle(event.lease, True)


async def _released(account: Account, session: Session, event: pb.TaskReleased) -> None:
    lease = LeaseKey.of(event.lease)
    why = _text(event.reason, _REASON_CHARACTERS) or "the owner took the card back"
    held = _holds(account, session, lease)
    if held is not None:
        if not held.started:
            await account.end_lease(lease, TaskEvent.REFUSE, why)
        else:
            await account.release(held, why)
            if event.releasing:
                return  # the checkpoint follows, or the deadline ends the wait
            checkpoint = None
            if event.HasField("checkpoint"):
                checkpoint = _proven(account, session, lease, event.checkpoint, event.receipt)
            await account.end_lease(lease, TaskEvent.RELEASED, why, checkpoint=checkpoint)
    session.link.settle(event.lease, True)


async def _checkpoint(account: Account, session: Session, event: pb.TaskCheckpoint) -> None:
    lease = LeaseKey.of(event.lease)
    held = _holds(account, session, lease)
    if held is None:
        return
    checkpoint = _proven(account, session, lease, event.checkpoint, event.receipt)
    if checkpoint is not None:
        if not held.started:
            await _start(account, held)  # its start frame was lost with a connection
        await account.checkpoints.tell(account, lease, checkpoint)


def _proven(
    account: Account, session: Session, lease: Lease, told: pb.Checkpoint, receipt: str
) -> Checkpoint | None:
    """A checkpoint that this lease has PUT; None where it has not."""
    ids = (account.account_id, lease, told.sha256, told.size)
    if not account.signer.check_checkpoint_receipt(receipt, *ids):
        log.warning("agent %s told a checkpoint of %s without a receipt", session.agent_id, lease)
        return None
    account.checkpoints.remember(told.sha256, now_ms())  # another broker may have taken the PUT
    return Checkpoint(told.sha256, told.size, told.step)


async def put_back(account: Account, agent_id: str, reason: str) -> None:
    """Nobody will come back with what this agent holds, and nobody is to blame."""
    for held in account.pool.leases_of(agent_id):
        try:
            if held.started:
                await account.release(held, reason)
                await account.end_lease(held.lease, TaskEvent.RELEASED, reason)
            else:
                await account.end_lease(held.lease, TaskEvent.REFUSE, reason)
        except StoreError as error:
            log.error("image %s could not be put back yet: %s", held.lease, error)
