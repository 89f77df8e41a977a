"""Clients' calls for an account that another broker plans for: passed on to it as they are.

Messages are not read here, and every call goes on with the client's own token, so that a new call
of the contract needs nothing in this file. What the store alone can answer is answered here.
Where the owner cannot be reached, a submit is stored and a watch is served by polling.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing, suppress
from typing import Any, NoReturn, TypeVar

import grpc

from foxden_broker.auth import Doorkeeper
from foxden_broker.owners import Owner
from foxden_broker.peers import FORWARDED
from foxden_broker.replicas import Replicas
from foxden_broker.store.base import StoreError
from foxden_broker.tokens import split
from foxden_proto.problems import Problem, Reason
from foxden_proto.v1 import generation_pb2 as gen

log = logging.getLogger(__name__)

T = TypeVar("T")
Context = grpc.aio.ServicerContext[Any, Any]

_OURS = "/foxden.v1."
_FORWARDED_SERVICES = ("Generation/", "Pool/", "Admin/")
# These need the store and the blobs alone, which all brokers share.
_ANSWERED_HERE = frozenset(
    {
        "Generation/Get",
        "Generation/List",
        "Generation/Upload",
        "Generation/Download",
        "Admin/CreateToken",
        "Admin/ListTokens",
        "Admin/RevokeToken",
        "Admin/CreateJoinLink",
        "Admin/ListJoinLinks",
        "Admin/RevokeJoinLink",
    }
)
# What works, with less, while no owner can be reached. A list of cards is absent: without their
# links this broker would call all of them offline.
_WITHOUT_OWNER = frozenset({"Generation/Submit", "Generation/Cancel", "Generation/Watch"})


class _Gone(Exception):
    """The owner cannot be reached, or is the owner no more."""


class Forwarding(grpc.aio.ServerInterceptor):
    """Decides for each call where it is answered."""

    def __init__(self, replicas: Replicas, keeper: Doorkeeper) -> None:
        self._replicas = replicas
        self._keeper = keeper

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        handler = await continuation(handler_call_details)
        method: Any = handler_call_details.method
        name = method.removeprefix(_OURS)
        if handler is None or handler.request_streaming or name in _ANSWERED_HERE:
            return handler
        if not name.startswith(_FORWARDED_SERVICES):
            return handler
        metadata = dict(handler_call_details.invocation_metadata or ())
        sent = metadata.get("authorization", "")
        text = sent if isinstance(sent, str) else ""
        parts = split(text.partition(" ")[2].strip())
        if parts is None:
            return handler  # which says what is wrong with it
        call = _Call(self._replicas, self._keeper, handler, method, name, parts[0], text)
        call.came_forwarded = FORWARDED in metadata
        if handler.response_streaming:
            return grpc.unary_stream_rpc_method_handler(call.stream)
        if call.mine:
            return handler
        return grpc.unary_unary_rpc_method_handler(call.unary)


class _Call:
    """One call of one client; its messages are bytes."""

    def __init__(
        self,
        replicas: Replicas,
        keeper: Doorkeeper,
        handler: Any,
        method: str,
        name: str,
        account_id: str,
        authorization: str,
    ) -> None:
        self._replicas = replicas
        self._keeper = keeper
        self._handler = handler
        self._method = method
        self._name = name
        self._account_id = account_id
        self._authorization = authorization
        self.came_forwarded = False

    @property
    def mine(self) -> bool:
        return self._replicas.owners.of(self._account_id).mine

    async def unary(self, request: bytes, context: Context) -> bytes:
        owner = await self._admitted(context)
        if owner.mine:
            return await self._here(request, context)
        attempted = False
        if owner.replica is not None:
            try:
                attempted = True
                return await self._forward(owner, request, context)
            except _Gone as gone:
                log.info("%s is not passed on: %s", self._name, gone)
        if self._name not in _WITHOUT_OWNER or (attempted and not self._repeatable(request)):
            await _abort(context, _unavailable())
        try:
            await self._replicas.refresh_cards(self._account_id)
        except StoreError as error:
            log.error("%s: %s", self._name, error)
            await _abort(context, _unavailable())
        return await self._here(request, context)

    async def stream(self, request: bytes, context: Context) -> AsyncIterator[bytes]:
        owner = await self._admitted(context)
        if not owner.mine and owner.replica is not None:
            heard = False
            try:
                async with aclosing(self._forwarded(owner, request, context)) as messages:
                    async for message in messages:
                        if heard:
                            yield message
                        heard = True  # the first says only that the owner has answered
                return
            except _Gone as gone:
                log.info("%s is not passed on: %s", self._name, gone)
                if heard:
                    await _abort(context, _unavailable())
        if not owner.mine and self._name not in _WITHOUT_OWNER:
            await _abort(context, _unavailable())
        # From the store, without progress: not for long, since an owner may be back by then.
        limit = None if owner.mine else self._replicas.timers.scheduling_lease
        local = self._handler.unary_stream(self._handler.request_deserializer(request), context)
        try:
            async with aclosing(_until(local, owner.changed, limit)) as events:
                async for event in events:
                    yield self._handler.response_serializer(event)
        except _Gone:
            await _abort(context, _unavailable())

    async def _admitted(self, context: Context) -> Owner:
        try:
            await self._keeper.admit(self._authorization, "generate", "admin")
        except Problem as problem:
            await _abort(context, problem)
        except StoreError as error:
            log.error("%s: %s", self._name, error)
            await _abort(context, _unavailable())
        owner = self._replicas.owners.of(self._account_id)
        unknown = self._account_id not in self._replicas.accounts  # made a moment ago elsewhere
        if unknown or (self.came_forwarded and not owner.mine):  # never passed on twice
            await _abort(context, _unavailable())
        return owner

    async def _here(self, request: bytes, context: Context) -> bytes:
        message = self._handler.request_deserializer(request)
        answer = await self._handler.unary_unary(message, context)
        serialized: bytes = self._handler.response_serializer(answer)
        return serialized

    def _repeatable(self, request: bytes) -> bool:
        """Whether the owner may have done this already and no harm comes of it."""
        if self._name != "Generation/Submit":
            return True
        return bool(gen.SubmitRequest.FromString(request).idempotency_key)

    async def _forward(self, owner: Owner, request: bytes, context: Context) -> bytes:
        assert owner.replica is not None
        channel: Any = self._replicas.peers.channel(owner.replica)
        call: Any = channel.unary_unary(self._method)(
            request, metadata=self._metadata(), timeout=context.time_remaining()
        )
        try:
            answer: bytes = await _first(call, owner.changed)
        except grpc.aio.AioRpcError as error:
            await _pass_on(error, context)
        finally:
            call.cancel()
        return answer

    async def _forwarded(
        self, owner: Owner, request: bytes, context: Context
    ) -> AsyncGenerator[bytes, None]:
        """An empty message once the owner has answered, then its messages."""
        assert owner.replica is not None
        channel: Any = self._replicas.peers.channel(owner.replica)
        call: Any = channel.unary_stream(self._method)(
            request, metadata=self._metadata(), timeout=context.time_remaining()
        )
        try:
            await _first(call.wait_for_connection(), owner.changed)
            await context.send_initial_metadata(())
            yield b""
            async with aclosing(_until(call, owner.changed, None)) as messages:
                async for message in messages:
                    yield message
        except grpc.aio.AioRpcError as error:
            await _pass_on(error, context)
        finally:
            call.cancel()  # the client has gone, or the owner; otherwise it changes nothing

    def _metadata(self) -> tuple[tuple[str, str], ...]:
        me = self._replicas.me.replica_id
        return (("authorization", self._authorization), (FORWARDED, me))


def _unavailable() -> Problem:
    return Problem(
        Reason.UNAVAILABLE,
        "The broker that plans for this account cannot be reached, or is just changing: "
        "try again in some seconds.",
    )


async def _abort(context: Context, problem: Problem) -> NoReturn:
    await context.abort_with_status(problem.status())
    raise AssertionError("abort raises")


async def _pass_on(error: grpc.aio.AioRpcError, context: Context) -> NoReturn:
    """Answer the client as the owner did. Raises _Gone where it did not answer at all."""
    if error.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED):
        raise _Gone(error.details()) from error
    trailing = tuple(error.trailing_metadata() or ())
    await context.abort(error.code(), error.details() or "", trailing)
    raise AssertionError("abort raises")


async def _first(work: Awaitable[T], changed: asyncio.Event) -> T:
    """The result, unless the owner changes first: then raises _Gone."""
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(changed.wait())
    both: set[asyncio.Future[Any]] = {task, gone}
    try:
        await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        if not task.done() or task.cancelled():  # cancelled: its channel was closed
            raise _Gone("another broker plans for the account")
        return task.result()
    finally:
        for future in both:
            future.cancel()


_END = object()


async def _until(
    messages: Any, changed: asyncio.Event, seconds: float | None
) -> AsyncGenerator[Any, None]:
    """The messages to their end. Raises _Gone when the owner changes or the time is over."""
    gone = asyncio.ensure_future(changed.wait())
    source = aiter(messages)
    loop = asyncio.get_running_loop()
    end = None if seconds is None else loop.time() + seconds
    waiting: asyncio.Timeout | None = None  # for the next message; a task for each would cost more

    def stop(_: object) -> None:
        if waiting is not None and not waiting.expired():
            waiting.reschedule(loop.time())

    gone.add_done_callback(stop)
    try:
        while not gone.done():
            try:
                async with asyncio.timeout_at(end) as waiting:
                    message = await anext(source, _END)
            except TimeoutError:
                if waiting is None or not waiting.expired():
                    raise
                break
            finally:
                waiting = None
            if message is _END:
                return
            yield message
        raise _Gone("another broker plans for the account, or may again")
    finally:
        gone.cancel()
        if hasattr(source, "aclose"):
            with suppress(Exception):
                await source.aclose()
