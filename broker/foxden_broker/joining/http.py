"""The HTTP calls of machines that join or leave."""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable

from google.protobuf.message import DecodeError, Message
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from foxden_broker.account import now_ms
from foxden_broker.joining.enrolment import Enrolment, Refused
from foxden_broker.store.base import StoreError
from foxden_proto.join_links import Refusal
from foxden_proto.v1 import join_pb2 as pb

log = logging.getLogger(__name__)

_BODY_BYTES = 16 * 1024
_MEDIA_TYPE = "application/x-protobuf"
_STATUS = {
    Refusal.UNKNOWN: 401,
    Refusal.EXPIRED: 410,
    Refusal.REVOKED: 410,
    Refusal.USED_UP: 410,
    Refusal.AGENT_REVOKED: 403,
    Refusal.ID_TAKEN: 409,
    Refusal.TOO_MANY_TRIES: 429,
    Refusal.INVALID: 400,
    Refusal.UNAVAILABLE: 503,
}


def routes(enrolment: Enrolment, has_left: Callable[[str, str], Awaitable[None]]) -> list[Route]:
    """`has_left(account_id, agent_id)` ends the link of an agent whose key is deleted."""

    async def answer(asked: Awaitable[Message]) -> Response:
        try:
            told = await asked
        except Refused as refused:
            return _problem(refused)
        except StoreError as error:
            log.error("a machine could not be let in or out: %s", error)
            return _problem(Refused(Refusal.UNAVAILABLE, retry_after=5.0))
        return Response(told.SerializeToString(), media_type=_MEDIA_TYPE)

    async def look(request: Request) -> Response:
        return await answer(enrolment.look(_bearer(request), _address(request), now_ms()))

    async def join(request: Request) -> Response:
        async def enrol() -> Message:
            told = pb.EnrolRequest()
            await _read(request, told)
            return await enrolment.enrol(_bearer(request), _address(request), told, now_ms())

        return await answer(enrol())

    async def leave(request: Request) -> Response:
        async def out() -> Message:
            told = pb.LeaveRequest()
            await _read(request, told)
            done = await enrolment.leave(told, time.time())
            if done.left:
                await has_left(told.account_id, told.agent_id)
            return done

        return await answer(out())

    return [
        Route("/v1/join/look", look, methods=["POST"]),
        Route("/v1/join", join, methods=["POST"]),
        Route("/v1/join/leave", leave, methods=["POST"]),
    ]


def _bearer(request: Request) -> str:
    return request.headers.get("authorization", "").removeprefix("Bearer ")


def _address(request: Request) -> str:
    return request.client.host if request.client else ""


async def _read(request: Request, message: Message) -> None:
    """Raises Refused INVALID."""
    data = bytearray()
    async for chunk in request.stream():
        data += chunk
        if len(data) > _BODY_BYTES:
            raise Refused(Refusal.INVALID, f"This request has more than {_BODY_BYTES} bytes.")
    try:
        message.ParseFromString(bytes(data))
    except DecodeError:
        raise Refused(
            Refusal.INVALID, "This is no request of this protocol: install the same version."
        ) from None


def _problem(refused: Refused) -> Response:
    told = pb.JoinProblem(
        reason=refused.why.value, message=refused.message, retry_after=refused.retry_after
    )
    headers = {"Retry-After": f"{refused.retry_after:.0f}"} if refused.retry_after else {}
    return Response(
        told.SerializeToString(), _STATUS[refused.why], media_type=_MEDIA_TYPE, headers=headers
    )
