"""Versions beside one another: what is laid there, what is remembered, what goes."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import tarfile
import time
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import releases
import tiny_disk

from foxden_agent import identity
from foxden_agent.updating import fetching, rounds, versions
from foxden_agent.updating.deciding import Fetch, Nothing, Start
from foxden_agent.updating.fetching import FetchFailed
from foxden_agent.updating.manifest import BadRelease
from foxden_agent.updating.rounds import Source
from foxden_agent.updating.trial import Trial, Tried
from foxden_agent.updating.versions import BadArchive, Known, Versions


@pytest.fixture
def installed(tmp_path: Path) -> Versions:
    """Foxden 0.1.0, installed for one user."""
    root = tmp_path / "program"
    releases.program(root / "versions/0.1.0", "0.1.0")
    here = Versions(root)
    here.switch("0.1.0")
    return here


def look(
    source: Source,
    here: Versions,
    tmp_path: Path,
    *,
    now: float | None = None,
    asked: bool = False,
    only_look: bool = False,
    go_on: Callable[[], None] = lambda: None,
) -> Start | Fetch | Nothing:
    return rounds.look(
        *(source, here, tmp_path / "home", "agent-1", now or time.time()),
        pause=3600.0,
        asked=asked,
        only_look=only_look,
        go_on=go_on,
    )


def lying(here: Versions) -> list[str]:
    return sorted(one.name for one in here.folder.iterdir() if one.is_dir())


def archive_of(server: Path) -> Path:
    return next(server.glob("*.tar.xz"))


def test_release_is_made_ready_and_then_named(installed: Versions, tmp_path: Path) -> None:
    source = releases.release(tmp_path / "server", "0.2.0")
    assert isinstance(look(source, installed, tmp_path, only_look=True), Fetch)
    assert lying(installed) == ["0.1.0"]
    assert look(source, installed, tmp_path) == Start("0.2.0")
    assert lying(installed) == ["0.1.0", "0.2.0"]
    assert installed.current() == "0.1.0"
    assert installed.known().ready == "0.2.0"
    assert not list(installed.downloads.iterdir())


def test_person_and_service_do_not_unpack_at_once(installed: Versions, tmp_path: Path) -> None:
    source = releases.release(tmp_path / "server", "0.2.0")
    held = identity.locked(installed.lock("fetching"), AssertionError("free before"))
    with held, pytest.raises(FetchFailed, match="being fetched already"):
        look(source, installed, tmp_path)
    assert lying(installed) == ["0.1.0"]
    assert look(source, installed, tmp_path) == Start("0.2.0")


def test_what_a_person_asked_for_is_remembered_for_the_service(
    installed: Versions, tmp_path: Path
) -> None:
    source = releases.release(tmp_path / "server", "0.2.0", share=0.0)
    assert isinstance(look(source, installed, tmp_path), Nothing)
    assert look(source, installed, tmp_path, asked=True) == Start("0.2.0")
    assert look(source, installed, tmp_path) == Start("0.2.0")


def test_old_description_shown_again_changes_nothing(installed: Versions, tmp_path: Path) -> None:
    source = releases.release(tmp_path / "server", "0.2.0")
    old = (tmp_path / "server/release.json").read_bytes()
    releases.release(tmp_path / "server", "0.3.0")
    look(source, installed, tmp_path)
    (tmp_path / "server/release.json").write_bytes(old)
    for asked in (False, True):
        found = look(source, installed, tmp_path, asked=asked)
        assert "old description" in getattr(found, "reason", "")


def test_description_of_a_stranger_is_refused(installed: Versions, tmp_path: Path) -> None:
    source = releases.release(tmp_path / "server", "0.2.0")
    stranger = releases.release(tmp_path / "other", "0.2.0")
    with pytest.raises(BadRelease, match=r"not Foxden's\. Nothing was changed"):
        look(Source(source.url, stranger.root), installed, tmp_path)
    assert installed.known() == Known()


def test_old_program_lays_no_version_anew_that_others_run_from(
    installed: Versions, tmp_path: Path
) -> None:
    """`foxden update` by the path of a version that was current once."""
    source = releases.release(tmp_path / "server", "0.2.0")
    look(source, installed, tmp_path)
    installed.switch("0.2.0")
    installed.change(lambda known: known.proved(Trial("0.2.0", "0.1.0"), ""))
    assert "0.2.0 is the newest" in getattr(look(source, installed, tmp_path), "reason", "")
    installed.switch("0.1.0")
    installed.change(lambda known: replace(known, trial=Trial("0.2.0", "0.1.0")))
    found = look(source, installed, tmp_path, asked=True)
    assert "on trial" in getattr(found, "reason", "")


def test_program_that_says_another_version_is_not_laid_beside(
    installed: Versions, tmp_path: Path
) -> None:
    releases.release(tmp_path / "server", "0.2.0")
    with pytest.raises(BadArchive, match=r"does not say it is 9\.9\.9"):
        installed.unpack(archive_of(tmp_path / "server"), "9.9.9")
    assert lying(installed) == ["0.1.0"]


def packed(path: Path, *members: tarfile.TarInfo | tuple[str, bytes]) -> Path:
    with tarfile.open(path, "w:xz") as archive:
        for one in members:
            info = one if isinstance(one, tarfile.TarInfo) else tarfile.TarInfo(one[0])
            data = b"" if isinstance(one, tarfile.TarInfo) else one[1]
            if data:
                info.size, info.mode = len(data), 0o755
            archive.addfile(info, io.BytesIO(data) if data else None)
    return path


def linked(name: str, to: str, kind: bytes = tarfile.SYMTYPE) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, to
    return info


def special(kind: bytes) -> tarfile.TarInfo:
    info = tarfile.TarInfo("foxden/special")
    info.type, info.devmajor, info.devminor = kind, 1, 3
    return info


PROGRAM = ("foxden/foxden", b"#!/bin/sh\necho 0.2.0\n")


@pytest.mark.parametrize(
    "member",
    [
        ("../outside", b"x"),
        ("foxden/../../../outside", b"x"),
        linked("foxden/link", "../../../outside"),
        linked("foxden/link", "/etc"),
        linked("foxden/hard", "/etc/passwd", tarfile.LNKTYPE),
        linked("foxden/hard", "../../outside", tarfile.LNKTYPE),
        special(tarfile.CHRTYPE),
        special(tarfile.BLKTYPE),
        special(tarfile.FIFOTYPE),
    ],
    ids=lambda member: member.name if isinstance(member, tarfile.TarInfo) else member[0],
)
def test_archive_that_reaches_outside_or_makes_devices_is_refused(
    installed: Versions, tmp_path: Path, member: tarfile.TarInfo | tuple[str, bytes]
) -> None:
    (tmp_path / "program/outside").write_text("mine")
    archive = packed(tmp_path / "a.tar.xz", PROGRAM, member, ("foxden/link/x", b"theirs"))
    with pytest.raises(BadArchive, match="cannot be unpacked"):
        installed.unpack(archive, "0.2.0")
    assert lying(installed) == ["0.1.0"]
    assert (tmp_path / "program/outside").read_text() == "mine"


def test_zip_that_reaches_outside_writes_within(installed: Versions, tmp_path: Path) -> None:
    archive = tmp_path / "a.zip"
    with zipfile.ZipFile(archive, "w") as made:
        made.writestr("../../outside", "x")
    with pytest.raises(BadArchive, match="not in a folder of its own"):
        installed.unpack(archive, "0.2.0")
    assert not list(tmp_path.rglob("outside"))


def test_folder_that_is_a_link_is_no_program(installed: Versions, tmp_path: Path) -> None:
    archive = packed(tmp_path / "a.tar.xz", linked("foxden", "."), ("real", b"x"))
    with pytest.raises(BadArchive, match="not in a folder of its own"):
        installed.unpack(archive, "0.2.0")
    assert lying(installed) == ["0.1.0"]


@pytest.mark.parametrize("ending", ["tar.xz", "zip"])
def test_archive_without_end_is_refused(
    installed: Versions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ending: str
) -> None:
    monkeypatch.setattr(versions, "_MOST_MORE", 10**6)
    archive = tmp_path / f"a.{ending}"
    much = bytes(20 * 10**6)
    if ending == "zip":
        with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as made:
            made.writestr("foxden/zeros", much)
    else:
        packed(archive, ("foxden/zeros", much))
    assert archive.stat().st_size < 10**5
    with pytest.raises(BadArchive, match="unpacks to more"):
        installed.unpack(archive, "0.2.0")
    assert lying(installed) == ["0.1.0"]


@pytest.mark.parametrize("keep", [0.0, 0.1, 0.5, 0.8])
def test_archive_cut_short_is_refused_and_leaves_nothing(
    installed: Versions, tmp_path: Path, keep: float
) -> None:
    releases.release(tmp_path / "server", "0.2.0")
    archive = archive_of(tmp_path / "server")
    whole = archive.read_bytes()
    archive.write_bytes(whole[: int(len(whole) * keep)])
    with pytest.raises(BadArchive):
        installed.unpack(archive, "0.2.0")
    assert lying(installed) == ["0.1.0"]


def test_program_for_another_processor_is_not_fetched_again_and_again(
    installed: Versions, tmp_path: Path
) -> None:
    """Named wrongly on the server: its signature is right, and it starts here never."""
    source = releases.release(tmp_path / "server", "0.2.0")
    elf = b"\x7fELF\x02\x01\x01" + bytes(9) + b"\x02\x00" + b"\xf3\x00" + bytes(44)
    packed(archive_of(tmp_path / "server"), ("foxden/foxden", elf))
    releases.signed_again(tmp_path / "server", "0.2.0")
    now = time.time()
    for hours in (0, 2, 8):
        with pytest.raises(BadArchive, match=r"does not start on this PC .*later each time"):
            look(source, installed, tmp_path, now=now + hours * 3600)
        found = look(source, installed, tmp_path, now=now + hours * 3600 + 60)
        assert isinstance(found, Nothing)
    assert "not tried again" in found.reason
    assert lying(installed) == ["0.1.0"]
    assert not list(installed.downloads.iterdir())


class OwnerCameError(Exception):
    pass


def test_owner_who_comes_while_it_is_unpacked_leaves_the_archive_and_nothing_else(
    installed: Versions, tmp_path: Path
) -> None:
    source = releases.release(tmp_path / "server", "0.2.0")
    asked: list[int] = []

    def go_on() -> None:
        asked.append(1)
        if (installed.folder / ".new-0.2.0").exists():
            raise OwnerCameError

    with pytest.raises(OwnerCameError):
        look(source, installed, tmp_path, go_on=go_on)
    assert lying(installed) == ["0.1.0"]
    archive_of(tmp_path / "server").unlink()  # it is not needed any more
    assert look(source, installed, tmp_path) == Start("0.2.0")


def test_nothing_is_fetched_while_the_owner_is_here(installed: Versions, tmp_path: Path) -> None:
    def go_on() -> None:
        raise OwnerCameError

    source = releases.release(tmp_path / "server", "0.2.0")
    with pytest.raises(OwnerCameError):
        look(source, installed, tmp_path, go_on=go_on)
    assert not installed.downloads.exists()


def test_engine_that_cannot_be_made_does_not_cost_a_second_download(
    installed: Versions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = releases.release(tmp_path / "server", "0.2.0", "echo no torch >&2; exit 1")
    monkeypatch.setattr(
        rounds.EngineInstaller, "status", lambda self: rounds_status(python="/usr/bin/python3")
    )
    with pytest.raises(FetchFailed, match="engine could not be installed: no torch"):
        look(source, installed, tmp_path)
    assert installed.known().ready == ""
    archive_of(tmp_path / "server").unlink()
    with pytest.raises(FetchFailed, match="engine could not be installed: no torch"):
        look(source, installed, tmp_path)


def rounds_status(python: str) -> object:
    from foxden_agent.installing.environment import Status

    return Status(python=python, build="cpu")


def test_disk_that_fills_up_while_it_is_unpacked_is_said_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetching, "_RESERVE", -(10**9))
    source = releases.release(tmp_path / "server", "0.2.0")
    much = os.urandom(4096) * 500  # 2 MB, and 5 KB packed
    packed(archive_of(tmp_path / "server"), PROGRAM, ("foxden/much", much))
    releases.signed_again(tmp_path / "server", "0.2.0")
    with tiny_disk.tiny_disk(tmp_path / "disk", "1m") as disk:
        releases.program(disk / "program/versions/0.1.0", "0.1.0")
        here = Versions(disk / "program")
        here.switch("0.1.0")
        with pytest.raises(FetchFailed, match=r"could not be unpacked \(No space left.*make space"):
            look(source, here, tmp_path)
        assert lying(here) == ["0.1.0"]
        assert here.known().of("0.2.0") == Tried("0.2.0")  # that was not its fault


_MAKE_READY = """
import sys, time
from pathlib import Path
from foxden_agent.updating import rounds
from foxden_agent.updating.versions import Versions
folder = Path(sys.argv[1])
source = rounds.Source(sys.argv[2], bytes.fromhex(sys.argv[3]))
left = int(sys.argv[4])
def trace(frame, event, argument):
    global left
    where = frame.f_code.co_filename
    if "foxden_agent/updating" not in where and not where.endswith("shutil.py"):
        return None
    if event == "line":
        left -= 1
        if left == 0:
            import os, signal
            os.kill(os.getpid(), signal.SIGKILL)
    return trace
