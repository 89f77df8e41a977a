"""The HTTP door: the agents' link, what they PUT and fetch, and the broker's own CA."""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Protocol

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.types import ASGIApp, Receive, Scope, Send
from starlette.websockets import WebSocket, WebSocketDisconnect

from foxden_broker import agent_calls, checkpoints
from foxden_broker.account import Account
from foxden_broker.auth import Doorkeeper
from foxden_broker.blobs import BlobMismatch, BlobStalled, BlobTooBig, paced
from foxden_broker.images import PNG_HEADER_BYTES, png_size
from foxden_broker.joining import http as joining_calls
from foxden_broker.joining.arriving import Arriving
from foxden_broker.joining.enrolment import Enrolment
from foxden_broker.joining.proving import prove
from foxden_broker.joining.removal import remove
from foxden_broker.metrics import CONTENT_TYPE, CountedRequests, Metrics
from foxden_broker.relay import relay, tell_left
from foxden_broker.replicas import Replicas
from foxden_broker.session import Connection, Session, dismiss
from foxden_broker.store.base import Lease, StorageFull, StoreError
from foxden_proto import limits, logs, proofs
from foxden_proto.link_checks import LinkError, read_hello
from foxden_proto.problems import Problem, Reason
from foxden_proto.states import TASK_HELD, LinkState, UnknownTransition
from foxden_proto.timers import Timers
from foxden_proto.v1 import link_pb2 as pb
from foxden_proto.v1.generation_pb2 import ImageRequest

log = logging.getLogger(__name__)

_CHECKPOINT_ROUTE = "/v1/checkpoints/{account_id}/{job_id}/{index}/{lease_no}"
_PICTURE_ROUTE = "/v1/pictures/{account_id}/{job_id}/{index}/{lease_no}"
# Agents on their way through the hello. At 2 to 3 ms of processor time each they wait a second or
# two on a free core, and on a fifth of one still less than the 12 s after which an agent gives up.
_MOST_ARRIVING = 500
_PICTURE = re.compile(r"/v1/pictures/([^/]+)/([^/]+)/([0-9]{1,9})/([0-9]{1,18})")
_INDEX, _LEASE_NO = re.compile("[0-9]{1,9}"), re.compile("[0-9]{1,18}")
_MOST_PUTS = 3  # different pictures that are stored for one lease
_MOST_LEASES = 2000  # remembered of those that another broker planned
_COMING = "coming"  # in the place of the sha256 of one that is on its way
_STORE_AWAY = "the broker cannot store anything just now"


