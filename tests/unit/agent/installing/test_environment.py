"""The engine's environment, made by the real uv from tiny wheels: whole, or not there at all."""

from __future__ import annotations

import datetime as dt
import json
import os
import signal
import ssl
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import pytest
import tiny_disk
import tiny_wheels

from foxden_agent import identity
from foxden_agent.installing import environment, uv_run
from foxden_agent.installing.environment import (
    EngineInstaller,
    EngineMissing,
    InstallPlan,
    Progress,
    engine_python,
)
from foxden_agent.installing.torch_builds import Machine
from foxden_agent.installing.uv_run import InstallFailed
from foxden_broker import tls


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


@pytest.fixture
def wheels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of wheels that stands for every index, and the engine's own wheel."""
    own, lock = tiny_wheels.all_of_it(tmp_path / "made")
    monkeypatch.setattr(environment, "LOCK", lock)
    monkeypatch.setenv("FOXDEN_ENGINE", "installed")
    return own


def installer(home: Path, own: Path, **variables: str) -> EngineInstaller:
    plain = {k: v for k, v in os.environ.items() if not k.startswith(("UV_", "PIP_"))}
    given = {"UV_FIND_LINKS": str(own.parents[1] / "wheels"), "UV_NO_INDEX": "1", **variables}
    environ = {k: v for k, v in {**plain, **given}.items() if v}
    return EngineInstaller(
        home, wheel=own, machine=lambda: Machine("Linux", "x86_64"), environ=environ
    )


def online(home: Path, own: Path, index: str, **variables: str) -> EngineInstaller:
    """One that asks an index, and does not try again."""
    given = {"UV_NO_INDEX": "", "UV_FIND_LINKS": "", "UV_HTTP_RETRIES": "0"}
    return installer(home, own, **given, UV_DEFAULT_INDEX=index, **variables)


def planned(one: EngineInstaller) -> InstallPlan:
    plan = one.plan()
    assert isinstance(plan, InstallPlan)
    return plan


def test_nothing_installed_means_an_error_that_names_the_command(home: Path, wheels: Path) -> None:
    with pytest.raises(EngineMissing, match="foxden engine install"):
        engine_python(home)
    assert not installer(home, wheels).status().python


def test_checkout_uses_its_own_python(home: Path) -> None:
    assert engine_python(home) == Path(sys.executable)


def test_installed_engine_is_found_and_described(home: Path, wheels: Path) -> None:
    told: list[Progress] = []
    one = installer(home, wheels)
    status = one.install(planned(one), told.append)
    assert (status.torch, status.diffusers, status.build) == ("2.13.0+cpu", "0.42.1", "cpu")
    assert engine_python(home) == Path(status.python)
    assert [p.done for p in told] == sorted(p.done for p in told)
    assert [p.step for p in told] == sorted(p.step for p in told)
    assert told[-1].done == told[-1].total
    inside = subprocess.run([status.python, "-c", "import torch"], check=False)
    assert inside.returncode == 0
    assert {f.name for f in (home / "engines").iterdir()} - {"python"} == {
        "0.1.0-cpu",
        "cache",
        "lock",
    }


def test_removing_leaves_nothing(home: Path, wheels: Path) -> None:
    one = installer(home, wheels)
    one.install(planned(one))
    assert one.remove() > 0
    assert not (home / "engines").exists()


def test_file_with_another_hash_is_refused_and_the_old_engine_stays(
    home: Path, wheels: Path
) -> None:
    one = installer(home, wheels)
    before = one.install(planned(one)).python
    tampered = tiny_wheels.wheel(
        wheels.parents[1] / "wheels", "diffusers", "0.42.1", {"diffusers.py": "raise SystemExit"}
    )
    assert tampered.exists()
    again = installer(home, wheels, UV_CACHE_DIR=str(home / "other-cache"))
    with pytest.raises(InstallFailed, match="not the one that Foxden was built with"):
        again.install(planned(again))
    assert engine_python(home) == Path(before)
    assert not list((home / "engines").glob("*.new-*"))


