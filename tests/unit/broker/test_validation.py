"""check_submit(): nothing out of range comes in, and the answer names the field."""

from __future__ import annotations

import math
import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foxden_broker.validation import CheckedSubmit, check_submit
from foxden_proto import limits
from foxden_proto.problems import Problem, Reason
from foxden_proto.samplers import SAMPLERS, SCHEDULES
from foxden_proto.v1.generation_pb2 import ImageRequest, SubmitRequest

HUGE = 2**63 - 1
NAN, INF = math.nan, math.inf
OF_SUBMIT = {"count", "priority", "deadline", "idempotency_key"}


def submit(**values: Any) -> SubmitRequest:
    outer = {name: values.pop(name) for name in list(values) if name in OF_SUBMIT}
    return SubmitRequest(request=ImageRequest(**({"prompt": "a cube"} | values)), **outer)


def check(**values: Any) -> CheckedSubmit:
    return check_submit(submit(**values), random.Random(1))


BAD: dict[str, list[Any]] = {
    "prompt": [
        "",
        " ",
        "\n\t",
        "x" * 10_001,
        "x" * 2**20,
        "\x00",
        "a\x00b",
        "a\x1b[31m",
        "a\x7f",
        "\x85b",
    ],
    "negative_prompt": ["x" * 10_001, "x" * 2**20, "\x00", "\x08", "a\x9f"],
    "model": ["m" * 101, "m" * 2**20, "a\x00", "a\nb"],
    "model_sha256": ["0", "0" * 63, "A" * 64, "0" * 65, "g" * 64, "0" * 64 + "\n", "\x00" * 64],
    "steps": [0, -1, 151, HUGE, -HUGE - 1],
    "guidance_scale": [NAN, INF, -INF, -0.1, 50.1, 1e300],
    "width": [0, -8, 8, 15, 17, 513, 4104, HUGE],
    "height": [0, -8, 8, 15, 17, 513, 4104, HUGE],
    "sampler": ["no such thing", "Eular", "x" * 2**18, "\x00"],
    "schedule": ["no such thing", "karas", "x" * 2**18, "\x00"],
    "count": [0, -1, 1001, 10_000, HUGE],
    "seed": [-1, limits.SEED[1] + 1, HUGE],
    "priority": [-1, 4, 2**31 - 1],
    "deadline": [NAN, INF, -INF, 0.0, 0.99, -5.0, 604_800.1, 1e300],
    "idempotency_key": ["k" * 129, "a\x00", "a\nb", "\x1b"],
}


@pytest.mark.parametrize(
    ("field", "value"),
    [
        pytest.param(field, value, id=f"{field}-{str(value)[:12]!r}-{number}")
        for field, values in BAD.items()
        for number, value in enumerate(values)
    ],
)
def test_value_out_of_range_is_refused_by_its_field(field: str, value: Any) -> None:
    with pytest.raises(Problem) as caught:
        check(**{field: value})
    assert caught.value.reason is Reason.INVALID_REQUEST
    assert caught.value.facts["field"] == field
    assert caught.value.facts["allowed"]
    assert len(str(caught.value)) < 500  # it does not send a megabyte back


def test_every_field_of_the_request_is_tried_here() -> None:
    fields = {*ImageRequest.DESCRIPTOR.fields_by_name, *SubmitRequest.DESCRIPTOR.fields_by_name}
    assert set(BAD) == fields - {"request"}


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("prompt", "x"),
        ("prompt", "é" * 10_000),
        ("prompt", "two\nlines\tand\r\nmore"),
        ("prompt", "狐 🦊 \u200d"),
        ("negative_prompt", ""),
        ("model", ""),
        ("model", "m" * 100),
        ("model_sha256", ""),
        ("model_sha256", "0" * 64),
        ("steps", 1),
        ("steps", 150),
        ("guidance_scale", 0.0),
        ("guidance_scale", 50.0),
        ("width", 16),
        ("height", 4096),
        ("count", 1),
        ("count", 1000),
        ("seed", 0),
        ("seed", limits.SEED[1]),
        ("priority", 3),
        ("deadline", 1.0),
        ("deadline", 604_800.0),
        ("idempotency_key", ""),
        ("idempotency_key", "k" * 128),
    ],
)
def test_value_at_the_edge_of_its_range_passes(field: str, value: Any) -> None:
    checked = check(**{field: value})
    if field not in OF_SUBMIT:
        assert getattr(checked.request, field) == value


