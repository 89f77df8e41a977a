"""The gRPC door: reads messages, checks who calls, hands over, translates errors. No decisions."""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any, TypeVar

import grpc

from foxden_broker import client_calls, pool_calls
from foxden_broker.account import Account
from foxden_broker.auth import Doorkeeper
from foxden_broker.client_calls import Member
from foxden_broker.problems import invalid, storage_full
from foxden_broker.store.base import StorageFull, Store, StoreError
from foxden_broker.wire import job_message
from foxden_proto import limits
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
        log.error("%s: %s", call, error)
        return Problem(Reason.UNAVAILABLE, "The broker's store does not answer: try again soon.")
    log.error("%s failed", call, exc_info=error)
    return Problem(
        Reason.INTERNAL,
        "The broker made a mistake; nothing of this call was kept. "
        "Try again, and tell its administrator if it happens again.",
    )


def _unary(method: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(method)
    async def call(self: Any, request: Any, context: Context) -> Any:
        try:
            return await method(self, request, context)
        except Exception as error:  # noqa: BLE001 - the one place where errors become statuses
            await context.abort_with_status(_problem_of(error, method.__name__).status())

    return call


def _streaming(method: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(method)
    async def call(self: Any, request: Any, context: Context) -> AsyncIterator[Any]:
        try:
            async for message in method(self, request, context):
                yield message
        except Exception as error:  # noqa: BLE001 - the one place where errors become statuses
            await context.abort_with_status(_problem_of(error, method.__name__).status())

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

    def __init__(self, accounts: dict[str, Account], store: Store, keeper: Doorkeeper) -> None:
        self.accounts = accounts
        self.store = store
        self.keeper = keeper

    async def enter(self, context: Context, *scopes: str) -> tuple[Account, Member]:
        metadata = dict(context.invocation_metadata() or ())
        authorization = metadata.get("authorization", "")
        text = authorization if isinstance(authorization, str) else ""
        member = await self.keeper.admit(text, *scopes)
        return self.accounts[member.account_id], member


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
        async for event in client_calls.watch(account, member, request):
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
        async for event in pool_calls.watch_cards(account):
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