def test_torch_that_does_not_load_is_no_engine(home: Path, wheels: Path) -> None:
    tiny_wheels.all_of_it(wheels.parents[1], torch="raise ImportError('libcudart.so.13')")
    one = installer(home, wheels)
    with pytest.raises(InstallFailed, match=r"libcudart\.so\.13.*still used"):
        one.install(planned(one))
    with pytest.raises(EngineMissing):
        engine_python(home)


def test_torch_of_another_kind_than_planned_is_refused(home: Path, wheels: Path) -> None:
    tiny_wheels.all_of_it(
        wheels.parents[1], torch=tiny_wheels.TORCH.replace("cuda = None", "cuda = '13.0'")
    )
    one = installer(home, wheels)
    with pytest.raises(InstallFailed, match="UV_INDEX"):
        one.install(planned(one))


def test_second_installation_waits_for_the_first(home: Path, wheels: Path) -> None:
    one = installer(home, wheels)
    (home / "engines").mkdir(parents=True)
    held = identity.locked(home / "engines/lock", AssertionError("free before"))
    with held, pytest.raises(InstallFailed, match="Another installation"):
        one.install(planned(one))
    assert one.install(planned(one)).python


KILLED = """
import sys, time
sys.path[:0] = {path!r}
from pathlib import Path
from foxden_agent.installing import environment
import test_environment
environment.LOCK = Path({lock!r})
one = test_environment.installer(Path({home!r}), Path({own!r}))
def tell(progress):
    if progress.step == 3:
        print("half-way", flush=True)
        time.sleep(60)
one.install(test_environment.planned(one), tell)
"""