def create(
    accounts: dict[str, Account],
    keeper: Doorkeeper,
    ca_pem: str,
    metrics: Metrics,
    replicas: Replicas | None = None,
    *,
    metrics_open: bool,
    enrolment: Enrolment | None = None,
) -> ASGIApp:
    """The HTTP application. `ca_pem` is empty where the broker has no CA of its own; `replicas`
    are there where it shares its database; `metrics_open`: /metrics is told without a token;
    `enrolment`: what machines are let in by, if any are."""

    async def health(_: Request) -> Response:
        return PlainTextResponse("ok\n")

    async def told_metrics(request: Request) -> Response:
        try:
            if not metrics_open:
                await keeper.admit(request.headers.get("authorization", ""), "admin")
        except Problem as problem:
            status = 403 if problem.reason is Reason.PERMISSION_DENIED else 401
            return PlainTextResponse(f"{problem.message}\n", status)
        return Response(metrics.text(), media_type=CONTENT_TYPE)

    async def ca(_: Request) -> Response:
        if not ca_pem:
            return PlainTextResponse("this broker has no CA of its own\n", 404)
        return Response(ca_pem, media_type="application/x-pem-file")

    def holder(account_id: str, lease: Lease, request: Request) -> Account | None:
        """The account, where the request has this lease's token."""
        account = accounts.get(account_id)
        token = request.headers.get("authorization", "").removeprefix("Bearer ")
        if account is None or not account.signer.check_upload_token(token, account_id, lease):
            return None
        return account

    async def put_picture(account_id: str, lease: Lease, request: Request) -> JSONResponse:
        account = holder(account_id, lease, request)
        if account is None:
            return _error(401, "the token is not good for this picture")
        return await _store_picture(account, lease, request)

    async def checkpoint(request: Request) -> Response:
        account_id, lease = request.path_params["account_id"], _lease(request)
        if lease is None:
            return _error(422, "this path names no image: its numbers are no index and lease")
        account = holder(account_id, lease, request)
        if account is None:
            return _error(401, "the token is not good for this image")
        if request.method == "PUT":
            return await checkpoints.put(account, lease, request)
        return await checkpoints.get(account, lease)

    arriving: Arriving[WebSocket] = Arriving(_MOST_ARRIVING)
    closings: set[asyncio.Task[None]] = set()

    def part_with(websocket: WebSocket, why: str) -> None:
        closing = asyncio.create_task(dismiss(websocket, why))
        closings.add(closing)
        closing.add_done_callback(closings.discard)

    async def agent_link(websocket: WebSocket) -> None:
        out = arriving.comes(websocket, websocket.client.host if websocket.client else "")
        if out is websocket:
            # After a restart thousands come at once. Those beyond what can be welcomed before
            # they lose patience are turned away while that is still cheap, and dial again. They see
            # status 403: uvicorn logs an error for each answer that says it better.
            await websocket.close(1013)
            return
        if out is not None:
            part_with(out, "too many connections have come from where this one does")
        try:
            await let_in(websocket)
        finally:
            arriving.leaves(websocket)

    async def has_left(account_id: str, agent_id: str) -> None:
        keeper.forget()
        account = accounts.get(account_id)
        owner = replicas.owners.of(account_id) if replicas is not None else None
        if owner is not None and not owner.mine:
            assert replicas is not None
            await tell_left(replicas, account_id, agent_id)
        elif account is not None:
            await remove(account, agent_id, "this agent has left the pool")

    async def let_in(websocket: WebSocket) -> None:
        header = websocket.headers.get("authorization", "")
        who = proofs.split_authorization(header)
        if who is not None:
            await let_in_by_key(websocket, who)
            return
        try:
            member = await keeper.admit(header, "agent")
        except Problem as problem:
            await websocket.accept()
            await dismiss(websocket, problem.message, final=True, code=4401)
            return
        except StoreError as error:
            log.error("an agent could not be let in: %s", error)
            await websocket.accept()
            await dismiss(websocket, _STORE_AWAY, retry_after=0.0)
            return
        arriving.proved(websocket)
        await websocket.accept()

        async def welcome() -> None:
            await keeper.admit(header, "agent")

        await serve_or_relay(websocket, member.account_id, member.name, "", welcome)

    waiting: dict[tuple[str, str], WebSocket] = {}  # for an administrator's yes, one per agent

    def waits(websocket: WebSocket, who: tuple[str, str]) -> None:
        arriving.leaves(websocket)
        before, waiting[who] = waiting.get(who), websocket
        if before is not None:
            part_with(before, "this agent waits on another connection")

    async def let_in_by_key(websocket: WebSocket, who: tuple[str, str]) -> None:
        try:
            await prove_and_serve(websocket, who)
        finally:
            if waiting.get(who) is websocket:
                del waiting[who]

    async def prove_and_serve(websocket: WebSocket, who: tuple[str, str]) -> None:
        await websocket.accept()
        timers = next((one.timers for one in accounts.values()), Timers())
        try:
            agent = await prove(websocket, keeper, who, timers, waits=lambda: waits(websocket, who))
        except Problem as problem:
            await dismiss(websocket, problem.message, final=True, code=4401)
            return
        except StoreError as error:
            log.error("an agent could not be let in: %s", error)
            await dismiss(websocket, _STORE_AWAY, retry_after=0.0)
            return
        except (LinkError, TimeoutError, WebSocketDisconnect, KeyError, RuntimeError) as error:
            await dismiss(websocket, str(error) or "no proof came in time")
            return
        arriving.proved(websocket)

        async def welcome() -> None:
            await keeper.admit_agent(agent)

        account_id, agent_id = agent.account_id, agent.agent_id
        await serve_or_relay(websocket, account_id, agent.name, agent_id, welcome)

    async def serve_or_relay(
        websocket: WebSocket,
        account_id: str,
        name: str,
        agent_id: str,
        welcome: Callable[[], Awaitable[None]],
    ) -> None:
        async def still_welcome() -> None:  # with each heartbeat; the first follows the welcome
            arriving.leaves(websocket)
            await welcome()

        if replicas is not None:
            # Waiting costs less than a refusal: the agent would come back later and later.
            owner = await replicas.owners.within(account_id, replicas.timers.hello)
            if not owner.mine:
                await relay(replicas, account_id, name, websocket, still_welcome, agent_id)
                return
        account = accounts[account_id]
        await serve_link(account, websocket, still_welcome, agent_id, at_hello=welcome)

    app = Starlette(
        routes=[
            Route("/healthz", health),
            Route("/metrics", told_metrics),
            Route("/ca.pem", ca),
            Route(_CHECKPOINT_ROUTE, checkpoint, methods=["GET", "PUT"]),
            WebSocketRoute("/v1/link", agent_link),
            *(joining_calls.routes(enrolment, has_left) if enrolment is not None else ()),
        ],
        middleware=[Middleware(CountedRequests, metrics=metrics)],
    )
    return PictureDoor(put_picture, app, metrics)


