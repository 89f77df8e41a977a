"""What the broker tells Prometheus. Each metric is described in docs/metrics.md.

Labels have few values: no ids, no members, nothing that a client wrote.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter as Tallied
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any, cast

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from foxden_broker.store.base import Change, StorageFull, Store, StoreError
from foxden_proto.states import TASK_ENDED, TASK_HELD, TaskEvent, TaskState
from foxden_proto.v1 import generation_pb2, pool_pb2

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from foxden_broker.account import Account

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_LAG_SECONDS = 0.5  # between two looks at the event loop's clock

# Seconds. Waiting and drawing go from a warm small model to a day in the queue.
_LONG = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 900, 3600, 14400, 86400)
_SHORT = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10)


class Metrics:
    """One broker's metrics, in a registry of their own."""

    def __init__(self) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = CollectorRegistry()
        of: dict[str, Any] = {"registry": self.registry}
        self._images = Counter("foxden_images", "Images that ended", ["outcome"], **of)
        self._attempts = Counter("foxden_attempts", "Leases that ended", ["outcome"], **of)
        self._wait = Histogram(
            "foxden_image_wait_seconds", "From submit to an image's start", buckets=_LONG, **of
        )
        self._run = Histogram(
            "foxden_image_run_seconds", "From start to picture", buckets=_LONG, **of
        )
        self._submitted = Counter("foxden_jobs_submitted", "Jobs stored", ["priority"], **of)
        self._refused = Counter("foxden_quota_refusals", "Submits over a limit", **of)
        self._plan = Histogram("foxden_plan_seconds", "One round of planning", buckets=_SHORT, **of)
        self._store = Histogram(
            "foxden_store_seconds", "Calls of the store", ["call"], buckets=_SHORT, **of
        )
        self._store_errors = Counter(
            "foxden_store_errors", "Calls of the store that failed", ["call", "kind"], **of
        )
        self._grpc = Counter("foxden_grpc_calls", "gRPC calls that ended", ["method", "code"], **of)
        self._grpc_seconds = Histogram(
            "foxden_grpc_seconds", "gRPC calls with one answer", ["method"], buckets=_SHORT, **of
        )
        self._http = Counter(
            "foxden_http_requests", "HTTP requests answered", ["method", "route", "code"], **of
        )
        self._received = Counter("foxden_blob_received_bytes", "Bytes of pictures taken in", **of)
        self._blobs = Gauge("foxden_blobs", "Blobs kept, at the last full look", **of)
        self._blob_bytes = Gauge("foxden_blob_bytes", "Their bytes", **of)
        self._swept = Counter("foxden_swept", "What the sweeper removed", ["what"], **of)
        self._lag = Histogram(
            "foxden_event_loop_lag_seconds", "How late the event loop is", buckets=_SHORT, **of
        )

    def text(self) -> bytes:
        """Everything, in Prometheus' text format."""
        return generate_latest(self.registry)

    def of_accounts(self, accounts: Mapping[str, Account]) -> None:
        """Tell of these accounts' pools, too, as they are when somebody asks."""
        self.registry.register(_Pools(accounts))

    # What happened

    def submitted(self, priority: int) -> None:
        self._submitted.labels(_priority(priority)).inc()

    def refused(self) -> None:
        self._refused.inc()

    def changed(self, change: Change, created_ms: int, *, was_held: bool) -> None:
        """One accepted change of an image of a job that came in at `created_ms` (0: unknown);
        `was_held`: a card had it before the change."""
        task, event = change.task, change.event
        if event is TaskEvent.START and created_ms:
            self._wait.observe(max(0, task.started_ms - created_ms) / 1000)
        if was_held and task.state not in TASK_HELD:
            self._attempts.labels(event.value).inc()
        if task.state in TASK_ENDED:
            self._images.labels(task.state.value).inc()
            if task.state is TaskState.DONE and task.started_ms:
                self._run.observe(max(0, task.ended_ms - task.started_ms) / 1000)

    def received(self, size: int) -> None:
        self._received.inc(size)

    def kept(self, blobs: int, size: int) -> None:
        self._blobs.set(blobs)
        self._blob_bytes.set(size)

    def swept(self, what: str, number: int) -> None:
        """`what`: jobs_archived, jobs_forgotten, keys, checkpoints, blobs or orphans."""
        self._swept.labels(what).inc(number)

    def called(self, method: str, code: str, seconds: float | None = None) -> None:
        """A gRPC call is over; `seconds` for those with one answer."""
        self._grpc.labels(method, code).inc()
        if seconds is not None:
            self._grpc_seconds.labels(method).observe(seconds)

    @contextmanager
    def planning(self) -> Iterator[None]:
        with self._plan.time():
            yield

    async def watch_the_loop(self) -> None:
        """Measure how late the event loop wakes a sleeper, until cancelled."""
        while True:
            due = time.monotonic() + _LAG_SECONDS
            await asyncio.sleep(_LAG_SECONDS)
            self._lag.observe(max(0.0, time.monotonic() - due))

    @asynccontextmanager
    async def _asking(self, call: str) -> AsyncIterator[None]:
        begun = time.perf_counter()
        try:
            yield
        except StoreError as error:
            kind = "full" if isinstance(error, StorageFull) else "failed"
            self._store_errors.labels(call, kind).inc()
            raise
        finally:
            self._store.labels(call).observe(time.perf_counter() - begun)

    def answered(self, method: str, route: str, code: int) -> None:
        self._http.labels(method, route, str(code)).inc()


