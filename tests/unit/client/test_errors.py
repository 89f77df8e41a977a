"""Each failure on the wire is one error of the tree, with its facts."""

from __future__ import annotations

import pickle

import pytest

import foxden
from foxden._translate import from_problem
from foxden_proto.problems import Problem, Reason

TABLE = {
    Reason.INVALID_REQUEST: (
        {"field": "steps", "allowed": "1 to 150"},
        foxden.InvalidRequest,
        {"field": "steps", "allowed": "1 to 150"},
    ),
    Reason.UNKNOWN_MODEL: (
        {"name": "demmo", "near": "demo,demo-xl"},
        foxden.UnknownModel,
        {"name": "demmo", "near": ("demo", "demo-xl")},
    ),
    Reason.NOT_FOUND: ({}, foxden.NotFound, {}),
    Reason.UNAUTHORIZED: ({}, foxden.Unauthorized, {}),
    Reason.PERMISSION_DENIED: ({"scope": "admin"}, foxden.PermissionDenied, {"scope": "admin"}),
    Reason.QUOTA_EXCEEDED: ({"retry_after": "2.5"}, foxden.QuotaExceeded, {"retry_after": 2.5}),
    Reason.NO_CARD_CAN_RUN: (
        {"reasons": "kitchen: too small\noffice: no such sampler"},
        foxden.NoCardCanRun,
        {"reasons": ("kitchen: too small", "office: no such sampler")},
    ),
    Reason.IDEMPOTENCY_CONFLICT: (
        {},
        foxden.InvalidRequest,
        {"field": "idempotency_key", "allowed": "a key that no other request used"},
    ),
    Reason.STORAGE_FULL: ({}, foxden.Unavailable, {}),
    Reason.UNAVAILABLE: ({}, foxden.Unavailable, {}),
    Reason.INTERNAL: ({}, foxden.FoxdenError, {}),
}


@pytest.mark.parametrize("reason", Reason)
def test_every_reason_becomes_its_error_with_its_facts(reason):
    facts, kind, expected = TABLE[reason]
    error = from_problem(Problem(reason, "What happened. Do this.", facts))
    assert type(error) is kind
    assert str(error) == "What happened. Do this."
    assert error.facts() == expected


@pytest.mark.parametrize("reason", [one for one in Reason if one is not Reason.UNAVAILABLE])
def test_every_reason_survives_the_wire(broker, client, reason):
    facts, kind, expected = TABLE[reason]
    broker.failures["Get"] = [Problem(reason, "What happened. Do this.", facts)]
    with pytest.raises(kind) as caught:
        client.get("job-1")
    assert caught.value.facts() == expected


@pytest.mark.parametrize(
    ("code", "details", "kind"),
    [
        ("UNAUTHENTICATED", "", foxden.Unauthorized),
        ("PERMISSION_DENIED", "", foxden.PermissionDenied),
        ("UNIMPLEMENTED", "", foxden.FoxdenError),
        ("INTERNAL", "a bug", foxden.FoxdenError),
        (
            "RESOURCE_EXHAUSTED",
            "CLIENT: Sent message larger than max (300000 vs. 262144)",
            foxden.InvalidRequest,
        ),
        ("UNAVAILABLE", "x509: certificate verify failed", foxden.Unavailable),
    ],
)
def test_a_bare_status_becomes_its_error(broker, client, say, code, details, kind):
    import grpc

    broker.failures["Get"] = [say.Drop(grpc.StatusCode[code], details)]
    with pytest.raises(foxden.FoxdenError) as caught:
        client.get("job-1")
    assert type(caught.value) is kind
    assert len(broker.requests["Get"]) == 1


def test_errors_survive_pickling():
    error = foxden.UnknownModel("There is no model x.", name="x", near=["y"])
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), str(again), again.facts()) == (type(error), str(error), error.facts())


def test_a_broker_that_is_not_there_is_unavailable_after_retry_for():
    with (
        foxden.Client("foxden://127.0.0.1:1", "fxd_x", retry_for=0.3) as client,
        pytest.raises(foxden.Unavailable, match=r"127\.0\.0\.1:1 cannot be reached"),
    ):
        client.cards()
