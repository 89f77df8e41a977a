"""Everything a client can get wrong is told at Submit, with the field and what it may be."""

from __future__ import annotations

import math

import grpc
import pytest

import foxden
from foxden_proto import limits
from foxden_proto.address import parse
from foxden_proto.v1 import generation_pb2 as gen
from foxden_proto.v1 import generation_pb2_grpc as gen_grpc

pytestmark = pytest.mark.system

PROMPT = "a red cube"


@pytest.mark.parametrize(
    ("field", "arguments"),
    [
        ("steps", {"steps": 0}),
        ("steps", {"steps": 10_000}),
        ("steps", {"steps": -1}),
        ("width", {"width": 0}),
        ("width", {"width": -64}),
        ("width", {"width": 65}),
        ("width", {"width": 10**15}),
        ("width", {"width": 10**30}),
        ("height", {"height": 8192}),
        ("height", {"height": 300}),  # a multiple of 8 is asked of the demo model as well
        ("height", {"height": 512}),  # more than this model can draw
        ("count", {"count": 0}),
        ("count", {"count": 10_000}),
        ("count", {"count": -3}),
        ("guidance_scale", {"guidance_scale": math.nan}),
        ("guidance_scale", {"guidance_scale": math.inf}),
        ("guidance_scale", {"guidance_scale": -1.0}),
        ("sampler", {"sampler": "Eulr"}),
        ("schedule", {"schedule": "karas"}),
        ("schedule", {"sampler": "Euler a", "schedule": "karras"}),  # each exists, the pair not
        ("seed", {"seed": -5}),
        ("seed", {"seed": 2**60}),
        ("priority", {"priority": "urgent"}),
        ("deadline", {"deadline": -1}),
        ("negative_prompt", {"negative_prompt": "\0"}),
    ],
)
def test_a_value_out_of_range_names_its_field_and_range(calm_pool, field, arguments):
    client = calm_pool.client()
    before = {job.id for job in client.jobs()}

    with pytest.raises(foxden.InvalidRequest) as caught:
        client.submit(PROMPT, **arguments)

    assert caught.value.field == field
    assert caught.value.allowed
    assert {job.id for job in client.jobs()} == before


@pytest.mark.parametrize(
    "prompt", ["", "   ", "\0\0\0", "a\x07b", "x" * 1_000_000, "\ud800"], ids=repr
)
def test_a_prompt_that_cannot_be_drawn_is_refused(calm_pool, prompt):
    with pytest.raises(foxden.InvalidRequest) as caught:
        calm_pool.client().submit(prompt)
    assert caught.value.field == "prompt"


def test_an_unknown_model_names_those_that_are_near(calm_pool):
    with pytest.raises(foxden.UnknownModel) as caught:
        calm_pool.client().submit(PROMPT, model="foxden-dmo")
    assert caught.value.name == "foxden-dmo"
    assert "foxden-demo" in caught.value.near


@pytest.mark.parametrize(
    "token", ["", "nonsense", "fxd_aaaaaaaa_aaaaaaaa_aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"]
)
def test_a_wrong_token_is_refused(calm_pool, token, monkeypatch, tmp_path):
    monkeypatch.setenv("FOXDEN_HOME", str(tmp_path))
    channel = grpc.insecure_channel(parse(calm_pool.url).grpc_target)
    stub = gen_grpc.GenerationStub(channel)
    request = gen.SubmitRequest(request=gen.ImageRequest(prompt=PROMPT))
    with pytest.raises(grpc.RpcError) as caught:
        stub.Submit(request, metadata=[("authorization", f"Bearer {token}")])
    assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
    channel.close()


def test_an_agents_token_does_not_draw(calm_pool):
    with pytest.raises(foxden.PermissionDenied):
        calm_pool.client(calm_pool.agent_token).submit(PROMPT)


def test_a_message_that_is_too_big_is_refused_and_the_broker_lives(calm_pool):
    channel = grpc.insecure_channel(parse(calm_pool.url).grpc_target)
    stub = gen_grpc.GenerationStub(channel)
    request = gen.SubmitRequest(request=gen.ImageRequest(prompt="x" * (limits.REQUEST_BYTES + 1)))
    with pytest.raises(grpc.RpcError) as caught:
        stub.Submit(request, metadata=[("authorization", f"Bearer {calm_pool.token}")])
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    channel.close()
    assert calm_pool.client().models()


def test_a_raw_client_hears_the_field_too(calm_pool):
    """What the SDK checks before sending, the broker checks as well."""
    channel = grpc.insecure_channel(parse(calm_pool.url).grpc_target)
    stub = gen_grpc.GenerationStub(channel)
    request = gen.SubmitRequest(
        request=gen.ImageRequest(prompt=PROMPT, guidance_scale=math.nan), count=10_000
    )
    with pytest.raises(grpc.RpcError) as caught:
        stub.Submit(request, metadata=[("authorization", f"Bearer {calm_pool.token}")])
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "guidance_scale" in caught.value.details()
    channel.close()


def test_one_key_with_two_requests_is_a_conflict_and_a_retry_is_the_same_job(calm_pool):
    client = calm_pool.client()
    first = client.submit(PROMPT, seed=1, idempotency_key="once")

    assert client.submit(PROMPT, seed=1, idempotency_key="once").id == first.id
    with pytest.raises(foxden.FoxdenError):
        client.submit(PROMPT, seed=2, idempotency_key="once")
    first.result(timeout=60)