sys.settrace(trace)
rounds.look(source, Versions(folder / "program"), folder / "home", "agent-1", time.time())
sys.settrace(None)
print("ready")
"""


@pytest.mark.parametrize("part", range(4))
def test_look_that_is_killed_at_any_line_is_gone_on_with(
    installed: Versions, tmp_path: Path, part: int
) -> None:
    """kill -9 after every 13th line, with and without a version of that name: what lies under it is
    whole, and the next look makes it ready."""
    source = releases.release(tmp_path / "server", "0.2.0")
    before = installed.folder / "0.1.0"
    for lines in range(1 + 13 * part, 10_000, 4 * 13):
        words = [sys.executable, "-c", _MAKE_READY, str(tmp_path), source.url, source.root.hex()]
        done = subprocess.run([*words, str(lines)], capture_output=True, text=True, check=False)
        assert done.returncode in (0, -signal.SIGKILL), done.stderr
        if (installed.folder / "0.2.0").exists():
            said = subprocess.run(
                [installed.program("0.2.0"), "--version"], capture_output=True, text=True
            )
            assert said.stdout == "0.2.0\n"
        assert look(source, installed, tmp_path) == Start("0.2.0")
        assert lying(installed) == ["0.1.0", "0.2.0"]
        assert before.exists()
        if done.returncode == 0:
            return
        again = ["updates.json", "updates", *(["versions/0.2.0"] if lines % 2 else [])]
        subprocess.run(["rm", "-r", *again], cwd=installed.root, check=True)
    raise AssertionError("it never came to its end")


def test_removal_of_an_older_try_that_is_broken_off_leaves_no_half_version(
    installed: Versions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def half(folder: Path, ignore_errors: bool = False) -> None:
        if (folder / "foxden").is_file():
            (folder / "foxden").unlink()
            raise KeyboardInterrupt

    releases.release(tmp_path / "server", "0.2.0")
    installed.unpack(archive_of(tmp_path / "server"), "0.2.0")
    with monkeypatch.context() as patch:
        patch.setattr(versions.shutil, "rmtree", half)
        with pytest.raises(KeyboardInterrupt):
            installed.unpack(archive_of(tmp_path / "server"), "0.2.0")
    assert installed.program("0.2.0").exists()
    installed.unpack(archive_of(tmp_path / "server"), "0.2.0")
    assert lying(installed) == ["0.1.0", "0.2.0"]


_COUNT = """
import sys
from dataclasses import replace
from pathlib import Path
from foxden_agent.updating.versions import Versions
here = Versions(Path(sys.argv[1]))
for _ in range(50):
    here.change(lambda known: replace(known, serial=known.serial + 1))
