"""Everything that can be said about a request without knowing the pool. Pure.

Checked at the door, before anything is stored: a request that passes here and in
`catalogue.resolve` never fails for what the client wrote.
"""

from __future__ import annotations

import hashlib
import math
import random
import re
import unicodedata
from dataclasses import dataclass

from foxden_broker.problems import invalid
from foxden_proto import limits
from foxden_proto.samplers import UnknownName, resolve
from foxden_proto.v1.generation_pb2 import (
    PRIORITY_NORMAL,
    PRIORITY_UNSPECIFIED,
    ImageRequest,
    Priority,
    SubmitRequest,
)


@dataclass(frozen=True)
class CheckedSubmit:
    """A submit whose every value is in range; the request has a seed and canonical names."""

    request: ImageRequest
    count: int
    priority: int
    deadline_seconds: float  # 0: none
    idempotency_key: str
    digest: bytes  # of what the client sent, to tell a retry from two requests under one key


def check_submit(submit: SubmitRequest, draw_seed: random.Random) -> CheckedSubmit:
    """Raises Problem INVALID_REQUEST, naming the first field that is out of range."""
    request = ImageRequest()
    request.CopyFrom(submit.request)
    _check_text("prompt", request.prompt, smallest=1)
    _check_text("negative_prompt", request.negative_prompt, smallest=0)
    if len(request.model) > limits.NAME_CHARACTERS[1] or not request.model.isprintable():
        most = limits.NAME_CHARACTERS[1]
        raise invalid("model", "model is unusable", f"a name of up to {most} letters")
    if not re.fullmatch(r"([0-9a-f]{64})?", request.model_sha256):
        raise invalid("model_sha256", "model_sha256 is no hash", "64 hex digits in lower case")
    if request.HasField("steps"):
        _check_range("steps", request.steps, limits.STEPS)
    if request.HasField("guidance_scale"):
        _check_range("guidance_scale", request.guidance_scale, limits.GUIDANCE_SCALE)
    for side in ("width", "height"):
        if request.HasField(side):
            _check_side(side, getattr(request, side))
    try:
        request.sampler, schedule = resolve(request.sampler, request.schedule)
    except UnknownName as error:
        near = ", ".join(error.near) or "a name from `foxden models list`"
        raise invalid(error.field, f"{error.field} is {error.name[:100]!r}", near) from None
    # An unnamed schedule stays empty, so that the model's own default can be filled in.
    named = bool(request.schedule) or schedule != "automatic"
    request.schedule = schedule if named else ""

    count = submit.count if submit.HasField("count") else 1
    _check_range("count", count, limits.COUNT)
    if request.HasField("seed"):
        _check_range("seed", request.seed, limits.SEED)
    else:
        request.seed = draw_seed.randrange(limits.RANDOM_SEED_BELOW)
    if submit.priority not in Priority.values():
        raise invalid("priority", f"priority is {submit.priority}", "interactive, normal or bulk")
    if submit.HasField("deadline"):
        _check_range("deadline", submit.deadline, limits.DEADLINE_SECONDS)
    key = submit.idempotency_key
    if len(key) > limits.IDEMPOTENCY_KEY_CHARACTERS[1] or not key.isprintable():
        most = limits.IDEMPOTENCY_KEY_CHARACTERS[1]
        raise invalid("idempotency_key", "idempotency_key is unusable", f"up to {most} letters")
    unkeyed = SubmitRequest()
    unkeyed.CopyFrom(submit)
    unkeyed.ClearField("idempotency_key")
    return CheckedSubmit(
        request=request,
        count=count,
        priority=PRIORITY_NORMAL if submit.priority == PRIORITY_UNSPECIFIED else submit.priority,
        deadline_seconds=submit.deadline if submit.HasField("deadline") else 0.0,
        idempotency_key=key,
        digest=hashlib.sha256(unkeyed.SerializeToString(deterministic=True)).digest(),
    )


def _check_text(field: str, text: str, *, smallest: int) -> None:
    most = limits.PROMPT_CHARACTERS[1]
    if not smallest <= len(text) <= most or (smallest and not text.strip()):
        allowed = f"{smallest} to {most} characters"
        raise invalid(field, f"{field} has {len(text)} characters", allowed)
    bad = next((c for c in text if unicodedata.category(c) == "Cc" and c not in "\n\r\t"), None)
    if bad is not None:
        allowed = "text without control characters other than line breaks and tabs"
        raise invalid(field, f"{field} has the control character U+{ord(bad):04X}", allowed)


def _check_range(field: str, value: float, allowed: tuple[float, float]) -> None:
    low, high = allowed
    if math.isnan(value) or not low <= value <= high:
        raise invalid(field, f"{field} is {value}", f"{low} to {high}")


def _check_side(field: str, pixels: int) -> None:
    low, high = limits.SIDE_PIXELS
    if not low <= pixels <= high or pixels % limits.SIDE_MULTIPLE:
        allowed = f"a multiple of {limits.SIDE_MULTIPLE} from {low} to {high}"
        raise invalid(field, f"{field} is {pixels}", allowed)
