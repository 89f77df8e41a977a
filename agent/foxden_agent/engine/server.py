"""Serves the Engine service: answers at once, and does everything with torch on one thread."""

from __future__ import annotations

import contextlib
import gc
import hmac
import logging
import os
import sys
import threading
import traceback
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import grpc

from foxden_agent.engine import heap
from foxden_agent.engine.errors import BadModel, BadRequest, Busy, EngineError, Stopped
from foxden_agent.engine.event_queue import EventQueue
from foxden_proto import limits
from foxden_proto.v1 import engine_pb2_grpc
from foxden_proto.v1.engine_pb2 import (
    Batch,
    DescribeRequest,
    EngineDescription,
    EngineEvent,
    LoadRequest,
    LoadResponse,
    SetShareRequest,
    SetShareResponse,
    StopRequest,
    StopResponse,
    UnloadRequest,
    UnloadResponse,
)
from foxden_proto.v1.pool_pb2 import TIER_RAM

if TYPE_CHECKING:
    from foxden_agent.engine.diffusers_engine import DiffusersEngine

log = logging.getLogger("foxden.engine")
T = TypeVar("T")

_KEPT_FOR_A_LOAD = 2.0  # seconds, of memory that a model left
SECRET_KEY = "foxden-secret"  # noqa: S105 -- the metadata's name, not its value
_OPTIONS = [
    ("grpc.max_send_message_length", limits.PICTURE_BYTES + limits.MIB),
    # A batch may come with a checkpoint of each of its images.
    (
        "grpc.max_receive_message_length",
        limits.BATCH_IMAGES * limits.CHECKPOINT_BYTES + limits.MIB,
    ),
    ("grpc.so_reuseport", 0),
]


def serve(socket: Path | None, secret: str, device: str) -> tuple[grpc.Server, str]:
    """Start serving, and importing torch behind it; answers with the server and its address.

    Without `socket` (Windows) it is a port of the loopback interface that the system chooses.
    """
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
    server = grpc.server(
        ThreadPoolExecutor(8, thread_name_prefix="grpc"),
        interceptors=[_SecretRequired(secret)],
        options=_OPTIONS,
    )
    engine_pb2_grpc.add_EngineServicer_to_server(EngineService(device), server)
    if socket is not None:
        address = f"unix:{socket}"
        server.add_insecure_port(address)
    else:
        address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    return server, address


class _SecretRequired(grpc.ServerInterceptor):
    """Refuses every call that doesn't carry the secret; other users can reach a loopback port."""

    def __init__(self, secret: str) -> None:
        self._secret = secret.encode()

        def refuse(request: object, context: grpc.ServicerContext) -> None:
            context.abort(grpc.StatusCode.UNAUTHENTICATED, "wrong secret")

        self._refusal: Any = grpc.unary_unary_rpc_method_handler(refuse)

    def intercept_service(self, continuation: Any, handler_call_details: Any) -> Any:
        given = dict(handler_call_details.invocation_metadata).get(SECRET_KEY, "")
        if isinstance(given, str):
            given = given.encode()
        if hmac.compare_digest(given, self._secret):
            return continuation(handler_call_details)
        return self._refusal


class _Running:
    """The batch that is being drawn: its way back to the client, and what was asked to stop."""

    def __init__(self) -> None:
        self.events = EventQueue()
        self.stopped: set[str] = set()


