"""The command: exit codes, JSON, and what reaches the broker."""

from __future__ import annotations

import io
import json
import stat
from importlib.metadata import EntryPoint

import pytest

from foxden import config
from foxden.cli import _output, main
from foxden_proto.problems import Problem, Reason
from foxden_proto.v1 import generation_pb2 as pb

DONE = pb.JOB_STATE_DONE


@pytest.fixture
def foxden(broker, say, capsys, monkeypatch):
    """Run the command against the far end; returns (exit code, stdout, stderr)."""
    monkeypatch.setattr(_output, "_RETRY_FOR", 0.5)
    config.write(None, broker.url, say.TOKEN)

    def run(*words: str) -> tuple[int, str, str]:
        code = main.main(words)
        return code, *capsys.readouterr()

    return run


def test_generate_saves_each_picture_and_prints_its_path(foxden, broker, say, tmp_path):
    broker.scripts = [[say.picture(1, 1), say.picture(0, 2), say.ended(3, DONE)]]
    out = tmp_path / "deep" / "pictures"
    code, text, _ = foxden("generate", "a fox", "--count", "2", "--steps", "3", "--out", str(out))
    assert code == 0
    assert set(text.split()) == {str(out / "job-1-0-7.png"), str(out / "job-1-1-8.png")}
    assert (out / "job-1-0-7.png").read_bytes() == say.png(7)
    assert broker.requests["Submit"][0].request.steps == 3


def test_generate_answers_with_one_object_in_json(foxden, broker, say, tmp_path):
    broker.scripts = [[say.picture(0, 1), say.ended(2, DONE)]]
    code, text, _ = foxden("generate", "a fox", "--out", str(tmp_path), "--json")
    answer = json.loads(text)
    assert (code, answer["job_id"]) == (0, say.JOB)
    assert answer["pictures"][0]["path"] == str(tmp_path / "job-1-0-7.png")


def test_generate_keeps_what_was_finished_of_a_job_that_failed(foxden, broker, say, tmp_path):
    broker.job.tasks.add(index=0, state=pb.TASK_STATE_DONE, picture=say.told(0))
    broker.job.tasks.add(index=1, state=pb.TASK_STATE_FAILED)
    broker.scripts = [[say.picture(0, 1), say.ended(2, pb.JOB_STATE_PARTIAL, "why")]]
    code, text, error = foxden(
        "generate", "a fox", "--count", "2", "--out", str(tmp_path), "--json"
    )
    answer = json.loads(text)
    assert code == 1
    assert answer["error"]["type"] == "JobFailed"
    assert answer["error"]["reason"] == "why"
    assert [picture["index"] for picture in answer["pictures"]] == [0]
    assert error.startswith("foxden: job job-1 failed")


@pytest.mark.parametrize(
    ("reason", "facts", "code", "kind"),
    [
        (Reason.INVALID_REQUEST, {"field": "steps", "allowed": "1 to 150"}, 2, "InvalidRequest"),
        (Reason.UNKNOWN_MODEL, {"name": "x", "near": "y"}, 2, "UnknownModel"),
        (Reason.NOT_FOUND, {}, 2, "NotFound"),
        (Reason.UNAUTHORIZED, {}, 4, "Unauthorized"),
        (Reason.PERMISSION_DENIED, {"scope": "generate"}, 4, "PermissionDenied"),
        (Reason.QUOTA_EXCEEDED, {"retry_after": "3"}, 1, "QuotaExceeded"),
        (Reason.UNAVAILABLE, {}, 3, "Unavailable"),
        (Reason.INTERNAL, {}, 1, "FoxdenError"),
    ],
)
def test_an_error_is_one_sentence_an_exit_code_and_an_object(
    foxden, broker, reason, facts, code, kind
):
    broker.failures["List"] = [Problem(reason, "What happened. Do this.", facts)] * 20
    found, text, error = foxden("jobs", "list", "--json")
    assert found == code
    assert error == "foxden: What happened. Do this.\n"
    assert json.loads(text)["error"]["type"] == kind
    assert json.loads(text)["error"].keys() >= {"message"} | (facts.keys() - {"near"})


def test_an_unreachable_broker_is_exit_code_3(foxden, monkeypatch):
    monkeypatch.setenv("FOXDEN_URL", "foxden://127.0.0.1:1")
    code, _, error = foxden("cards")
    assert code == 3
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["paint"],
        ["generate"],
        ["generate", "a fox", "--count", "two"],
        ["generate", "a fox", "--guidance-scale", "nan"],
        ["generate", "a fox", "--priority", "urgent"],
        ["generate", "a fox", "--deadline", "soon"],
        ["jobs"],
        ["tokens", "create", "--member", "me", "--scopes", "everything"],
        ["up", "--grpc-port", "70000"],
        ["cards", "--home"],
    ],
)
def test_a_wrong_call_is_exit_code_2_and_sends_nothing(foxden, broker, words):
    code, _, error = foxden(*words)
    assert code == 2
    assert "Traceback" not in error
    assert not broker.requests


def test_a_wrong_call_is_told_in_json_too(foxden):
    code, text, _ = foxden("--json", "generate")
    assert (code, json.loads(text)["error"]["type"]) == (2, "WrongCall")


