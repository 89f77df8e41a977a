"""What goes wrong with an engine, and what that says of the card, the model and the image."""

from __future__ import annotations

import contextlib
import signal

import grpc

# One place says what may be tried again, here or on another card. Not among them:
#   FAILED_PRECONDITION  the model's files are broken; they are the same bytes on every card
#   INVALID_ARGUMENT     the model can't draw that
#   UNAUTHENTICATED      not our engine
_RETRYABLE = frozenset(
    {
        grpc.StatusCode.RESOURCE_EXHAUSTED,  # a card with more memory can
        grpc.StatusCode.DATA_LOSS,  # NaN: a card that computes in more precision may not
        grpc.StatusCode.ALREADY_EXISTS,  # it draws another batch
        grpc.StatusCode.ABORTED,  # the checkpoint doesn't fit: from the beginning it can be drawn
        grpc.StatusCode.INTERNAL,  # unforeseen; the broker counts how often
        grpc.StatusCode.UNKNOWN,
        grpc.StatusCode.CANCELLED,
    }
)


class EngineFailed(Exception):
    """The engine did not do what it was asked."""


class EngineDied(EngineFailed):
    """The child process is gone. `exit_code` is negative where a signal ended it (-9: killed)."""

    def __init__(self, exit_code: int, last_line: str) -> None:
        self.exit_code, self.last_line = exit_code, last_line
        if self.file_changed:
            super().__init__(
                "the engine ended because a model's file was cut short or became unreadable while "
                "it was being used: put the whole file back, then start the agent again"
            )
            return
        how = f"exit code {exit_code}"
        if exit_code < 0:
            with contextlib.suppress(ValueError):
                how = signal.Signals(-exit_code).name
        super().__init__(f"the engine died ({how})" + (f": {last_line}" if last_line else ""))

    @property
    def file_changed(self) -> bool:
        """True where mapped bytes were no longer in their file, or their disk could not give them;
        that is no fault of the card."""
        return hasattr(signal, "SIGBUS") and self.exit_code == -signal.SIGBUS


class EngineNotStarted(EngineFailed):
    """The system refused to make the process, or the folder of its socket."""

    def __init__(self, error: OSError) -> None:
        where = f" at {error.filename}" if error.filename else ""
        super().__init__(
            f"the engine cannot be started ({error.strerror or error}{where}): see that the disk "
            "has space, and that no other program takes all of the memory"
        )


class EngineSilent(EngineFailed):
    """No sign of life for too long: kill it and start another."""

    def __init__(self, seconds: float, stage: str) -> None:
        self.seconds, self.stage = seconds, stage
        super().__init__(f"the engine gave no sign of life for {seconds:g} s while {stage}")


class EngineRefused(EngineFailed):
    """The engine lives but won't or can't do it; `retryable` where another card or time may."""

    def __init__(self, reason: str, code: grpc.StatusCode) -> None:
        self.reason, self.code = reason, code
        self.retryable = code in _RETRYABLE
        super().__init__(reason)

    @property
    def out_of_memory(self) -> bool:
        return self.code is grpc.StatusCode.RESOURCE_EXHAUSTED

    @property
    def about_the_checkpoint(self) -> bool:
        """True where the batch could not go on from the checkpoints it came with; nothing is wrong
        with its images, and drawn from the beginning they are no failure of card or model."""
        return self.code is grpc.StatusCode.ABORTED

    @property
    def unforeseen(self) -> bool:
        """True where nobody planned for it: the engine may be past saving (a CUDA error sticks to
        its process)."""
        return self.code in (grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN)

    @property
    def about_the_model(self) -> bool:
        """True where no image of this model can be drawn here."""
        return self.code is grpc.StatusCode.FAILED_PRECONDITION