class EngineService(engine_pb2_grpc.EngineServicer):
    """The calls of engine.proto. One batch or load at a time; a second is refused as Busy. A model
    comes into RAM beside them."""

    def __init__(self, device: str) -> None:
        # OpenMP keeps a team of threads for each thread that calls it, and CUDA a current device:
        # one thread for all of it. Its first job is the import, so the others wait for that.
        self._torch = ThreadPoolExecutor(1, thread_name_prefix="torch")
        self._engine: Future[tuple[DiffusersEngine, EngineDescription]] = self._torch.submit(
            _import_engine, device
        )
        # While the agent finds its broker, the classes of the most common family are imported:
        # two seconds that the first picture does not have to wait for.
        self._torch.submit(_import_pipeline)
        # Models that may be needed next come into RAM here, whatever the torch thread does.
        self._beside = ThreadPoolExecutor(1, thread_name_prefix="prefetch")
        self._busy = threading.Lock()
        self._running: _Running | None = None
        self._share = 1.0

    def Describe(  # noqa: N802 -- the service's name for it
        self, request: DescribeRequest, context: grpc.ServicerContext
    ) -> EngineDescription:
        try:
            return self._engine.result()[1]
        except Exception as error:  # noqa: BLE001 -- translated at the edge
            _abort(context, error)

    def Load(  # noqa: N802
        self, request: LoadRequest, context: grpc.ServicerContext
    ) -> LoadResponse:
        try:
            if request.tier == TIER_RAM:  # beside what is drawn
                return self._beside.submit(self._prefetch, request).result()
            return self._exclusively(
                lambda engine: engine.load(request.model, request.placement)
            ).result()
        except Exception as error:  # noqa: BLE001
            _abort(context, error)

    def _prefetch(self, request: LoadRequest) -> LoadResponse:
        engine, _ = self._engine.result()
        _step_back()
        return engine.prefetch(request.model)

    def Unload(  # noqa: N802
        self, request: UnloadRequest, context: grpc.ServicerContext
    ) -> UnloadResponse:
        try:
            done = self._exclusively(lambda engine: engine.unload(request.sha256s, request.to))
            answer = done.result()
        except Exception as error:  # noqa: BLE001
            _abort(context, error)
        later = threading.Timer(_KEPT_FOR_A_LOAD, self._tidy)
        later.daemon = True
        later.start()
        return answer

    def _tidy(self) -> None:
        """Mostly another model took what the one before left; where none came, nobody shall."""
        if not self._busy.locked():  # a load gives back the rest itself
            heap.give_back()

    def Generate(  # noqa: N802
        self, request: Batch, context: grpc.ServicerContext
    ) -> Iterator[EngineEvent]:
        running = _Running()
        everything = {item.item_id for item in request.items}

        def draw(engine: DiffusersEngine) -> None:
            self._running = running
            try:
                engine.generate(
                    request, running.events.put, lambda: running.stopped, lambda: self._share
                )
            except Stopped:
                pass  # each item's EngineStopped has told it
            finally:
                self._running = None

        try:
            job = self._exclusively(draw, running.events.end)
        except Busy as error:
            _abort(context, error)
        # A client that hangs up wants none of it any more; after a normal end this does nothing.
        context.add_callback(lambda: running.stopped.update(everything))
        while (event := running.events.get()) is not None:
            yield event
        try:
            job.result()
        except Exception as error:  # noqa: BLE001
            _abort(context, error, [item.request.prompt for item in request.items])

    def Stop(  # noqa: N802
        self, request: StopRequest, context: grpc.ServicerContext
    ) -> StopResponse:
        running = self._running
        if running is not None:
            running.stopped.update(request.item_ids)
        return StopResponse()

    def SetShare(  # noqa: N802
        self, request: SetShareRequest, context: grpc.ServicerContext
    ) -> SetShareResponse:
        if not 0.0 < request.share <= 1.0:
            _abort(
                context, BadRequest(f"a share of {request.share:g} is not above 0 and at most 1")
            )
        self._share = request.share
        return SetShareResponse()

    def _exclusively(
        self, work: Callable[[DiffusersEngine], T], afterwards: Callable[[], None] = lambda: None
    ) -> Future[T]:
        """Do it on the torch thread. Raises Busy where something else is being done."""
        if not self._busy.acquire(blocking=False):
            raise Busy("the engine is drawing another batch")

        def run() -> T:
            try:
                return work(self._engine.result()[0])
            finally:
                # Freed before the client hears of the end: it may send the next batch at once.
                self._busy.release()
                afterwards()

        return self._torch.submit(run)


def _step_back() -> None:
    """Let everybody else have the processor first, this process's other threads included."""
    if sys.platform == "linux":  # elsewhere it would be said of the whole process
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 19)


def _import_pipeline() -> None:
    try:
        import diffusers

        _ = diffusers.StableDiffusionPipeline  # its attributes are imported when asked for
    finally:
        gc.freeze()  # what was imported is nobody's garbage; each unload looks through the rest
        gc.enable()


def _import_engine(device: str) -> tuple[DiffusersEngine, EngineDescription]:
    from foxden_agent.engine.diffusers_engine import DiffusersEngine

    quiet_libraries()
    engine = DiffusersEngine(device, _version())
    return engine, engine.describe()


def quiet_libraries() -> None:
    """Errors only: their warnings quote the part of a prompt that is longer than 77 tokens."""
    warnings.filterwarnings("ignore", module="torchsde")  # once a step, about rounding
    import diffusers
    import transformers

    for library in (diffusers.utils.logging, transformers.utils.logging):
        library.set_verbosity_error()
        library.disable_progress_bar()


def _version() -> str:
    try:
        return metadata.version("foxden")
    except metadata.PackageNotFoundError:  # run from a checkout that isn't installed
        return "0"


def _abort(
    context: grpc.ServicerContext, error: Exception, secrets: list[str] | None = None
) -> NoReturn:
    """End the call with the error's status. Prompts that foreign errors quote are cut out."""
    text = str(error)
    if not isinstance(error, EngineError):
        for secret in filter(None, secrets or []):
            text = text.replace(secret, "…")
        frames = "".join(traceback.format_tb(error.__traceback__))
        log.error("unexpected %s\n%s", type(error).__name__, frames)
        text = f"{type(error).__name__}: {text}"
    if isinstance(error, ImportError):
        code = BadModel.code  # an engine without its libraries: no retry will help
    else:
        code = error.code if isinstance(error, EngineError) else grpc.StatusCode.INTERNAL
    context.abort(code, text[:1000])
    raise AssertionError("abort raises")