def test_nothing_configured_is_exit_code_2(foxden, tmp_path):
    code, _, error = foxden("cards", "--home", str(tmp_path / "empty"))
    assert code == 2
    assert "foxden up" in error


@pytest.mark.parametrize(
    "words",
    [["--json", "jobs", "list"], ["jobs", "--json", "list"], ["jobs", "list", "--json"]],
)
def test_common_options_are_taken_at_every_place(foxden, words):
    code, text, _ = foxden(*words)
    assert (code, json.loads(text)["jobs"][0]["id"]) == (0, "job-1")


def test_a_prompt_that_looks_like_an_option_comes_after_two_dashes(foxden, broker, say, tmp_path):
    broker.scripts = [[say.ended(1, DONE)]]
    foxden("generate", "--out", str(tmp_path), "--", "--json")
    assert broker.requests["Submit"][0].request.prompt == "--json"


def test_ctrl_c_is_exit_code_130(foxden, monkeypatch):
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("foxden.sync.Client.cards", interrupted)
    assert foxden("cards")[0] == 130


def test_a_folder_that_cannot_be_written_is_one_sentence(foxden, tmp_path):
    (tmp_path / "file").touch()
    code, _, error = foxden("generate", "a fox", "--out", str(tmp_path / "file" / "deep"))
    assert code == 1
    assert str(tmp_path / "file") in error


def test_jobs_are_listed_shown_and_cancelled_without_their_prompts(foxden, broker):
    broker.job.request.prompt = "a secret fox"
    task = broker.job.tasks.add(index=0, state=pb.TASK_STATE_QUEUED, reason="waits for a card")
    task.attempts.add(card="kitchen", outcome="release", reason="the owner plays")
    for words in (("jobs", "list"), ("jobs", "show", "job-1"), ("jobs", "list", "--json")):
        code, text, _ = foxden(*words)
        assert code == 0
        assert "job-1" in text
        assert "secret" not in text
    assert "release on kitchen: the owner plays" in foxden("jobs", "show", "job-1")[1]
    assert foxden("jobs", "cancel", "job-1")[1] == "job-1: cancelled\n"


def test_cards_and_models_are_tables_or_objects(foxden):
    assert "gaming" in foxden("cards")[1]
    assert json.loads(foxden("cards", "--json")[1])["cards"][0]["name"] == "kitchen"
    assert "demo" in foxden("models", "list")[1]
    assert json.loads(foxden("models", "list", "--json")[1])["models"][0]["name"] == "demo"


def test_tokens_are_made_listed_and_revoked(foxden, broker):
    words = ("tokens", "create", "--member", "ann", "--scopes", "generate,admin", "--expires")
    code, text, _ = foxden(*words, "30d")
    assert (code, text) == (0, "fxd_new\n")
    asked = broker.requests["CreateToken"][0]
    assert (asked.member, list(asked.scopes), asked.expires_in) == (
        "ann",
        ["generate", "admin"],
        30 * 86_400,
    )
    assert json.loads(foxden(*words, "30d", "--json")[1])["secret"] == "fxd_new"
    assert "t1" in foxden("tokens", "list")[1]
    assert foxden("tokens", "revoke", "t1")[0] == 0


def test_login_tries_the_token_before_it_is_remembered(foxden, broker, tmp_path, monkeypatch):
    home = tmp_path / "new"
    monkeypatch.setattr("sys.stdin", io.StringIO("fxd_piped\n"))
    code, text, _ = foxden("login", broker.url, "--home", str(home), "--json")
    file = home / "client.json"
    assert (code, json.loads(text)["path"]) == (0, str(file))
    assert json.loads(file.read_text()) == {"url": broker.url, "token": "fxd_piped"}
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert "Bearer fxd_piped" in broker.tokens_seen


def test_login_with_a_refused_token_remembers_nothing(foxden, broker, tmp_path):
    broker.failures["ListCards"] = [Problem(Reason.UNAUTHORIZED, "No. Ask for another.")]
    code, *_ = foxden("login", broker.url, "--token", "fxd_x", "--home", str(tmp_path / "new"))
    assert code == 4
    assert not (tmp_path / "new").exists()


def plugin(monkeypatch, value: str) -> None:
    point = EntryPoint("broker", value, "foxden.commands")
    monkeypatch.setattr(main, "entry_points", lambda group: [point])


def test_a_plugin_is_loaded_when_it_is_called_and_not_for_help(foxden, monkeypatch, capsys):
    plugin(monkeypatch, "no_such_module:COMMAND")
    with pytest.raises(SystemExit):
        main.main(["--help"])
    assert "broker" in capsys.readouterr().out
    code, _, error = foxden("broker")
    assert code == 2
    assert "pip install 'foxden[broker]'" in error


def test_a_plugin_gets_its_arguments_and_the_common_ones(foxden, monkeypatch, tmp_path):
    class Command:
        def configure(self, parser) -> None:
            parser.add_argument("--port", type=int)

        def run(self, args) -> int:
            assert (args.port, args.home, args.json) == (1, str(tmp_path), True)
            return 7

    monkeypatch.setattr(EntryPoint, "load", lambda self: Command())
    plugin(monkeypatch, "anything:COMMAND")
    assert foxden("--home", str(tmp_path), "broker", "--port", "1", "--json")[0] == 7
