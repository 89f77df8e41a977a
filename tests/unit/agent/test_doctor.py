"""What the doctor makes of a machine's facts, and what it finds on this one."""

from __future__ import annotations

import argparse
import json
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from foxden_agent import identity
from foxden_agent.doctor import bundle, facts
from foxden_agent.doctor.command import COMMAND, shown
from foxden_agent.doctor.judging import (
    BrokerFacts,
    CardFacts,
    DiskFacts,
    DriverFacts,
    Facts,
    Finding,
    Level,
    TorchFacts,
    driver_suffices,
    judge,
    supports,
    worst,
)
from foxden_agent.joining.pools import Pool, keep
from foxden_proto.address import parse

GIB = 1024**3
RTX_4070 = CardFacts("RTX 4070", "8.9", 12 * GIB)
RTX_5090 = CardFacts("RTX 5090", "12.0", 32 * GIB)
CUDA_12 = ("sm_75", "sm_80", "sm_86", "sm_90")
WELL = Facts(
    torch=TorchFacts("", "2.13.0+cu128", "12.8", CUDA_12, 1, "0.42.1"),
    driver=DriverFacts(version="580.95.05", cards=(RTX_4070,)),
    disks=(DiskFacts("home folder", "/home/ann/.local/share/foxden", 100 * GIB),),
    memory_total=32 * GIB,
    swap_total=8 * GIB,
    models=2,
    largest_model=6 * GIB,
    brokers=(BrokerFacts("pool.example:7433", seconds=0.02, clock_off=0.4),),
    agent_runs=True,
)


def of(subject: str, given: Facts) -> list[Finding]:
    return [one for one in judge(given) if one.subject == subject]


def test_well_machine_has_nothing_to_do() -> None:
    findings = judge(WELL)
    assert worst(findings) is Level.GOOD
    assert not any(one.advice for one in findings)
    assert {one.subject for one in findings} == {
        *("card", "engine", "disk", "memory", "models", "broker", "clock", "agent")
    }


BROKEN = [
    (
        "no driver",
        "card",
        Level.ADVICE,
        replace(WELL, driver=DriverFacts(absent=True)),
        "processor",
    ),
    (
        "driver silent",
        "card",
        Level.PROBLEM,
        replace(WELL, driver=DriverFacts(error="Driver/library version mismatch")),
        "version mismatch",
    ),
    (
        "torch missing",
        "engine",
        Level.PROBLEM,
        replace(WELL, torch=TorchFacts(error="No module named 'torch'")),
        "No module named 'torch'",
    ),
    (
        "torch for the processor beside a card",
        "engine",
        Level.PROBLEM,
        replace(WELL, torch=TorchFacts(version="2.13.0+cpu")),
        "cannot use RTX 4070",
    ),
    (
        "driver too old for the torch build",
        "engine",
        Level.PROBLEM,
        replace(WELL, driver=DriverFacts(version="470.82.01", cards=(RTX_4070,))),
        "needs driver 525.60.13",
    ),
    (
        "card too new for the torch build",
        "engine",
        Level.PROBLEM,
        replace(WELL, driver=DriverFacts(version="580.95.05", cards=(RTX_5090,))),
        "no code for RTX 5090 (compute capability 12.0)",
    ),
    (
        "a card hidden from torch",
        "engine",
        Level.ADVICE,
        replace(WELL, driver=DriverFacts(version="580.95.05", cards=(RTX_4070, RTX_4070))),
        "1 of 2 cards",
    ),
    ("disk full", "disk", Level.PROBLEM, replace(WELL, disks=(DiskFacts("x", "/y", 1),)), "0.0"),
    (
        "disk smaller than the largest model",
        "disk",
        Level.ADVICE,
        replace(WELL, disks=(DiskFacts("model folder", "/y", 5 * GIB + 1),)),
        "5.0 GiB left",
    ),
    (
        "folder not writable",
        "disk",
        Level.PROBLEM,
        replace(WELL, disks=(DiskFacts("home folder", "/y", error="it may not be written"),)),
        "may not be written",
    ),
    ("little RAM", "memory", Level.ADVICE, replace(WELL, memory_total=8 * GIB), "loading it will"),
    (
        "small page file on Windows",
        "memory",
        Level.ADVICE,
        replace(WELL, system="Windows", memory_total=16 * GIB, swap_total=2 * GIB),
        "page file of 2 GiB",
    ),
    ("demo model alone", "models", Level.ADVICE, replace(WELL, models=0), "demo model"),
    (
        "a model left out",
        "models",
        Level.ADVICE,
        replace(WELL, left_out=("x is a pickle",)),
        "pickle",
    ),
    ("no broker named", "broker", Level.ADVICE, replace(WELL, brokers=()), "none was called"),
    (
        "broker away",
        "broker",
        Level.PROBLEM,
        replace(
            WELL, brokers=(BrokerFacts("b:1", errors=("the gRPC port b:1 cannot be reached",)),)
        ),
        "cannot be reached",
    ),
    (
        "another broker answers",
        "broker",
        Level.PROBLEM,
        replace(WELL, brokers=(BrokerFacts("b:1", wrong="its CA does not match the pin"),)),
        "does not match",
    ),
    (
        "slow network",
        "broker",
        Level.ADVICE,
        replace(WELL, brokers=(BrokerFacts("b:1", seconds=3.0),)),
        "3000 ms",
    ),
    (
        "clock an hour ahead",
        "clock",
        Level.PROBLEM,
        replace(WELL, brokers=(BrokerFacts("b:1", clock_off=3600.0),)),
        "3600 s ahead of",
    ),
    (
        "clock a minute behind",
        "clock",
        Level.ADVICE,
        replace(WELL, brokers=(BrokerFacts("b:1", clock_off=-60.0),)),
        "60 s behind",
    ),
]