def test_killed_half_way_leaves_no_engine_and_the_next_call_makes_one(
    home: Path, wheels: Path
) -> None:
    program = KILLED.format(
        path=[str(Path(__file__).parent), str(Path(tiny_wheels.__file__).parent)],
        lock=str(environment.LOCK),
        home=str(home),
        own=str(wheels),
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        assert child.stdout.readline().strip() == b"half-way"
        child.send_signal(signal.SIGKILL)
    assert list((home / "engines").glob("*.new-*"))
    with pytest.raises(EngineMissing):
        engine_python(home)
    one = installer(home, wheels)
    assert one.install(planned(one)).python
    assert not list((home / "engines").glob("*.new-*"))


def test_progress_that_raises_ends_the_installation(home: Path, wheels: Path) -> None:
    def stop(progress: Progress) -> None:
        if progress.step == 2:
            raise KeyboardInterrupt

    one = installer(home, wheels)
    with pytest.raises(KeyboardInterrupt):
        one.install(planned(one), stop)
    assert not list((home / "engines").glob("*.new-*"))


def test_full_disk_is_said_before_anything_is_downloaded(
    home: Path, wheels: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(environment, "_free", lambda folder: 10**8)
    one = installer(home, wheels)
    with pytest.raises(InstallFailed, match=r"needs 1\.\d GB .* 0\.1 GB are free"):
        one.install(planned(one))
    assert not list((home / "engines").glob("*.new-*"))


def test_disk_that_fills_up_half_way_is_said_and_space_is_enough_to_go_on(
    tmp_path: Path, wheels: Path
) -> None:
    with tiny_disk.tiny_disk(tmp_path / "disk", "3m") as disk:
        one = installer(disk, wheels)
        plan = replace(planned(one), disk=0, free=10**9)
        fillers: list[Path] = []

        def fill(progress: Progress) -> None:
            if progress.step == 2 and not fillers:
                fillers.append(tiny_disk.fill(disk))

        with pytest.raises(InstallFailed, match="disk is full"):
            one.install(plan, fill)
        fillers[0].unlink()
        assert one.install(plan).python


def test_no_index_in_reach_is_a_plain_sentence(home: Path, wheels: Path) -> None:
    one = online(
        home,
        wheels,
        "http://127.0.0.1:9/simple",
    )
    with pytest.raises(InstallFailed, match="cannot be reached") as caught:
        one.install(planned(one))
    assert caught.value.again
    assert "not fetched twice" in caught.value.advice


class Refusing(BaseHTTPRequestHandler):
    def do_CONNECT(self) -> None:
        self.send_error(407, "Proxy Authentication Required")

    def do_GET(self) -> None:
        self.do_CONNECT()

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextmanager
def serving(server: HTTPServer) -> Iterator[int]:
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def test_proxy_that_wants_a_password_is_named(home: Path, wheels: Path) -> None:
    with serving(HTTPServer(("127.0.0.1", 0), Refusing)) as port:
        proxy = f"http://127.0.0.1:{port}"
        one = online(
            home,
            wheels,
            "https://packages.example/simple",
            **dict.fromkeys(("HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "ALL_PROXY"), proxy),
        )
        with pytest.raises(InstallFailed, match="proxy") as caught:
            one.install(planned(one))
    assert "HTTPS_PROXY" in caught.value.advice


def test_network_that_looks_into_tls_is_named_with_the_way_on(
    home: Path, wheels: Path, tmp_path: Path
) -> None:
    made = tls.own_certificate(tmp_path / "ca", dt.datetime.now(dt.UTC))
    server = HTTPServer(("127.0.0.1", 0), Refusing)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(made.certificate, made.key)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    with serving(server) as port:
        one = online(
            home,
            wheels,
            f"https://127.0.0.1:{port}/simple",
        )
        with pytest.raises(InstallFailed, match="certificate is not trusted") as caught:
            one.install(planned(one))
    assert "SSL_CERT_FILE" in caught.value.advice


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ("error: failed to write: No space left on device (os error 28)", "disk is full"),
        ("error: There is not enough space (os error 112)", "disk is full"),
        ("  cause: operation timed out", "cannot be reached"),
        ("error: /home/ann-407/proxy/x: Connection refused (os error 111)", "cannot be reached"),
        ("error: No interpreter found for Python >=3.11", "No Python 3.11"),
        ("  cause: Permission denied (os error 13)", "could not be written"),
        ("  × No solution found when resolving dependencies:", "no build of a package"),
        ("error: something new", "something new"),
    ],
)
def test_what_uv_says_becomes_a_sentence_and_a_way_on(line: str, what: str) -> None:
    error = uv_run.failure(["Resolved 2 packages", line], 2)
    assert what in error.what
    assert error.advice


def test_pips_settings_count_where_uv_has_none_of_its_own(tmp_path: Path) -> None:
    given = {
        "PIP_FIND_LINKS": "/a /b",
        "PIP_INDEX_URL": "https://mirror.example/simple",
        "PIP_CERT": "/ca.pem",
        "SSL_CERT_FILE": "/mine.pem",
        "VIRTUAL_ENV": "/somewhere",
    }
    found = uv_run.environment(tmp_path, given)
    assert found["UV_FIND_LINKS"] == "/a,/b"
    assert found["UV_DEFAULT_INDEX"] == "https://mirror.example/simple"
    assert found["SSL_CERT_FILE"] == "/mine.pem"
    assert found["UV_SYSTEM_CERTS"] == "1"
    assert "VIRTUAL_ENV" not in found
    assert found["UV_CACHE_DIR"].startswith(str(tmp_path))


def test_folder_of_wheels_is_looked_into(tmp_path: Path) -> None:
    (tmp_path / "torch-2.13.0+cpu-cp311-cp311-linux_x86_64.whl").touch()
    assert uv_run.has_wheel(f"https://x.example/,{tmp_path}", "torch-2.13.0+cpu-")
    assert not uv_run.has_wheel(str(tmp_path), "torch-2.13.0+cu126-")
    assert not uv_run.has_wheel("", "torch-")


def test_environments_of_other_versions_go_and_those_named_stay(home: Path, wheels: Path) -> None:
    one = installer(home, wheels)
    one.install(planned(one))
    for version in ("0.0.8", "0.0.9"):
        other = home / "engines" / f"{version}-cpu"
        other.mkdir()
        (other / "engine.json").write_text(json.dumps({"version": version}))
    one.keep_only({"0.0.9", "0.1.0"})
    assert {f.name for f in (home / "engines").glob("*-cpu")} == {"0.0.9-cpu", "0.1.0-cpu"}


def test_plan_tells_sizes_without_a_network(home: Path) -> None:
    one = EngineInstaller(home, machine=lambda: Machine("Linux", "x86_64"))
    plan = planned(one)
    assert 2e8 < plan.download < 5e8
    assert plan.fits == (plan.free > plan.disk + 3e8)
    assert not replace(plan, free=10**9).fits
