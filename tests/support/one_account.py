"""A broker's account on a real SQLite store, with agents that the test plays. No processes."""

from __future__ import annotations

import hashlib
import time
from pathlib import Path
from typing import Any

from foxden_broker import agent_calls, client_calls, dispatcher
from foxden_broker.account import Account, now_ms
from foxden_broker.blobs_folder import FolderBlobs
from foxden_broker.client_calls import Member
from foxden_broker.session import Session
from foxden_broker.store.sql_store import SqlStore, open_store
from foxden_broker.uploads import Signer
from foxden_proto.link import LeaseKey
from foxden_proto.timers import Timers
from foxden_proto.v1 import generation_pb2 as gen
from foxden_proto.v1 import link_pb2 as pb

_TEMPLATES: list[bytes] = []  # an empty database: migrating takes longer than most tests


async def new_store(folder: Path) -> SqlStore:
    """An empty store with the account `main`, in a file of its own."""
    path = folder / "foxden.db"
    if _TEMPLATES:
        path.write_bytes(_TEMPLATES[0])
        return await open_store(str(path))
    store = await open_store(str(path))
    await store.ensure_account("main", "main", 0)
    await store.close()
    _TEMPLATES.append(path.read_bytes())
    return await open_store(str(path))


ANN = Member("main", "ann", frozenset({"generate"}))
ADMIN = Member("main", "admin", frozenset({"admin", "generate"}))


class Line:
    async def send_bytes(self, data: bytes) -> None: ...
    async def close(self, code: int = 1000, reason: str | None = None) -> None: ...


class World:
    """One account; each card has an agent of its own, `agent-CARD`."""

    def __init__(self, store: SqlStore, folder: Path, **values: Any) -> None:
        self.store, self.folder, self.values = store, folder, values
        self.account = self._account()

    def _account(self) -> Account:
        blobs = FolderBlobs(self.folder / "blobs")
        values = {"timers": Timers(), **self.values}
        return Account("main", self.store, blobs, Signer(bytes(32)), **values)

    async def restart(self) -> None:
        """What a new broker process knows."""
        self.account = self._account()
        await self.account.load()

    async def join(self, card: Any, *held: pb.HeldLease) -> Session:
        """The card's agent says hello."""
        agent_id = f"agent-{card.card_id}"
        session = Session(agent_id, self.account.timers, time.monotonic())
        self.account.sessions[agent_id] = session
        session.connected(Line())
        hello = pb.Hello(protocol=1, agent_id=agent_id, cards=[card], held=held)
        await self.say(session, hello=hello)
        return session

    def leave(self, card: Any) -> None:
        session = self.account.sessions[f"agent-{card.card_id}"]
        agent_calls.offline(self.account, session)
        session.link.lost(time.monotonic())

    async def say(self, session: Session, **frame: Any) -> list[pb.BrokerFrame]:
        """What the agent says, and what it hears."""
        data = pb.AgentFrame(**frame).SerializeToString()
        for event in session.link.receive(data, time.monotonic()):
            await agent_calls.handle(self.account, session, event)
        return self.heard(session)

    @staticmethod
    def heard(session: Session) -> list[pb.BrokerFrame]:
        unsent = session._unsent
        found = [unsent.get_nowait() for _ in range(unsent.qsize())]
        return [pb.BrokerFrame.FromString(data) for data in found if data is not None]

    async def submit(
        self, count: int = 1, member: Member = ANN, key: str = "", **values: Any
    ) -> str:
        request = gen.SubmitRequest(
            request=gen.ImageRequest(prompt="a red cube", seed=1),
            count=count,
            idempotency_key=key,
            **values,
        )
        return (await client_calls.submit(self.account, member, request)).job.id

    async def dispatch(self) -> set[LeaseKey]:
        """Hand out what can be; the leases that are new."""
        before = set(self.account.pool.held)
        await dispatcher.dispatch(self.account)
        return set(self.account.pool.held) - before

    def session_of(self, lease: LeaseKey) -> Session:
        return self.account.sessions[self.account.pool.held[lease].agent_id]

    async def acknowledge(self, *leases: LeaseKey) -> None:
        for lease in leases:
            session = self.session_of(lease)
            await self.say(session, acknowledged=pb.Acknowledged(leases=[lease.message()]))

    async def start(self, *leases: LeaseKey) -> None:
        await self.acknowledge(*leases)
        for lease in leases:
            session = self.session_of(lease)
            await self.say(session, started=pb.TaskStarted(lease=lease.message()))

    async def fail(self, lease: LeaseKey, reason: str = "no", *, retryable: bool = False) -> None:
        failed = pb.TaskFailed(lease=lease.message(), reason=reason, retryable=retryable)
        await self.say(self.session_of(lease), failed=failed)

    async def finish(self, lease: LeaseKey, data: bytes = b"") -> str:
        """The agent PUTs a picture and says so; its sha256."""

        async def chunks() -> Any:
            yield data or repr(lease).encode()

        account = self.account
        sha256, size = await account.blobs.put(chunks(), limit=10_000)
        receipt = account.signer.receipt("main", lease, sha256, size)
        picture = gen.Picture(sha256=sha256, size=size, seconds=0.1)
        finished = pb.TaskFinished(lease=lease.message(), picture=picture, receipt=receipt)
        await self.say(self.session_of(lease), finished=finished)
        return sha256

    async def draw(self, count: int = 1, **values: Any) -> tuple[str, list[str]]:
        """Submit a job and have its images drawn; its id and its pictures' sha256."""
        job_id = await self.submit(count, **values)
        pictures = []
        while leases := await self.dispatch():
            for lease in sorted(leases, key=lambda lease: lease.index):
                await self.start(lease)
                pictures.append(await self.finish(lease))
        return job_id, pictures

    async def job(self, job_id: str) -> gen.Job:
        from foxden_broker.wire import job_message

        return job_message(await client_calls.find(self.account, ADMIN, job_id, attempts=True))


def sha256_of(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


__all__ = ["ADMIN", "ANN", "World", "new_store", "now_ms", "sha256_of"]