def test_what_is_absent_becomes_the_default_or_waits_for_the_model() -> None:
    checked = check()
    assert (checked.count, checked.priority, checked.deadline_seconds) == (1, 2, 0.0)
    assert checked.request.HasField("seed")
    assert not any(checked.request.HasField(name) for name in ("steps", "width", "height"))
    assert (checked.request.sampler, checked.request.schedule) == ("", "")


def test_old_combined_sampler_name_becomes_the_canonical_pair() -> None:
    request = check(sampler="dpm++ 2m karras").request
    assert (request.sampler, request.schedule) == ("DPM++ 2M", "karras")
    assert check(sampler="euler", schedule="Automatic").request.schedule == "automatic"


def test_seed_absent_is_drawn_and_seed_zero_is_kept() -> None:
    first = check_submit(submit(), random.Random(1)).request.seed
    assert first != check_submit(submit(), random.Random(2)).request.seed
    assert 0 <= first < limits.RANDOM_SEED_BELOW
    assert check(seed=0).request.seed == 0


def test_largest_seed_of_the_largest_job_is_exact_in_json() -> None:
    assert limits.SEED[1] + limits.COUNT[1] - 1 < 2**53 - 1


def test_digest_tells_requests_apart_but_not_keys_nor_drawn_seeds() -> None:
    digest = check(idempotency_key="k").digest
    assert check_submit(submit(idempotency_key="other"), random.Random(9)).digest == digest
    for other in ({"prompt": "a ball"}, {"count": 2}, {"seed": 1}, {"priority": 3}):
        assert check(**other).digest != digest


def test_request_given_is_left_as_it_was() -> None:
    given_request = submit(sampler="euler")
    before = given_request.SerializeToString(deterministic=True)
    check_submit(given_request, random.Random(1))
    assert given_request.SerializeToString(deterministic=True) == before


whole = st.integers(-(2**63), 2**63 - 1) | st.integers(-2, 5000)
real = st.floats() | st.floats(-1, 60)
text = st.text(max_size=20)
optional_fields = st.fixed_dictionaries(
    {},
    optional={
        "prompt": text,
        "negative_prompt": text,
        "model": text,
        "model_sha256": text,
        "sampler": text | st.sampled_from(SAMPLERS),
        "schedule": text | st.sampled_from(SCHEDULES),
        "steps": whole,
        "width": whole | st.integers(1, 600).map(lambda n: 8 * n),
        "height": whole,
        "seed": whole,
        "guidance_scale": real,
        "count": whole,
        "deadline": real,
        "priority": st.integers(-1, 5),
        "idempotency_key": text,
    },
)


def within(value: float, allowed: tuple[float, float]) -> bool:
    return allowed[0] <= value <= allowed[1]


@given(optional_fields)
@settings(deadline=None, max_examples=200)
def test_what_passes_is_in_range(values: dict[str, Any]) -> None:
    try:
        checked = check(**values)
    except Problem as problem:
        assert problem.reason is Reason.INVALID_REQUEST  # noqa: PT017
        assert problem.facts["field"] in BAD  # noqa: PT017
        return
    request = checked.request
    assert request.prompt.strip()
    assert "\x00" not in request.prompt + request.negative_prompt + request.model
    assert request.sampler in ("", *SAMPLERS)
    assert request.schedule in ("", *SCHEDULES)
    assert within(request.seed, limits.SEED)
    assert within(checked.count, limits.COUNT)
    assert checked.priority in (1, 2, 3)
    assert checked.deadline_seconds == 0 or within(
        checked.deadline_seconds, limits.DEADLINE_SECONDS
    )
    for side in ("width", "height"):
        if request.HasField(side):
            assert within(getattr(request, side), limits.SIDE_PIXELS)
            assert getattr(request, side) % 8 == 0
    if request.HasField("steps"):
        assert within(request.steps, limits.STEPS)
    if request.HasField("guidance_scale"):
        assert within(request.guidance_scale, limits.GUIDANCE_SCALE)
