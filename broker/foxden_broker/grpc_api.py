"""The gRPC door: reads messages, checks who calls, hands over, translates errors. No decisions."""

from __future__ import annotations

import asyncio
import functools
import logging
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any, TypeVar

import grpc

from foxden_broker import admin_calls, client_calls, pool_calls
from foxden_broker.account import Account
from foxden_broker.auth import Doorkeeper
from foxden_broker.backup import Copier
from foxden_broker.client_calls import Member
from foxden_broker.joining import admin as joining_admin
from foxden_broker.metrics import Metrics
from foxden_broker.problems import invalid, storage_full
from foxden_broker.store.base import StorageFull, Store, StoreError
from foxden_broker.wire import job_message
from foxden_proto import limits, logs
from foxden_proto.address import Address
from foxden_proto.problems import Problem, Reason
from foxden_proto.v1 import generation_pb2 as gen
from foxden_proto.v1 import generation_pb2_grpc as gen_grpc
from foxden_proto.v1 import pool_pb2 as pool
from foxden_proto.v1 import pool_pb2_grpc as pool_grpc

log = logging.getLogger(__name__)

T = TypeVar("T")
Context = grpc.aio.ServicerContext[Any, Any]


def _problem_of(error: Exception, call: str) -> Problem:
    """What a client hears of an error; what is our own fault is logged, without the request."""
    if isinstance(error, Problem):
        return error
    if isinstance(error, StorageFull):
        return storage_full()
    if isinstance(error, StoreError):
        log.error("%s: %s", call, error, extra=logs.fields(call=call))
        return Problem(Reason.UNAVAILABLE, "The broker's store does not answer: try again soon.")
    log.error("%s failed", call, exc_info=error, extra=logs.fields(call=call))
    return Problem(
        Reason.INTERNAL,
        "The broker made a mistake; nothing of this call was kept. "
        "Try again, and tell its administrator if it happens again.",
    )


