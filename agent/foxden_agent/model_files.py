"""Whether a model's files are still those that were read and hashed when the agent started."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import grpc

from foxden_agent.engine_errors import EngineRefused

if TYPE_CHECKING:
    from foxden_agent.models import LocalModel


@dataclass(frozen=True, slots=True)
class FileStamp:
    """What a file was when it was hashed: another size or time, and its hash is another's."""

    path: Path
    size: int  # bytes
    mtime_ns: int

    @classmethod
    def of(cls, path: Path) -> FileStamp:
        """Raises OSError."""
        status = path.stat()
        return cls(path, status.st_size, status.st_mtime_ns)


class ModelFilesChanged(EngineRefused):
    """A model's files are not what the pool was told of; another card may have the right ones."""

    def __init__(self, name: str, changed: str) -> None:
        super().__init__(
            f"model {name!r} can't be used here: {changed} since this agent read it; put the "
            "right file back, and it is offered again within moments, or start the agent again so "
            "that it reads the model anew",
            grpc.StatusCode.FAILED_PRECONDITION,
        )
        self.retryable = True


def what_changed(local: LocalModel) -> str | None:
    """A file and what became of it, in words; None where all are as they were."""
    for stamp in local.files:
        where = f"{stamp.path.parent.name}/{stamp.path.name}"
        try:
            now = FileStamp.of(stamp.path)
        except FileNotFoundError:
            return f"its file {where} is gone"
        except OSError as error:
            return f"its file {where} cannot be read ({error.strerror})"
        if now.size != stamp.size:
            return f"its file {where} has {now.size} bytes and not {stamp.size}"
        if now != stamp:
            return f"its file {where} was changed"
    return None