def _lease(request: Request) -> Lease | None:
    """What a checkpoint's path names; None where its numbers are none."""
    index, lease_no = request.path_params["index"], request.path_params["lease_no"]
    if not _INDEX.fullmatch(index) or not _LEASE_NO.fullmatch(lease_no):
        return None
    return Lease(request.path_params["job_id"], int(index), int(lease_no))


class PictureDoor:
    """Answers the PUT of a picture itself and passes everything else on: for the one request that
    every image makes, middleware and the search for a route are time that storing could have."""

    def __init__(
        self,
        put: Callable[[str, Lease, Request], Awaitable[JSONResponse]],
        others: ASGIApp,
        metrics: Metrics,
    ) -> None:
        self._put, self._others, self._metrics = put, others, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        found = None
        if scope["type"] == "http" and scope["method"] == "PUT":
            found = _PICTURE.fullmatch(scope["path"])
        if found is None:
            await self._others(scope, receive, send)
            return
        account_id, job_id, index, lease_no = found.groups()
        lease = Lease(job_id, int(index), int(lease_no))
        answer = await self._put(account_id, lease, Request(scope, receive))
        self._metrics.answered("PUT", _PICTURE_ROUTE, answer.status_code)
        await answer(scope, receive, send)


class AgentConnection(Connection, Protocol):
    """A WebSocket, or the stream from another broker that has it."""

    async def receive_bytes(self) -> bytes:
        """The next frame. Raises WebSocketDisconnect at the end."""
        ...


async def serve_link(
    account: Account,
    websocket: AgentConnection,
    still_welcome: Callable[[], Awaitable[None]],
    agent_id: str = "",
    at_hello: Callable[[], Awaitable[None]] | None = None,
) -> None:
    """Drive one agent's link until its connection ends, or its token does: `still_welcome`, asked
    with each heartbeat and each finished picture, raises the Problem, as does `at_hello`, asked
    once. `agent_id`: of an agent that has proved its own key, and is nobody else; empty for one
    with a token."""
    try:
        async with asyncio.timeout(account.timers.hello):
            first = await websocket.receive_bytes()
        hello = read_hello(first)
    except (LinkError, TimeoutError, WebSocketDisconnect, KeyError) as error:
        await dismiss(websocket, str(error) or "no hello came in time")
        return
    if (why := await _not_its_own(account, hello.agent_id, agent_id)) is not None:
        await dismiss(websocket, why, final=bool(why), code=4401, retry_after=0.0)
        return
    if not account.planned:  # no more since a moment ago: nobody would look after this link
        await dismiss(websocket, "another broker plans for this account now", retry_after=0.0)
        return
    session = account.sessions.get(hello.agent_id)
    if session is None:
        session = Session(hello.agent_id, account.timers, time.monotonic())
        account.sessions[hello.agent_id] = session
    before = session.connected(websocket)
    if before is not None:
        why = "another agent with the same id has connected: stop one of the two"
        await dismiss(before, why, final=True, code=4409)
    patience = account.timers.silent + 2 * account.timers.heartbeat  # the link's own is shorter
    sender = asyncio.create_task(session.send(websocket), name=f"send {hello.agent_id}")
    try:
        # Who is revoked between proof and hello has no link yet that could be closed.
        if at_hello is not None:
            await at_hello()
        data = first
        while session.serves(websocket):
            for event in session.link.receive(data, time.monotonic()):
                # Also with each picture: one whose token is revoked may say no heartbeats.
                if isinstance(event, pb.Heartbeat | pb.TaskFinished):
                    await still_welcome()
                await agent_calls.handle(account, session, event)
            async with asyncio.timeout(patience):
                data = await websocket.receive_bytes()
    except (WebSocketDisconnect, KeyError, RuntimeError, TimeoutError):
        pass  # gone, silent, cut off by us, or a text message where only binary ones are spoken
    except Problem as problem:
        await dismiss(websocket, problem.message, final=True, code=4401)
        if agent_id:  # its key is gone: nobody can come back with these
            await agent_calls.put_back(account, agent_id, problem.message)
    except (LinkError, UnknownTransition) as error:
        log.warning(
            *("agent %s: %s", hello.agent_id, error), extra=logs.fields(agent=hello.agent_id)
        )
        await dismiss(websocket, str(error))
    except StoreError as error:
        # What the agent said is not written down. It keeps its outcomes until they are settled
        # and says them again over its next connection, so cutting this one loses nothing.
        log.error("agent %s: %s", hello.agent_id, error, extra=logs.fields(agent=hello.agent_id))
        await dismiss(websocket, _STORE_AWAY, retry_after=0.0)
    finally:
        if session.disconnected(websocket):
            agent_calls.offline(account, session)
            if session.link.state is LinkState.CLOSED:  # it said goodbye: its next hello is new
                account.sessions.pop(hello.agent_id, None)
        sender.cancel()
        await asyncio.gather(sender, return_exceptions=True)