def _unary(method: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(method)
    async def call(self: Any, request: Any, context: Context) -> Any:
        counted = _Counted(self._door.metrics, method.__name__, one_answer=True)
        with counted:
            try:
                return await method(self, request, context)
            except Exception as error:  # noqa: BLE001 - the one place where errors become statuses
                problem = counted.problem(_problem_of(error, method.__name__))
                await context.abort_with_status(problem.status())

    return call


class _Counted:
    """Counts one call by its outcome, whichever way it ends."""

    def __init__(self, metrics: Metrics, method: str, *, one_answer: bool = False) -> None:
        self._metrics, self._method = metrics, method
        self._begun = time.perf_counter() if one_answer else None
        self._code = ""

    def problem(self, problem: Problem) -> Problem:
        self._code = problem.code.name
        return problem

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        code = self._code or ("OK" if kind is None else "CANCELLED")
        begun = self._begun
        seconds = None if begun is None else time.perf_counter() - begun
        self._metrics.called(self._method, code, seconds)


def _streaming(method: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(method)
    async def call(self: Any, request: Any, context: Context) -> AsyncIterator[Any]:
        counted = _Counted(self._door.metrics, method.__name__)
        with counted:
            try:
                async for message in method(self, request, context):
                    yield message
            except Exception as error:  # noqa: BLE001 - the one place where errors become statuses
                problem = counted.problem(_problem_of(error, method.__name__))
                await context.abort_with_status(problem.status())

    return call


async def _to_the_end(change: Coroutine[Any, Any, T]) -> T:
    """Finish a change also where its caller hangs up meanwhile: a job that is stored but not in
    the pool would wait for ever, and a cancel that no card hears of would not end."""
    task = asyncio.create_task(change)
    _UNDER_WAY.add(task)
    task.add_done_callback(_over)
    return await asyncio.shield(task)


_UNDER_WAY: set[asyncio.Task[Any]] = set()  # the event loop itself does not hold on to them


def _over(task: asyncio.Task[Any]) -> None:
    _UNDER_WAY.discard(task)
    if not task.cancelled():
        task.exception()  # seen: the caller may have gone


class Door:
    """What every service needs: the accounts, and who is calling."""

    def __init__(
        self,
        accounts: dict[str, Account],
        store: Store,
        keeper: Doorkeeper,
        metrics: Metrics,
        copier: Copier,
    ) -> None:
        self.accounts = accounts
        self.store = store
        self.keeper = keeper
        self.metrics = metrics
        self.copier = copier
        self.address: Address | None = None  # once it is known

    async def enter(self, context: Context, *scopes: str) -> tuple[Account, Member]:
        member = await self.keeper.admit(_authorization(context), *scopes)
        return self.accounts[member.account_id], member

    def still_welcome(
        self, context: Context, *scopes: str
    ) -> Callable[[], Coroutine[Any, Any, object]]:
        """Ask again whether the caller may: for streams, which outlive a token."""
        return functools.partial(self.keeper.admit, _authorization(context), *scopes)


def _authorization(context: Context) -> str:
    found = dict(context.invocation_metadata() or ()).get("authorization", "")
    return found if isinstance(found, str) else ""


class GenerationService(gen_grpc.GenerationServicer):
    def __init__(self, door: Door) -> None:
        self._door = door

    @_unary
    async def Submit(self, request: gen.SubmitRequest, context: Context) -> gen.SubmitResponse:
        account, member = await self._door.enter(context, "generate")
        return await _to_the_end(client_calls.submit(account, member, request))

    @_streaming
    async def Watch(
        self, request: gen.WatchRequest, context: Context
    ) -> AsyncIterator[gen.JobEvent]:
        account, member = await self._door.enter(context, "generate")
        opened = False

        async def open_up() -> None:  # the first event may be a long way off
            if not opened:
                await context.send_initial_metadata(())

        welcome = self._door.still_welcome(context, "generate")
        async for event in client_calls.watch(account, member, request, welcome, open_up):
            opened = True  # they go with the first event
            yield event

    @_unary
    async def Get(self, request: gen.GetJobRequest, context: Context) -> gen.Job:
        account, member = await self._door.enter(context, "generate")
        job = await client_calls.find(account, member, request.job_id, attempts=True)
        return job_message(job)

    @_unary
    async def List(self, request: gen.ListJobsRequest, context: Context) -> gen.ListJobsResponse:
        account, member = await self._door.enter(context, "generate")
        return await client_calls.list_jobs(account, member, request)

    @_unary
    async def Cancel(self, request: gen.CancelJobRequest, context: Context) -> gen.Job:
        account, member = await self._door.enter(context, "generate")
        return await _to_the_end(client_calls.cancel(account, member, request.job_id))

    @_unary
    async def Retry(self, request: gen.RetryJobRequest, context: Context) -> gen.Job:
        account, member = await self._door.enter(context, "generate")
        return await _to_the_end(client_calls.retry(account, member, request.job_id))

    @_unary
    async def Upload(
        self, request: AsyncIterator[gen.UploadRequest], context: Context
    ) -> gen.UploadResponse:
        account, _ = await self._door.enter(context, "generate")
        first = await anext(aiter(request), None)
        if first is None or first.WhichOneof("part") != "header":
            raise invalid("header", "the upload has no header", "a header as the first message")
        return await client_calls.upload(account, first.header, _chunks(request))

    @_streaming
    async def Download(
        self, request: gen.DownloadRequest, context: Context
    ) -> AsyncIterator[gen.DownloadChunk]:
        account, member = await self._door.enter(context, "generate")
        async for chunk in client_calls.download(account, member, request):
            yield chunk


async def _chunks(messages: AsyncIterator[gen.UploadRequest]) -> AsyncIterator[bytes]:
    async for message in messages:
        if len(message.chunk) > limits.CHUNK_BYTES:
            size = f"a chunk has {len(message.chunk)} bytes"
            raise invalid("chunk", size, f"chunks of {limits.CHUNK_BYTES} bytes at most")
        yield message.chunk


class PoolService(pool_grpc.PoolServicer):
    def __init__(self, door: Door) -> None:
        self._door = door

    @_unary
    async def ListCards(
        self, request: pool.ListCardsRequest, context: Context
    ) -> pool.ListCardsResponse:
        account, _ = await self._door.enter(context, "generate")
        return pool.ListCardsResponse(cards=pool_calls.cards(account))

    @_streaming
    async def WatchCards(
        self, request: pool.WatchCardsRequest, context: Context
    ) -> AsyncIterator[pool.CardEvent]:
        account, _ = await self._door.enter(context, "generate")
        welcome = self._door.still_welcome(context, "generate")
        async for event in pool_calls.watch_cards(account, welcome):
            yield event

    @_unary
    async def ListModels(
        self, request: pool.ListModelsRequest, context: Context
    ) -> pool.ListModelsResponse:
        account, _ = await self._door.enter(context, "generate")
        return pool.ListModelsResponse(models=account.pool.catalogue().models())


class AdminService(pool_grpc.AdminServicer):
    def __init__(self, door: Door) -> None:
        self._door = door

    @_unary
    async def CreateToken(
        self, request: pool.CreateTokenRequest, context: Context
    ) -> pool.CreateTokenResponse:
        account, _ = await self._door.enter(context, "admin")
        return await pool_calls.create_token(self._door.store, account.account_id, request)

    @_unary
    async def ListTokens(
        self, request: pool.ListTokensRequest, context: Context
    ) -> pool.ListTokensResponse:
        account, _ = await self._door.enter(context, "admin")
        return await pool_calls.list_tokens(self._door.store, account.account_id)

    @_unary
    async def RevokeToken(self, request: pool.RevokeTokenRequest, context: Context) -> pool.Token:
        account, _ = await self._door.enter(context, "admin")
        revoked = await pool_calls.revoke_token(
            self._door.store, account.account_id, request.token_id
        )
        self._door.keeper.forget()
        return revoked

    @_unary
    async def SetQuota(self, request: pool.SetQuotaRequest, context: Context) -> pool.Quota:
        account, _ = await self._door.enter(context, "admin")
        return await _to_the_end(admin_calls.set_quota(account, request))

    @_unary
    async def ListQuotas(
        self, request: pool.ListQuotasRequest, context: Context
    ) -> pool.ListQuotasResponse:
        account, _ = await self._door.enter(context, "admin")
        return admin_calls.list_quotas(account)

    @_unary
    async def SetCardStanding(
        self, request: pool.SetCardStandingRequest, context: Context
    ) -> pool.Card:
        account, _ = await self._door.enter(context, "admin")
        return await _to_the_end(admin_calls.set_standing(account, request))

    @_unary
    async def ForgetCard(
        self, request: pool.ForgetCardRequest, context: Context
    ) -> pool.ForgetCardResponse:
        account, _ = await self._door.enter(context, "admin")
        return await _to_the_end(admin_calls.forget_card(account, request.card))

    @_unary
    async def Usage(self, request: pool.UsageRequest, context: Context) -> pool.UsageResponse:
        account, _ = await self._door.enter(context, "admin")
        return await admin_calls.usage(account, request)

    @_unary
    async def CreateJoinLink(
        self, request: pool.CreateJoinLinkRequest, context: Context
    ) -> pool.CreateJoinLinkResponse:
        account, member = await self._door.enter(context, "admin")
        door = self._door
        return await joining_admin.create_link(
            door.store, account.account_id, member.name, door.address, request
        )

    @_unary
    async def ListJoinLinks(
        self, request: pool.ListJoinLinksRequest, context: Context
    ) -> pool.ListJoinLinksResponse:
        account, _ = await self._door.enter(context, "admin")
        return await joining_admin.list_links(self._door.store, account.account_id)

    @_unary
    async def RevokeJoinLink(
        self, request: pool.RevokeJoinLinkRequest, context: Context
    ) -> pool.JoinLink:
        account, _ = await self._door.enter(context, "admin")
        return await joining_admin.revoke_link(
            self._door.store, account.account_id, request.link_id
        )

    @_unary
    async def ListAgents(
        self, request: pool.ListAgentsRequest, context: Context
    ) -> pool.ListAgentsResponse:
        account, _ = await self._door.enter(context, "admin")
        return await joining_admin.list_agents(account)

    @_unary
    async def ApproveAgent(self, request: pool.ApproveAgentRequest, context: Context) -> pool.Agent:
        account, _ = await self._door.enter(context, "admin")
        approved = await joining_admin.approve(account, request.agent)
        self._door.keeper.forget()
        return approved

    @_unary
    async def RevokeAgent(self, request: pool.RevokeAgentRequest, context: Context) -> pool.Agent:
        account, _ = await self._door.enter(context, "admin")
        return await _to_the_end(
            joining_admin.revoke(account, request.agent, self._door.keeper.forget)
        )

    @_streaming
    async def Backup(
        self, request: pool.BackupRequest, context: Context
    ) -> AsyncIterator[pool.BackupChunk]:
        account, _ = await self._door.enter(context, "admin")
        async for chunk in self._door.copier.archive(account, request.with_pictures):
            yield pool.BackupChunk(chunk=chunk)
