"""What a worker says, and to whom: one link, or several as one (links.py)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

from foxden_agent.pictures import Stored
from foxden_proto.link import LeaseKey
from foxden_proto.timers import Timers
from foxden_proto.v1 import link_pb2 as pb
from foxden_proto.v1 import pool_pb2


class Reports(Protocol):
    """See foxden_proto.link.AgentLink."""

    timers: Timers
    identity: pb.Hello

    def acknowledge(self, keys: Iterable[LeaseKey]) -> None: ...
    def refuse(self, keys: Sequence[LeaseKey], reason: str, *, not_ready: bool = False) -> None: ...
    def started(self, key: LeaseKey) -> None: ...
    def progress(self, key: LeaseKey, step: int, steps: int, preview: bytes = b"") -> None: ...
    def checkpoint(self, key: LeaseKey, checkpoint: pb.Checkpoint, receipt: str) -> None: ...
    def outcome(
        self,
        key: LeaseKey,
        result: pb.TaskFinished | pb.TaskFailed | pb.TaskReleased | pb.TaskStopped,
    ) -> None: ...
    def mode_changed(self, mode: pb.CardMode) -> None: ...
    def cards_changed(self, cards: Sequence[pool_pb2.CardInfo]) -> None: ...
    def model_loaded(
        self, card_id: str, model_sha256: str, seconds: float, tier: pool_pb2.Tier.ValueType
    ) -> None: ...


class Bytes(Protocol):
    """See foxden_agent.pictures.PictureSender."""

    async def put(
        self,
        path: str,
        token: str,
        png: bytes,
        wanted: Callable[[], bool],
        what: str = "a picture",
    ) -> Stored | None: ...
    async def get(
        self,
        path: str,
        token: str,
        sha256: str,
        size: int,
        *,
        wanted: Callable[[], bool],
        within: float,
    ) -> bytes: ...
