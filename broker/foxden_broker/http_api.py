"""The HTTP door: the agents' link, what they PUT and fetch, and the broker's own CA."""

from __future__ import annotations

import re

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.types import ASGIApp

from foxden_broker import checkpoints
from foxden_broker.account import Account
from foxden_broker.auth import Doorkeeper
from foxden_broker.joining import http as joining_calls
from foxden_broker.joining.enrolment import Enrolment
from foxden_broker.joining.removal import remove
from foxden_broker.link_door import LinkDoor
from foxden_broker.metrics import CONTENT_TYPE, CountedRequests, Metrics
from foxden_broker.picture_door import PictureDoor, refusal, store_picture
from foxden_broker.relay import tell_left
from foxden_broker.replicas import Replicas
from foxden_broker.store.base import Lease
from foxden_proto.problems import Problem, Reason

_CHECKPOINT_ROUTE = "/v1/checkpoints/{account_id}/{job_id}/{index}/{lease_no}"
_INDEX, _LEASE_NO = re.compile("[0-9]{1,9}"), re.compile("[0-9]{1,18}")


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
            return refusal(401, "the token is not good for this picture")
        return await store_picture(account, lease, request)

    async def checkpoint(request: Request) -> Response:
        account_id, lease = request.path_params["account_id"], _lease(request)
        if lease is None:
            return refusal(422, "this path names no image: its numbers are no index and lease")
        account = holder(account_id, lease, request)
        if account is None:
            return refusal(401, "the token is not good for this image")
        if request.method == "PUT":
            return await checkpoints.put(account, lease, request)
        return await checkpoints.get(account, lease)

    async def has_left(account_id: str, agent_id: str) -> None:
        keeper.forget()
        account = accounts.get(account_id)
        owner = replicas.owners.of(account_id) if replicas is not None else None
        if owner is not None and not owner.mine:
            assert replicas is not None
            await tell_left(replicas, account_id, agent_id)
        elif account is not None:
            await remove(account, agent_id, "this agent has left the pool")

    app = Starlette(
        routes=[
            Route("/healthz", health),
            Route("/metrics", told_metrics),
            Route("/ca.pem", ca),
            Route(_CHECKPOINT_ROUTE, checkpoint, methods=["GET", "PUT"]),
            WebSocketRoute("/v1/link", LinkDoor(accounts, keeper, replicas).agent_link),
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
