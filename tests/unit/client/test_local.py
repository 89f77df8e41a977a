"""Supervision: children that are ready, die, linger, or lose their parent."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from foxden import local
from foxden._child import Child, ChildFailed
from foxden.local import Endpoint, LocalPool, Restarts, Settings

WAITS = "import sys; print('{\"here\": 1}', flush=True); sys.stdin.read()"


@pytest.fixture
def child(tmp_path, monkeypatch):
    """Start a module made from a text; stopped when the test ends."""
    started: list[Child] = []

    def start(text: str, name: str = "broker") -> Child:
        (tmp_path / "played.py").write_text(textwrap.dedent(text))
        environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
        started.append(Child(name, ["played"], tmp_path / "logs" / "x.log", environment))
        return started[-1]

    yield start
    for one in started:
        one.stop(0)


def test_a_ready_child_is_heard_and_ends_when_its_input_closes(child):
    one = child(WAITS)
    assert one.ready(10) == {"here": 1}
    assert one.alive
    one.stop(5)
    assert not one.alive
    assert one._process.returncode == 0


def test_a_child_that_dies_early_is_told_by_its_last_line_and_its_code(child):
    one = child("import sys; print('noise', file=sys.stderr); sys.exit('port 7433 is in use')")
    with pytest.raises(ChildFailed, match=r"the broker stopped: port 7433 is in use"):
        one.ready(10)
    two = child("import sys; print('refused', file=sys.stderr); sys.exit(4)")
    with pytest.raises(ChildFailed) as caught:
        two.ready(10)
    assert caught.value.exit_code == 4


def test_the_last_line_is_of_this_start_and_not_of_one_before(child):
    with pytest.raises(ChildFailed, match="first"):
        child("import sys; sys.exit('first')").ready(10)
    with pytest.raises(ChildFailed, match="ended with code 3"):
        child("import os; os._exit(3)").ready(10)


def test_a_child_that_is_never_ready_is_told_after_the_time(child):
    with pytest.raises(ChildFailed, match="not ready"):
        child("import sys; print('just words', flush=True); sys.stdin.read()").ready(0.5)


def test_a_child_that_does_not_listen_is_killed_with_its_own_children(child, tmp_path):
    one = child(
        f"""
        import signal, subprocess, sys, time
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        inner = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
        open({str(tmp_path / "inner")!r}, "w").write(str(inner.pid))
        print('{{}}', flush=True)
        time.sleep(60)
        """
    )
    one.ready(10)
    inner = int((tmp_path / "inner").read_text())
    began = time.monotonic()
    one.stop(0.2)
    assert time.monotonic() - began < 5
    assert gone(inner)


def test_a_chatty_child_is_not_stopped_by_a_full_pipe(child):
    one = child(
        """
        import sys
        print('{}', flush=True)
        for _ in range(20_000): print('x' * 80)
        print('done', file=sys.stderr, flush=True)
        sys.exit(3)
        """
    )
    one.ready(10)
    assert "done" in one.failure().message


@pytest.mark.skipif(os.name != "posix", reason="kill -9")
def test_children_end_when_their_parent_is_killed(tmp_path):
    (tmp_path / "played.py").write_text(WAITS)
    program = f"""
import os
from pathlib import Path
from foxden._child import Child
one = Child("broker", ["played"], Path({str(tmp_path)!r}) / "x.log",
            {{**os.environ, "PYTHONPATH": {str(tmp_path)!r}}})
one.ready(10)
print(one._process.pid, flush=True)
one._process.wait()
"""
    parent = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    pid = int(parent.stdout.readline())
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    parent.stdout.close()
    assert gone(pid)


def gone(pid: int, seconds: float = 5) -> bool:
    """Whether a process ends in time. One whose new parent does not reap it counts as ended."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
            os.kill(pid, 0)
        except (FileNotFoundError, ProcessLookupError):
            return True
        time.sleep(0.02)
    return False


def test_restarts_wait_longer_each_time_and_give_up_at_five_in_a_minute():
    restarts = Restarts()
    assert [restarts.delay(float(at)) for at in range(5)] == [0.5, 1.0, 2.0, 4.0, None]
    late = Restarts()
    assert [late.delay(at) for at in (0.0, 61.0, 122.0)] == [0.5, 0.5, 0.5]


def test_the_agents_token_is_kept_and_made_anew_when_the_broker_forgot_it(broker, say, tmp_path):
    endpoint = Endpoint(broker.url, "http://127.0.0.1:1", say.TOKEN)
    assert local.agent_token(tmp_path, endpoint) == "fxd_new"
    assert local.agent_token(tmp_path, endpoint) == "fxd_new"
    assert [list(asked.scopes) for asked in broker.requests["CreateToken"]] == [["agent"]]
    file = tmp_path / "local-agent.json"
    assert file.stat().st_mode & 0o077 == 0
    file.write_text('{"id": "forgotten", "secret": "fxd_old"}')
    assert local.agent_token(tmp_path, endpoint) == "fxd_new"


def test_a_child_that_keeps_dying_ends_the_supervision_with_its_sentence(
    tmp_path, monkeypatch, child
):
    pool = LocalPool(Settings(tmp_path))
    starts = []

    def start_broker() -> Endpoint:
        starts.append(1)
        pool._broker = child("import sys; sys.exit('no disk')")
        pool._broker._process.wait()
        return Endpoint("foxden://127.0.0.1:1", "", "")

    monkeypatch.setattr(pool, "start_broker", start_broker)
    monkeypatch.setattr(local.time, "sleep", lambda seconds: None)
    with pytest.raises(ChildFailed, match=r"gave up after 5 restarts.*no disk"):
        pool.watch(start_broker(), lambda endpoint: None)
    assert len(starts) == 5
