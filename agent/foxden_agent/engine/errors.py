"""What can go wrong while a picture is made, as types; each knows its gRPC status code.

`foxden_agent.engine_client` reads the code back and decides in one place what may be tried again.
The texts are whole sentences for people and never hold a prompt.
"""

from __future__ import annotations

import grpc


class EngineError(Exception):
    """The batch can't be drawn."""

    code = grpc.StatusCode.INTERNAL


class BadModel(EngineError):
    """The model's files can't be used: broken, of an unknown kind, or with code of their own."""

    code = grpc.StatusCode.FAILED_PRECONDITION

    def __init__(self, name: str, why: str) -> None:
        self.name, self.why = name, why
        super().__init__(f"model {name!r} can't be loaded: {why}")


class BadRequest(EngineError):
    """The model can't draw what was asked for; no other card could either."""

    code = grpc.StatusCode.INVALID_ARGUMENT


class OutOfMemory(EngineError):
    """The card's memory is too small for this batch."""

    code = grpc.StatusCode.RESOURCE_EXHAUSTED

    def __init__(self, device: str, doing: str) -> None:
        self.device, self.doing = device, doing
        super().__init__(
            f"out of memory on {device} while {doing}: ask for a smaller picture or fewer at once, "
            "or close programs that use the card"
        )


class BadNumbers(EngineError):
    """The model produced NaN or infinity; saved, that would be a black picture."""

    code = grpc.StatusCode.DATA_LOSS

    def __init__(self, where: str, dtype: str) -> None:
        self.where, self.dtype = where, dtype
        super().__init__(
            f"the model produced no valid numbers (NaN) in its {where}, computed in {dtype}: "
            "try another guidance scale or sampler, or a card with more precision"
        )


class BadCheckpoint(EngineError):
    """The image can't go on from this checkpoint; nothing is wrong with the image itself."""

    code = grpc.StatusCode.ABORTED

    def __init__(self, why: str) -> None:
        self.why = why
        super().__init__(f"the checkpoint can't be used here: {why}; draw it from the beginning")


class Busy(EngineError):
    """A batch is being drawn already; an engine draws one at a time."""

    code = grpc.StatusCode.ALREADY_EXISTS


class Stopped(Exception):
    """Every item of the batch was stopped; raised out of the step callback: nothing is decoded."""
