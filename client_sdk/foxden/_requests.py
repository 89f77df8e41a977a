"""From Python values to a SubmitRequest: types here, ranges at the broker.

Checked here is only what cannot travel: a wrong type, a number beyond int64, text that is no
Unicode, more text than a message may hold.
"""

from __future__ import annotations

import math
import operator
import secrets
from typing import TypedDict

from foxden.errors import InvalidRequest
from foxden_proto.limits import PROMPT_CHARACTERS, REQUEST_BYTES
from foxden_proto.v1 import generation_pb2 as pb

PRIORITIES = {
    "interactive": pb.PRIORITY_INTERACTIVE,
    "normal": pb.PRIORITY_NORMAL,
    "bulk": pb.PRIORITY_BULK,
}
_INT64 = 2**63


class Options(TypedDict, total=False):
    """What can be asked for beside the prompt; `Client.generate` documents each."""

    negative_prompt: str
    count: int
    steps: int | None
    sampler: str | None
    schedule: str | None
    guidance_scale: float | None
    width: int | None
    height: int | None
    seed: int | None
    model: str | None
    priority: str
    deadline: float | None
    idempotency_key: str | None


def build(
    prompt: str,
    *,
    negative_prompt: str = "",
    count: int = 1,
    steps: int | None = None,
    sampler: str | None = None,
    schedule: str | None = None,
    guidance_scale: float | None = None,
    width: int | None = None,
    height: int | None = None,
    seed: int | None = None,
    model: str | None = None,
    priority: str = "normal",
    deadline: float | None = None,
    idempotency_key: str | None = None,
) -> pb.SubmitRequest:
    """The message for one job, with an idempotency key. Raises InvalidRequest."""
    if priority not in PRIORITIES:
        allowed = ", ".join(PRIORITIES)
        raise InvalidRequest(
            f"there is no priority {priority!r}: use one of {allowed}",
            field="priority",
            allowed=allowed,
        )
    request = pb.SubmitRequest(
        request=pb.ImageRequest(
            prompt=_prompt("prompt", prompt),
            negative_prompt=_prompt("negative_prompt", negative_prompt),
            steps=_integer("steps", steps),
            sampler=_text("sampler", sampler),
            schedule=_text("schedule", schedule),
            guidance_scale=_number("guidance_scale", guidance_scale),
            width=_integer("width", width),
            height=_integer("height", height),
            seed=_integer("seed", seed),
            model=_text("model", model),
        ),
        count=_integer("count", count),
        priority=PRIORITIES[priority],
        deadline=_number("deadline", deadline),
        idempotency_key=_text("idempotency_key", idempotency_key) or secrets.token_hex(16),
    )
    if request.ByteSize() > REQUEST_BYTES:
        texts = {"idempotency_key": request.idempotency_key}
        texts |= {name: getattr(request.request, name) for name in ("model", "sampler", "schedule")}
        raise _too_long(max(texts, key=lambda name: len(texts[name])))
    return request


def check_timeout(timeout: float | None) -> float | None:
    """Seconds to wait, at least 0; None: for ever. Raises InvalidRequest (`timeout`)."""
    seconds = _number("timeout", timeout)
    return None if seconds is None else max(0.0, seconds)


def _prompt(field: str, value: object) -> str:
    text = _text(field, value)
    if len(text) > PROMPT_CHARACTERS[1]:
        raise InvalidRequest(
            f"{field} has {len(text):,} characters: use {PROMPT_CHARACTERS[1]:,} at most",
            field=field,
            allowed=f"{PROMPT_CHARACTERS[1]:,} characters at most",
        )
    return text


def _too_long(field: str) -> InvalidRequest:
    return InvalidRequest(
        f"{field} is too long for a message: shorten it", field=field, allowed="a short text"
    )


def _text(field: str, value: object) -> str:
    if value is None and field not in ("prompt", "negative_prompt"):
        return ""
    if not isinstance(value, str):
        raise _wrong(field, value, "a text")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise InvalidRequest(
            f"{field} holds half a character (a lone surrogate) at position {error.start}: "
            "take it out",
            field=field,
            allowed="Unicode text",
        ) from None
    return value


def _integer(field: str, value: object) -> int | None:
    if value is None and field != "count":
        return None
    if isinstance(value, bool):
        raise _wrong(field, value, "a whole number")
    try:
        number = operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        raise _wrong(field, value, "a whole number") from None
    if not -_INT64 <= number < _INT64:
        raise InvalidRequest(
            f"{field} has too many digits: use a number of at most 64 bits",
            field=field,
            allowed="a whole number of at most 64 bits",
        )
    return number


def _number(field: str, value: object) -> float | None:
    if value is None:
        return None
    if isinstance(value, (bool, str, bytes)):
        raise _wrong(field, value, "a number")
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        raise _wrong(field, value, "a number") from None
    if not math.isfinite(number):
        raise _wrong(field, value, "a finite number")
    return number


def _wrong(field: str, value: object, allowed: str) -> InvalidRequest:
    shown = repr(value) if isinstance(value, (bool, float)) else f"a {type(value).__name__}"
    return InvalidRequest(f"{field} is {shown}: give {allowed}", field=field, allowed=allowed)
