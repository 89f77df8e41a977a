"""What an administrator does through the SDK and the command, against the far end."""

from __future__ import annotations

import json
import stat
import sys

import pytest

import foxden as sdk
from foxden import config
from foxden.cli import _output, main
from foxden.cli import cards as cards_command
from foxden_proto.problems import Problem, Reason
from foxden_proto.v1 import generation_pb2 as pb
from foxden_proto.v1 import pool_pb2


@pytest.fixture
def foxden(broker, say, capsys, monkeypatch):
    """Run the command with --json against the far end; returns (exit code, answer)."""
    monkeypatch.setattr(_output, "_RETRY_FOR", 0.5)
    monkeypatch.setattr(cards_command, "_LOOK_SECONDS", 0.01)
    config.write(None, broker.url, say.TOKEN)

    def run(*words: str) -> tuple[int, dict]:
        code = main.main([*words, "--json"])
        return code, json.loads(capsys.readouterr().out)

    return run


def test_retry_asks_by_id_and_tells_the_new_state(foxden, broker, say):
    broker.job.state = pb.JOB_STATE_FAILED
    code, told = foxden("jobs", "retry", say.JOB)
    assert (code, told["state"]) == (0, "queued")
    assert [request.job_id for request in broker.requests["Retry"]] == [say.JOB]


def test_job_handle_retries_itself(client, broker):
    broker.job.state = pb.JOB_STATE_FAILED
    job = client.get(broker.job.id)
    assert job.retry() is job
    assert job.state == "queued"


def test_attempts_have_card_outcome_reason_and_times(client, broker):
    attempts = [
        pb.Attempt(
            lease_no=1, card="a", outcome="fail", reason="no", started_ms=1000, ended_ms=2000
        ),
        pb.Attempt(lease_no=2, card="b", started_ms=3000),
    ]
    broker.job.tasks.add(index=0, attempts=attempts)
    first, second = client.get(broker.job.id).attempts
    assert (first.index, first.card, first.outcome, first.reason) == (0, "a", "fail", "no")
    assert (first.ended - first.started).total_seconds() == 1
    assert (second.outcome, second.ended) == ("", None)


@pytest.mark.parametrize(
    ("word", "standing"),
    [
        ("cordon", pool_pb2.STANDING_CORDONED),
        ("drain", pool_pb2.STANDING_DRAINING),
        ("uncordon", pool_pb2.STANDING_UNSPECIFIED),
    ],
)
def test_card_is_set_aside_by_name(foxden, broker, word, standing):
    code, told = foxden("cards", word, "kitchen")
    (request,) = broker.requests["SetCardStanding"]
    assert (request.card, request.standing) == ("kitchen", standing)
    assert (code, told["name"]) == (0, "kitchen")


def test_drain_waits_until_the_card_is_empty(foxden, broker):
    broker.running = [2, 2, 1, 0]
    code, told = foxden("cards", "drain", "kitchen", "--wait")
    assert (code, told["running"]) == (0, 0)
    assert len(broker.requests["ListCards"]) == 3


def test_drain_that_takes_too_long_fails_and_goes_on(foxden, broker):
    broker.running = [1] * 10_000
    code, told = foxden("cards", "drain", "kitchen", "--wait", "--timeout", "0.05")
    assert (code, told["error"]["type"]) == (1, "Timeout")


def test_card_is_forgotten(foxden, broker):
    assert foxden("cards", "forget", "kit") == (0, {"forgotten": "kitchen"})
    assert broker.requests["ForgetCard"][0].card == "kit"


def test_cards_without_a_word_lists_them(foxden):
    for words in (["cards"], ["cards", "list"]):
        code, told = foxden(*words)
        assert (code, told["cards"][0]["standing"]) == (0, "")


def test_quota_that_is_not_named_keeps_its_value(foxden, broker):
    code, told = foxden("quotas", "set", "ann", "--running", "3")
    assert (code, told) == (
        0,
        {"member": "ann", "most_queued": 7, "most_running": 3, "gpu_seconds_per_day": 60.0},
    )
    foxden("quotas", "set", "bob", "--queued", "0")
    assert broker.requests["SetQuota"][1].quota.most_queued == 0


def test_quotas_are_listed_with_what_is_used(foxden):
    _, told = foxden("quotas", "list")
    (ann,) = told["members"]
    assert (ann["queued"], ann["running"], ann["most_queued"]) == (2, 1, 7)
    assert told["queued_in_account"] == 2


def test_usage_asks_for_member_and_days(foxden, broker):
    code, told = foxden("usage", "--member", "ann", "--days", "7")
    assert told["usage"] == [
        {"member": "ann", "day": "2026-11-22", "images": 3, "gpu_seconds": 1.5}
    ]
    assert (code, broker.requests["Usage"][0].days) == (0, 7)
    code, told = foxden("usage", "--days", "0")
    assert (code, told["error"]["field"]) == (2, "days")


def test_value_that_the_wire_cannot_carry_is_refused_here(client):
    with pytest.raises(sdk.InvalidRequest):
        client.set_quota("ann", most_queued=2**80)
    with pytest.raises(sdk.InvalidRequest, match="cordoned"):
        client.set_card_standing("kitchen", "broken")


def test_backup_is_written_for_its_owner_alone(foxden, broker, tmp_path):
    out = tmp_path / "b.tar"
    code, told = foxden("backup", "--out", str(out), "--with-pictures")
    assert (code, told) == (0, {"path": str(out), "bytes": 13, "pictures": True})
    assert out.read_bytes() == b"one two three"
    assert broker.requests["Backup"][0].with_pictures
    if sys.platform != "win32":
        assert stat.S_IMODE(out.stat().st_mode) == 0o600


def test_backup_whose_stream_breaks_is_begun_again(client, broker, tmp_path):
    broker.breaks_backup = 1
    out = tmp_path / "b.tar"
    assert client.backup(out) == 13
    assert out.read_bytes() == b"one two three"


def test_backup_that_fails_leaves_the_earlier_file_and_nothing_else(foxden, broker, tmp_path):
    out = tmp_path / "b.tar"
    out.write_bytes(b"earlier")
    broker.failures["Backup"] = [Problem(Reason.PERMISSION_DENIED, "no", {"scope": "admin"})]
    code, _ = foxden("backup", "--out", str(out))
    assert (code, out.read_bytes()) == (4, b"earlier")
    assert list(tmp_path.glob("*.tar*")) == [out]


def test_backup_into_a_folder_that_is_not_there_is_refused(foxden, tmp_path):
    code, told = foxden("backup", "--out", str(tmp_path / "none" / "b.tar"))
    assert (code, told["error"]["field"]) == (2, "out")


def test_swept_pictures_raise_not_found_after_those_that_are_left(client, broker, say):
    gone = pb.TaskEnded(index=1, state=pb.TASK_STATE_DONE, reason="its picture is gone")
    broker.job.count = 2
    broker.scripts = [
        [say.picture(0), say.event(2, task_ended=gone), say.ended(3, pb.JOB_STATE_DONE)]
    ]
    seen = []
    with pytest.raises(sdk.NotFound, match="1 of the 2 pictures"):
        seen.extend(client.get(broker.job.id).pictures())
    broker.scripts = [
        [say.picture(0), say.event(2, task_ended=gone), say.ended(3, pb.JOB_STATE_DONE)]
    ]
    pictures = client.get(broker.job.id).pictures()
    assert next(pictures).index == 0