_METHODS = frozenset({"GET", "HEAD", "PUT", "POST", "DELETE", "OPTIONS", "PATCH"})


class _Metered:
    """A store whose every call is timed."""

    def __init__(self, store: Store, metrics: Metrics) -> None:
        self._of, self._metrics = store, metrics

    def __getattr__(self, name: str) -> Callable[..., Any]:
        method, metrics = getattr(self._of, name), self._metrics

        async def call(*args: Any, **kwargs: Any) -> Any:
            async with metrics._asking(name):
                return await method(*args, **kwargs)

        setattr(self, name, call)  # found without this detour the next time
        return call


def metered(store: Store, metrics: Metrics) -> Store:
    """The same store; its calls are timed and their errors counted."""
    return cast(Store, _Metered(store, metrics))


class CountedRequests:
    """ASGI middleware: counts answers by the route's pattern, never by the path that was asked."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app, self._metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def counted(message: Message) -> None:
            if message["type"] == "http.response.start":
                route = getattr(scope.get("route"), "path", "") or "other"
                method = scope["method"] if scope["method"] in _METHODS else "other"
                self._metrics.answered(method, route, message["status"])
            await send(message)

        await self._app(scope, receive, counted)


class _Pools(Collector):
    """Gauges of the pools in memory, counted when somebody asks."""

    def __init__(self, accounts: Mapping[str, Account]) -> None:
        self._accounts = accounts

    def collect(self) -> Iterator[GaugeMetricFamily]:
        accounts = list(self._accounts.values())
        waiting: Tallied[str] = Tallied()
        for account in accounts:
            for priority, images in account.pool.tally.depth.items():
                waiting[_priority(priority)] += images
        yield _gauge(
            "foxden_queue_images",
            "Images that wait",
            ["priority"],
            {(name,): waiting[name] for name in _PRIORITIES.values()},
        )
        cards = [card for account in accounts for card in account.pool.cards.values()]
        yield _gauge(
            "foxden_cards",
            "Cards, by what their owners' side allows and whether their link is up",
            ["mode", "online"],
            Tallied((_mode(card.mode), str(card.online).lower()) for card in cards),
        )
        yield _gauge(
            "foxden_cards_set_aside",
            "Cards that an administrator cordoned or drains",
            ["standing"],
            {
                (standing,): sum(card.standing == standing for card in cards)
                for standing in ("cordoned", "draining")
            },
        )
        held = sum(len(account.pool.held) for account in accounts)
        yield _gauge("foxden_images_on_cards", "Images that cards hold", [], {(): held})
        links = sum(s.link.up for account in accounts for s in account.sessions.values())
        yield _gauge("foxden_links", "Agents whose link is up", [], {(): links})


def _gauge(
    name: str, text: str, labels: list[str], values: Mapping[tuple[str, ...], float]
) -> GaugeMetricFamily:
    family = GaugeMetricFamily(name, text, labels=labels)
    for label, value in values.items():
        family.add_metric(label, value)
    return family


_PRIORITIES: dict[int, str] = {
    number: name.removeprefix("PRIORITY_").lower()
    for name, number in generation_pb2.Priority.items()
    if number != generation_pb2.PRIORITY_UNSPECIFIED
}


def _priority(number: int) -> str:
    return _PRIORITIES.get(number, "normal")


def _mode(number: int) -> str:
    if number not in pool_pb2.Mode.values():
        return "unknown"  # an agent can say anything
    return pool_pb2.Mode.Name(pool_pb2.Mode.ValueType(number)).removeprefix("MODE_").lower()