async def _not_its_own(account: Account, says: str, proved: str) -> str | None:
    """Why an agent may not be who it says; None where it may. With a token alone nobody takes the
    place of an agent that has joined with a key."""
    if proved:
        return None if says == proved else f"the key is agent {proved}'s, and it says it is {says}"
    try:
        if not await account.enrolled.has(says):
            return None
    except StoreError:
        return ""
    return "this agent has joined with a key of its own: start it without a token"


async def _expected(account: Account, lease: Lease) -> tuple[ImageRequest, list[str]] | None:
    """What the picture of this lease was to be, and what was PUT for it here; None where the
    lease is over. The mirror says it without a query; another broker may have the mirror."""
    opened, held = account.pool.jobs.get(lease.job_id), account.pool.held.get(lease)
    if opened is not None and held is not None:
        return opened.request, held.puts
    job = await account.store.job(account.account_id, lease.job_id)
    task = job.tasks[lease.index] if job and 0 <= lease.index < len(job.tasks) else None
    if job is None or task is None or task.lease != lease or task.state not in TASK_HELD:
        return None
    while len(account.puts_elsewhere) >= _MOST_LEASES:  # the oldest are over by now
        del account.puts_elsewhere[next(iter(account.puts_elsewhere))]
    puts = account.puts_elsewhere.setdefault(lease, [])
    return ImageRequest.FromString(job.request), puts


async def _store_picture(account: Account, lease: Lease, request: Request) -> JSONResponse:
    try:
        expected = await _expected(account, lease)
    except StoreError as error:
        log.error("a picture could not be looked up: %s", error)
        return _error(503, str(error))
    if expected is None:
        return _error(410, "this image is not yours any more")
    image, puts = expected
    # A picture that was stored, but whose receipt got lost on its way, may always come again.
    if request.headers.get("x-foxden-sha256", "") in puts:
        return (await _take_picture(account, lease, image, request))[0]
    if len(puts) >= _MOST_PUTS:
        return _error(429, f"{_MOST_PUTS} pictures were sent for this image: no more are taken")
    puts.append(_COMING)
    kept = ""
    try:
        answer, kept = await _take_picture(account, lease, image, request)
    finally:
        puts.remove(_COMING)
        if kept and kept not in puts:
            puts.append(kept)
    return answer


async def _take_picture(
    account: Account, lease: Lease, image: ImageRequest, request: Request
) -> tuple[JSONResponse, str]:
    """The answer, and the sha256 of what was kept; empty where nothing was."""
    timers = account.timers
    head = bytearray()
    small: list[bytes] = []  # the whole picture, where it is small enough for its watchers
    arrived = 0

    async def body() -> AsyncIterator[bytes]:
        nonlocal arrived
        async for chunk in request.stream():
            if len(head) < PNG_HEADER_BYTES:
                head.extend(chunk[:PNG_HEADER_BYTES])
            arrived += len(chunk)
            if arrived <= limits.INLINE_PICTURE_BYTES:
                small.append(chunk)
            else:
                small.clear()
            yield chunk

    try:
        sha256, size = await account.blobs.put(
            paced(body(), stalled=timers.transfer_stalled, whole=timers.transfer),
            limit=limits.PICTURE_BYTES,
            expect_sha256=request.headers.get("x-foxden-sha256"),
            expect_size=None,
        )
    except BlobTooBig as error:
        return _error(413, str(error)), ""
    except BlobStalled as error:
        return _error(503, str(error)), ""  # its agent sends it again
    except (BlobMismatch, ValueError) as error:
        return _error(422, str(error)), ""
    except StorageFull as error:
        return _error(507, str(error)), ""
    except StoreError as error:
        log.error("a picture could not be stored: %s", error)
        return _error(503, str(error)), ""
    except ClientDisconnect:
        return _error(400, "the picture did not arrive whole"), ""  # nobody hears it
    account.metrics.received(size)
    if png_size(bytes(head)) != (image.width, image.height):
        what = f"the picture is not {image.width}x{image.height}"
        return _error(422, what), sha256
    if small:
        account.recent.keep(sha256, b"".join(small))
    receipt = account.signer.receipt(account.account_id, lease, sha256, size)
    return JSONResponse({"sha256": sha256, "size": size, "receipt": receipt}), sha256


def _error(status: int, message: str) -> JSONResponse:
    return JSONResponse({"error": message}, status)
