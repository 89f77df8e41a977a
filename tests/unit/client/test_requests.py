"""Submitting: what is sent, what is refused before it is sent, and what is sent again."""

from __future__ import annotations

import dataclasses
import io

import grpc
import pytest
from PIL import Image

import foxden
from foxden import _requests
from foxden_proto.problems import Problem, Reason
from foxden_proto.v1 import generation_pb2 as pb


def test_everything_asked_for_arrives(broker, client, say):
    job = client.submit(
        "a fox",
        negative_prompt="text",
        count=3,
        steps=25,
        sampler="DPM++ 2M",
        schedule="karras",
        guidance_scale=6.5,
        width=512,
        height=256,
        seed=7,
        model="demo",
        priority="bulk",
        deadline=600,
        idempotency_key="mine",
    )
    assert broker.requests["Submit"] == [
        pb.SubmitRequest(
            request=pb.ImageRequest(
                model="demo",
                prompt="a fox",
                negative_prompt="text",
                steps=25,
                sampler="DPM++ 2M",
                schedule="karras",
                guidance_scale=6.5,
                width=512,
                height=256,
                seed=7,
            ),
            count=3,
            priority=pb.PRIORITY_BULK,
            deadline=600,
            idempotency_key="mine",
        )
    ]
    assert (job.id, job.count, job.info.seed) == (say.JOB, 3, 7)
    assert broker.tokens_seen == {f"Bearer {say.TOKEN}"}


def test_what_is_not_asked_for_is_absent(broker, client):
    client.submit("a fox")
    sent = broker.requests["Submit"][0].request
    for field in ("steps", "guidance_scale", "width", "height", "seed"):
        assert not sent.HasField(field)


def test_a_submit_repeated_after_unavailable_keeps_its_key(broker, client, say):
    broker.failures["Submit"] = [say.Drop(), say.Drop()]
    client.submit("a fox")
    keys = [request.idempotency_key for request in broker.requests["Submit"]]
    assert len(keys) == 3
    assert len(set(keys)) == 1
    client.submit("a fox")
    assert broker.requests["Submit"][-1].idempotency_key != keys[0]


@pytest.mark.parametrize(
    "failure",
    [
        Problem(Reason.QUOTA_EXCEEDED, "Too much at once.", {"retry_after": "3"}),
        Problem(Reason.INTERNAL, "A bug."),
    ],
)
def test_a_failure_that_would_repeat_is_not_repeated(broker, client, failure):
    broker.failures["Submit"] = [failure]
    with pytest.raises(foxden.FoxdenError):
        client.submit("a fox")
    assert len(broker.requests["Submit"]) == 1


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("prompt", 7),
        ("prompt", None),
        ("prompt", "half a \ud800 character"),
        ("prompt", "x" * 1_000_000),
        ("negative_prompt", b"bytes"),
        ("negative_prompt", "x" * 10_001),
        ("count", None),
        ("count", True),
        ("count", "2"),
        ("steps", 2.5),
        ("width", "abc"),
        ("height", 2**63),
        ("seed", -(2**63) - 1),
        ("guidance_scale", float("nan")),
        ("guidance_scale", "7"),
        ("deadline", float("inf")),
        ("timeout", "soon"),
        ("timeout", float("nan")),
        ("priority", "urgent"),
        ("model", 3),
        ("sampler", "x" * 1_000_000),
    ],
)
def test_what_cannot_travel_is_refused_by_name_before_it_is_sent(broker, client, field, value):
    arguments = {"prompt": "a fox", field: value}
    with pytest.raises(foxden.InvalidRequest) as caught:
        client.submit(**arguments)
    assert caught.value.field == field
    assert caught.value.allowed
    assert len(caught.value.message) < 200
    assert "Submit" not in broker.requests


def test_numbers_out_of_range_are_the_brokers_to_refuse():
    sent = _requests.build("", count=-1, steps=0, width=7, guidance_scale=-2.0, seed=2**62)
    assert (sent.count, sent.request.steps, sent.request.seed) == (-1, 0, 2**62)


def test_the_options_named_for_the_type_checker_are_those_of_build():
    assert set(_requests.Options.__annotations__) == set(_requests.build.__kwdefaults__)


def test_an_upload_of_a_file_travels_as_it_is(broker, client, tmp_path, say):
    path = tmp_path / "photo.png"
    path.write_bytes(say.png(1) * 900)  # several chunks; what follows a PNG's end is ignored
    assert client.upload(path) == f"upload-{path.stat().st_size}"
    assert broker.requests["Upload"][0].media_type == "image/png"


def test_an_upload_of_an_image_or_an_unusual_format_travels_as_png(broker, client):
    image = Image.new("RGB", (8, 8))
    stream = io.BytesIO()
    image.save(stream, "BMP")
    client.upload(image)
    client.upload(stream.getvalue())
    assert [header.media_type for header in broker.requests["Upload"]] == ["image/png"] * 2


@pytest.mark.parametrize("photo", [b"no picture", "/no/such/file.png", 7])
def test_an_upload_of_no_picture_is_refused(client, photo):
    with pytest.raises(foxden.InvalidRequest) as caught:
        client.upload(photo)
    assert caught.value.field == "photo"


def test_an_upload_on_a_broken_connection_begins_again(broker, client, say):
    broker.failures["Upload"] = [say.Drop(grpc.StatusCode.UNAVAILABLE)]
    assert client.upload(say.png(1)).startswith("upload-")
    assert len(broker.requests["Upload"]) == 2


def test_the_pool_is_told_as_frozen_records(client):
    (card,) = client.cards()
    assert (card.name, card.mode, card.online, card.temperature) == (
        "kitchen",
        "gaming",
        True,
        None,
    )
    (model,) = client.models()
    assert (model.name, model.cards) == ("demo", 1)
    with pytest.raises(dataclasses.FrozenInstanceError):
        card.name = "other"
    assert client.jobs(state="queued")[0].state == "queued"
    with pytest.raises(foxden.InvalidRequest):
        client.jobs(state="lost")