"""


def test_two_that_write_at_once_undo_nothing_of_each_other(installed: Versions) -> None:
    words = [sys.executable, "-c", _COUNT, str(installed.root)]
    both = [subprocess.Popen(words) for _ in range(2)]
    assert [one.wait() for one in both] == [0, 0]
    assert installed.known().serial == 100


def test_all_that_is_remembered_comes_back(installed: Versions) -> None:
    known = Known(
        7,
        (Tried("0.3.0", 2, 1, 3.5, 1), Tried("0.4.0", 1)),
        *("0.4.0", "0.3.0", Trial("0.2.0", "0.1.0", 2), "0.0.9", "a word"),
    )
    installed.change(lambda _: known)
    assert Versions(installed.root).known() == known


def test_proved_version_ends_what_was_held_against_older_ones(installed: Versions) -> None:
    tried = (Tried("0.2.0", 1), Tried("0.1.5", 3, 3), Tried("0.3.0", 1))
    known = Known(tried=tried, ready="0.2.0", asked="0.2.0", trial=Trial("0.2.0", "0.1.0"))
    found = known.proved(Trial("0.2.0", "0.1.0"), "well")
    assert found == Known(tried=(Tried("0.3.0", 1),), before="0.1.0", said="well")


@pytest.mark.parametrize("text", ["{", "[]", "null", '{"serial": 1}', '{"serial": []}'])
def test_damaged_memory_is_no_memory(installed: Versions, text: str) -> None:
    (installed.root / "updates.json").write_text(text)
    assert installed.known() == Known()
    assert installed.change(lambda known: replace(known, serial=3)).serial == 3


def test_memory_that_cannot_be_read_is_not_written_over(installed: Versions) -> None:
    (installed.root / "updates.json").mkdir()
    assert installed.known() == Known()
    with pytest.raises(OSError, match="directory"):
        installed.change(lambda known: known)


def test_what_nobody_needs_is_removed_and_what_a_person_laid_there_is_not(
    installed: Versions, tmp_path: Path
) -> None:
    for name in ("0.0.8", "0.0.9", "0.2.0", "0.3.0"):
        releases.program(installed.folder / name, name)
    (installed.folder / ".new-0.4.0").mkdir()
    rounds.tidy(installed, tmp_path / "home", lambda: None)
    assert lying(installed) == [".new-0.4.0", "0.0.8", "0.0.9", "0.1.0", "0.2.0", "0.3.0"]
    known = Known(before="0.0.9", ready="0.3.0", trial=Trial("0.2.0", "0.1.0"))
    installed.change(lambda _: known)
    with identity.locked(installed.lock("fetching"), AssertionError("free before")):
        rounds.tidy(installed, tmp_path / "home", lambda: None)  # another time
    assert "0.0.8" in lying(installed)
    rounds.tidy(installed, tmp_path / "home", lambda: None)
    assert lying(installed) == ["0.0.9", "0.1.0", "0.2.0", "0.3.0"]


def test_removal_waits_for_the_owner_too(installed: Versions, tmp_path: Path) -> None:
    def go_on() -> None:
        raise OwnerCameError

    rounds.tidy(installed, tmp_path / "home", go_on)  # nothing to do, nobody is asked
    releases.program(installed.folder / "0.0.8", "0.0.8")
    installed.change(lambda _: Known(before="0.0.9"))
    with pytest.raises(OwnerCameError):
        rounds.tidy(installed, tmp_path / "home", go_on)
    assert "0.0.8" in lying(installed)


def test_link_is_replaced_in_one_step(installed: Versions) -> None:
    releases.program(installed.root / "versions/0.2.0", "0.2.0")
    installed.switch("0.2.0")
    assert installed.current() == "0.2.0"
    assert (installed.root / "current").readlink() == Path("versions/0.2.0")