@pytest.mark.parametrize(
    ("subject", "level", "given", "said"), [pytest.param(*row[1:], id=row[0]) for row in BROKEN]
)
def test_what_is_wrong_is_found_and_comes_with_advice(
    subject: str, level: Level, given: Facts, said: str
) -> None:
    worse = [one for one in of(subject, given) if one.level is not Level.GOOD]
    assert worse, judge(given)
    assert worse[0].level is level
    assert said in worse[0].found
    assert worse[0].advice or "pin" in worse[0].found
    assert said in shown(judge(given))


@pytest.mark.parametrize(
    ("architectures", "capability", "fits"),
    [
        (("sm_80", "sm_86"), "8.9", True),  # the same major, an earlier minor
        (("sm_89",), "8.6", False),  # a later minor
        (("sm_80", "sm_90"), "12.0", False),
        (("sm_80", "compute_90"), "12.0", True),  # PTX is compiled for what comes later
        (("sm_120",), "12.0", True),
        (("sm_90a",), "9.0", True),
        (("gfx1100",), "8.9", False),
    ],
)
def test_torch_build_runs_on_card(
    architectures: tuple[str, ...], capability: str, fits: bool
) -> None:
    assert supports(architectures, capability) is fits


def test_driver_is_judged_by_the_generation_of_cuda() -> None:
    assert driver_suffices("525.60.13", "12.8", "Linux")
    assert not driver_suffices("520.61.05", "12.8", "Linux")
    assert not driver_suffices("527.41", "12.8", "Windows")
    assert not driver_suffices("575.57.08", "13.0", "Linux")
    assert driver_suffices("1.0", "99.0", "Linux")  # nobody knows that one yet


def test_torch_of_this_installation_is_found_in_a_process_of_its_own(tmp_path: Path) -> None:
    import sys

    before = set(sys.modules)
    found = facts.torch_facts(tmp_path)
    assert not found.error
    assert found.version.startswith("2.")
    assert found.diffusers
    assert not {"torch", "diffusers"} & (set(sys.modules) - before)


