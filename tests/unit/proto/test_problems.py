"""Problems through a real gRPC call: what the broker raises is what the client reads."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from foxden_proto.problems import Problem, Reason, from_rpc_error, invalid

Abort = Callable[[grpc.ServicerContext], None]
Call = Callable[[Abort], grpc.RpcError]


@pytest.fixture(scope="module")
def call() -> Iterator[Call]:
    """Ends a call on a real server as the argument says; gives back the client's error."""
    ends: list[Abort] = []

    def end(request: bytes, context: grpc.ServicerContext) -> bytes:
        ends.pop()(context)
        return b""

    handlers = {"Do": grpc.unary_unary_rpc_method_handler(end)}
    server = grpc.server(ThreadPoolExecutor(1))
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("t.T", handlers)])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:

        def make(how: Abort) -> grpc.RpcError:
            ends.append(how)
            with pytest.raises(grpc.RpcError) as caught:
                channel.unary_unary("/t.T/Do")(b"", timeout=10)
            return caught.value

        yield make
    server.stop(None).wait()


def aborts(problem: Problem) -> Abort:
    return lambda context: context.abort_with_status(problem.status())


@pytest.mark.parametrize("reason", Reason, ids=lambda r: r.value)
def test_problem_of_each_reason_sent_is_read_back(reason: Reason, call: Call) -> None:
    facts = {"field": "width", "allowed": "a multiple of 8", "name": "größe"}
    problem = Problem(reason, f"Something is off – {reason.value}.\nDo this.", facts)
    error = call(aborts(problem))
    assert from_rpc_error(error) == problem
    assert error.code() is problem.code


def test_problem_reads_as_its_sentence() -> None:
    problem = invalid("steps", "steps is 0: use 1 to 150.", "1 to 150")
    assert str(problem) == "steps is 0: use 1 to 150."
    assert problem.facts == {"field": "steps", "allowed": "1 to 150"}


def test_failed_call_without_details_is_no_problem_of_ours(call: Call) -> None:
    error = call(lambda context: context.abort(grpc.StatusCode.UNAVAILABLE, "a proxy's words"))
    assert from_rpc_error(error) is None


@pytest.mark.parametrize(
    ("domain", "reason"), [("elsewhere", "NOT_FOUND"), ("foxden", "FROM_A_NEWER_BROKER")]
)
def test_failed_call_with_foreign_details_is_no_problem_of_ours(
    domain: str, reason: str, call: Call
) -> None:
    status = status_pb2.Status(code=grpc.StatusCode.NOT_FOUND.value[0], message="gone")
    info = error_details_pb2.ErrorInfo(reason=reason, domain=domain)
    status.details.add().Pack(info)
    error = call(lambda context: context.abort_with_status(rpc_status.to_status(status)))
    assert from_rpc_error(error) is None


@pytest.mark.parametrize(
    "details", [b"\xff\xff\xff", status_pb2.Status(code=3).SerializeToString()]
)
def test_failed_call_with_damaged_details_is_no_problem_of_ours(details: bytes, call: Call) -> None:
    def end(context: grpc.ServicerContext) -> None:
        context.set_trailing_metadata([("grpc-status-details-bin", details)])
        context.abort(grpc.StatusCode.UNAVAILABLE, "a proxy's words")

    assert from_rpc_error(call(end)) is None
