"""What the installed program does differently from a checkout."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from foxden_agent.installing.environment import EngineMissing, engine_python
from foxden_agent.installing.shell import clean_environment, program_folder, shell_file
from foxden_agent.updating.rounds import Source
from foxden_agent.updating.versions import Versions


@pytest.fixture
def bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """This process, as a bundle in a folder of versions sees itself."""
    folder = tmp_path / "program/versions/0.1.0"
    (folder / "_internal").mkdir(parents=True)
    (folder / "foxden").touch()
    monkeypatch.setattr(sys, "frozen", True, raising=False)
    monkeypatch.setattr(sys, "_MEIPASS", str(folder / "_internal"), raising=False)
    monkeypatch.setattr(sys, "executable", str(folder / "foxden"))
    return folder


def test_engine_gets_the_systems_libraries_and_not_the_bundles(bundle: Path) -> None:
    given = {
        "LD_LIBRARY_PATH": "/bundle",
        "LD_LIBRARY_PATH_ORIG": "/mine",
        "PYTHONPATH": "/x",
        "PYTHONHOME": "/y",
        "_PYI_ARCHIVE_FILE": "z",
        "HOME": "/home/ann",
    }
    assert clean_environment(given) == {"LD_LIBRARY_PATH": "/mine", "HOME": "/home/ann"}
    assert clean_environment({"LD_LIBRARY_PATH": "/bundle"}) == {}


def test_checkout_changes_nothing_for_its_children() -> None:
    given = {"LD_LIBRARY_PATH": "/mine", "PYTHONPATH": "/x"}
    assert clean_environment(given) == given


def test_bundle_has_no_python_of_its_own_for_an_engine(bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(EngineMissing):
        engine_python(tmp_path / "home")


def test_bundle_knows_where_it_lies(bundle: Path) -> None:
    assert program_folder() == bundle
    assert shell_file("uv") is None
    (bundle / "_internal/uv").touch()
    assert shell_file("uv") == bundle / "_internal/uv"


def test_only_a_folder_of_versions_is_updated_by_us(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = Versions.of_this_program()
    assert found is not None
    assert found.root == bundle.parents[1]
    monkeypatch.setattr(sys, "executable", "/usr/lib/foxden/foxden")
    assert Versions.of_this_program() is None


def test_bundle_without_key_or_address_takes_no_updates(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("FOXDEN_UPDATE_URL", raising=False)
    inside = bundle / "_internal"
    (inside / "update_root_key.pub").write_text("# none yet\n")
    assert not Source.of_this_program("https://example.org/release.json").on
    (inside / "update_root_key.pub").write_text("# the key\n" + "ab" * 32 + "\n")
    assert not Source.of_this_program().on
    assert Source.of_this_program("https://example.org/release.json").on
    assert not Source.of_this_program("off").on
    with pytest.raises(ValueError, match="https"):
        Source.of_this_program("http://example.org/release.json")