def test_torch_that_cannot_be_imported_is_a_finding(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "torch.py").write_text("raise ImportError('libcudart.so.12: cannot open')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert "libcudart.so.12" in facts.torch_facts(tmp_path).error
    (tmp_path / "torch.py").write_text("import os; os._exit(139)")
    assert "139" in facts.torch_facts(tmp_path).error


def test_pickle_in_the_model_folder_is_told_with_the_reason(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "old.ckpt").write_bytes(b"x")
    count, largest, left_out = facts.model_facts(tmp_path, tmp_path / "models")
    assert (count, largest) == (0, 0)
    assert len(left_out) == 1
    assert "old.ckpt" in left_out[0]
    assert "pickle" in left_out[0]


def test_broker_that_is_away_is_told_for_both_doors() -> None:
    found = facts.broker_facts(parse("foxden://127.0.0.1:1?http=2".replace("?http=2", "")))
    assert len(found.errors) == 2
    assert all("127.0.0.1" in error for error in found.errors)
    assert not any("urlopen" in error for error in found.errors)


def test_running_agent_is_seen_by_its_lock(tmp_path: Path) -> None:
    assert not facts.agent_runs(tmp_path)
    with identity.only_one(tmp_path / "agent"):
        assert facts.agent_runs(tmp_path)
    assert not facts.agent_runs(tmp_path)


def test_bundle_has_findings_and_logs_but_no_token_and_no_user_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    user = tmp_path / "ann-the-user"
    home = user / "foxden"
    monkeypatch.setattr(Path, "home", lambda: user)
    (home / "logs").mkdir(parents=True)
    (home / "agent").mkdir()
    (home / "logs" / "agent.log").write_text("x" * (bundle.LOG_BYTES + 5) + "\nthe last line")
    said = f"no {home}/models; token fxd_abc_DEF.ghi-1 refused; fxj_main_abc_SECRET"
    link = "foxden://pool.example:7433/join/pin=0f/main-abcd-JOINSECRET-check"
    (home / "logs" / "agent.err").write_text(f"{said}; {link}, twice: '{link}'")
    (home / "agent" / "policy.json").write_text('{"hot": 83}')
    (home / "agent" / "key").write_text("a private key")
    given = replace(WELL, disks=(DiskFacts("home folder", str(home), 5),))
    names = bundle.write(tmp_path / "b.zip", home, given, judge(given))
    with zipfile.ZipFile(tmp_path / "b.zip") as archive:
        texts = {name: archive.read(name).decode() for name in archive.namelist()}
    assert (
        set(names)
        == set(texts)
        == {
            *("findings.json", "facts.json", "versions.json", "policy.json"),
            *("logs/agent.log", "logs/agent.err"),
        }
    )
    everything = "\n".join(texts.values())
    assert "ann-the-user" not in everything
    assert "abc_DEF" not in everything
    assert "SECRET" not in everything
    assert "pool.example" in everything
    assert "a private key" not in everything
    assert texts["logs/agent.log"].endswith("the last line")
    assert len(texts["logs/agent.log"]) <= bundle.LOG_BYTES
    assert json.loads(texts["findings.json"])[0]["level"] == "good"
    assert json.loads(texts["versions.json"])["diffusers"]


def test_bundle_that_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    home = tmp_path / "home"
    (home / "logs").mkdir(parents=True)
    (home / "logs" / "agent.log").symlink_to(tmp_path / "gone")  # is_file() is False
    (home / "agent").mkdir()
    target = tmp_path / "no-folder" / "b.zip"
    with pytest.raises(OSError, match="No such file"):
        bundle.write(target, home, WELL, judge(WELL))
    assert not list(tmp_path.glob("**/*.part"))


def test_pc_that_has_joined_x_the_brokers_of_its_pools_are_called(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("FOXDEN_URL", raising=False)
    monkeypatch.setattr(facts, "torch_facts", lambda home: TorchFacts())
    (tmp_path / "agent").mkdir()
    keep(tmp_path / "agent", Pool("a", "ann", "foxden://127.0.0.1:1", "id", "k", "file", "", 1))
    parser = argparse.ArgumentParser()
    COMMAND.configure(parser)
    arguments = parser.parse_args([], argparse.Namespace(home=tmp_path, json=False))
    assert COMMAND.run(arguments) == 1
    assert "127.0.0.1:1" in capsys.readouterr().out
