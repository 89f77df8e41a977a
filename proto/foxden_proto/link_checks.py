"""What a link refuses to read: frames, names and sizes out of range. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from google.protobuf.message import DecodeError, Message

from foxden_proto import limits
from foxden_proto.v1 import link_pb2 as pb
from foxden_proto.v1 import pool_pb2

_ID = re.compile(r"[A-Za-z0-9_.:-]{1,64}")
_MODEL_NAME = re.compile(r"[A-Za-z0-9._-]{1,100}")
_LONGEST_LOAD = 24 * 3600.0  # seconds
_TIERS = frozenset(
    {pool_pb2.TIER_VRAM, pool_pb2.TIER_RAM, pool_pb2.TIER_DISK, pool_pb2.TIER_NETWORK}
)
_SHA256 = re.compile(r"[0-9a-f]{64}")
_RECEIPT_CHARACTERS = 200


class LinkError(Exception):
    """The other side broke the rules; the text says which, for its log and ours."""


def decode(data: bytes, kind: type[Any]) -> Any:
    """One binary message as the frame it must be. Raises LinkError."""
    if len(data) > limits.FRAME_BYTES:
        raise LinkError(f"a frame of {len(data)} bytes exceeds {limits.FRAME_BYTES}")
    try:
        return kind.FromString(data)
    except DecodeError:
        raise LinkError("a frame is not a message of this protocol") from None


def read_hello(data: bytes) -> pb.Hello:
    """The Hello that must open a connection, checked: who is calling, before a link is found
    for it. Raises LinkError."""
    frame = decode(data, pb.AgentFrame)
    if frame.WhichOneof("frame") != "hello":
        raise LinkError("the first frame is not a hello")
    check_hello(frame.hello)
    hello: pb.Hello = frame.hello
    return hello


def check_payload(payload: Message) -> None:
    """Refuse what an agent says with values out of range. Raises LinkError."""
    match payload:
        case pb.Hello():
            check_hello(payload)
        case pb.CardsChanged():
            check_cards(payload.cards)
        case pb.TaskProgress():
            check_progress(payload)
        case pb.Heartbeat():
            check_heartbeat(payload)
        case pb.TaskCheckpoint():
            check_checkpoint(payload.checkpoint, payload.receipt)
        case pb.TaskReleased():
            if payload.HasField("checkpoint"):
                if payload.releasing:
                    raise LinkError("a release that has only begun comes with a checkpoint")
                check_checkpoint(payload.checkpoint, payload.receipt)
        case pb.ModelLoaded():
            check_model_loaded(payload)
        case pb.Acknowledged() | pb.Refused():
            if len(payload.leases) > limits.HELD_LEASES:
                raise LinkError(f"{len(payload.leases)} leases in one frame")


def check_hello(hello: pb.Hello) -> None:
    """Refuse a Hello whose names or sizes are out of range. Raises LinkError."""
    if hello.protocol != limits.LINK_PROTOCOL:
        raise LinkError(
            f"the agent speaks link protocol {hello.protocol}, this broker {limits.LINK_PROTOCOL}:"
            " install the same version of Foxden on both"
        )
    if not _ID.fullmatch(hello.agent_id):
        raise LinkError("the agent's id is not 1 to 64 letters, digits, '_', '.', ':' or '-'")
    if len(hello.held) > limits.HELD_LEASES:
        raise LinkError(f"the agent claims {len(hello.held)} leases")
    if len(hello.modes) > limits.CARDS_PER_AGENT:
        raise LinkError(f"the agent tells the modes of {len(hello.modes)} cards")
    check_cards(hello.cards)


def check_cards(cards: Sequence[pool_pb2.CardInfo]) -> None:
    """Refuse cards whose names or sizes are out of range. Raises LinkError."""
    if len(cards) > limits.CARDS_PER_AGENT:
        raise LinkError(f"{len(cards)} cards in one agent; {limits.CARDS_PER_AGENT} at most")
    if len({card.card_id for card in cards}) != len(cards):
        raise LinkError("two cards have the same id")
    if sum(len(card.models) for card in cards) > limits.MODELS_PER_AGENT:
        raise LinkError(f"more than {limits.MODELS_PER_AGENT} models in one agent")
    for card in cards:
        if not _ID.fullmatch(card.card_id):
            raise LinkError("a card's id is not 1 to 64 letters, digits, '_', '.', ':' or '-'")
        for model in card.models:
            _check_model(model)


def check_heartbeat(heartbeat: pb.Heartbeat) -> None:
    """Refuse more cards than an agent has: each change of one is told to everybody who watches.
    Raises LinkError."""
    most = limits.CARDS_PER_AGENT
    if len(heartbeat.cards) > most or len(heartbeat.modes) > most:
        raise LinkError(f"a heartbeat of more than {most} cards")
    for card in heartbeat.cards:
        if len(card.loaded_models) + len(card.models_in_ram) > limits.MODELS_PER_AGENT:
            raise LinkError(f"more than {limits.MODELS_PER_AGENT} models in one card's memory")


def check_model_loaded(told: pb.ModelLoaded) -> None:
    """Refuse times that no load can take: plans are made by them. Raises LinkError."""
    if not 0 <= told.seconds <= _LONGEST_LOAD:  # NaN is not, either
        raise LinkError(f"a model was loaded in {told.seconds} s")
    if told.tier not in _TIERS:
        raise LinkError(f"a model was loaded from tier {told.tier}, which is none")
    if not _SHA256.fullmatch(told.model_sha256):
        raise LinkError("a model was loaded that has no sha256")
    if not _ID.fullmatch(told.card_id):
        raise LinkError("a model was loaded on a card that has no id")


def check_progress(progress: pb.TaskProgress) -> None:
    """Refuse steps that cannot be and previews that are too big. Raises LinkError."""
    if not 0 <= progress.step <= progress.steps:
        raise LinkError(f"progress says step {progress.step} of {progress.steps}")
    if len(progress.preview) > limits.PREVIEW_BYTES:
        raise LinkError(f"a preview of {len(progress.preview)} bytes")


def check_checkpoint(checkpoint: pb.Checkpoint, receipt: str) -> None:
    """Refuse a checkpoint that cannot be one. Raises LinkError."""
    if not _SHA256.fullmatch(checkpoint.sha256):
        raise LinkError("a checkpoint has no sha256")
    if not 1 <= checkpoint.size <= limits.CHECKPOINT_BYTES:
        raise LinkError(f"a checkpoint of {checkpoint.size} bytes")
    low, high = limits.MODEL_CALLS
    if not low <= checkpoint.step <= high:
        raise LinkError(f"a checkpoint of step {checkpoint.step}")
    if not 1 <= len(receipt) <= _RECEIPT_CHARACTERS:
        raise LinkError("a checkpoint comes without the receipt of its PUT")
    if checkpoint.path:
        raise LinkError("where a checkpoint is fetched is the broker's to say")


def _check_model(model: pool_pb2.Model) -> None:
    """What a model says of itself becomes the defaults and ranges of requests."""
    if not _MODEL_NAME.fullmatch(model.name):
        raise LinkError("a model's name is not 1 to 100 letters, digits, '.', '_' or '-'")
    if not _SHA256.fullmatch(model.sha256):
        raise LinkError(f"model {model.name} has no sha256")
    low, high = limits.SIDE_PIXELS
    sides = (model.default_width, model.default_height)
    in_range = (
        low <= model.min_size <= model.max_size <= high
        and model.multiple_of % limits.SIDE_MULTIPLE == 0
        and model.multiple_of > 0
        and all(model.min_size <= side <= model.max_size for side in sides)
        and limits.STEPS[0] <= model.default_steps <= limits.STEPS[1]
        and limits.GUIDANCE_SCALE[0] <= model.default_guidance_scale <= limits.GUIDANCE_SCALE[1]
    )
    if not in_range:
        raise LinkError(f"model {model.name} has default sizes or steps that cannot be")
