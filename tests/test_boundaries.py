"""The house plan's rooms: who may import whom, read from the sources themselves."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = {
    "foxden": ROOT / "client_sdk/foxden",
    "foxden_proto": ROOT / "proto/foxden_proto",
    "foxden_broker": ROOT / "broker/foxden_broker",
    "foxden_agent": ROOT / "agent/foxden_agent",
}
MAY_IMPORT = {
    "foxden": {"foxden_proto"},
    "foxden_proto": set(),
    "foxden_broker": {"foxden_proto"},
    "foxden_agent": {"foxden_proto"},
}
ONLY_UNDER: dict[str, tuple[str, ...]] = {
    "torch": ("agent/foxden_agent/engine",),
    "diffusers": ("agent/foxden_agent/engine",),
    "transformers": ("agent/foxden_agent/engine",),
    "huggingface_hub": ("agent/foxden_agent/engine",),
    "sqlalchemy": ("broker/foxden_broker/store",),
    "alembic": ("broker/foxden_broker/store",),
    "keyring": ("agent/foxden_agent/joining",),
    "uvicorn": ("broker/foxden_broker", "agent/foxden_agent/page/server.py"),
    "starlette": ("broker/foxden_broker", "agent/foxden_agent/page/routes.py"),
    "pystray": ("agent/foxden_agent/tray/program.py",),
    "gi": ("agent/foxden_agent/tray/hosts.py",),
    "Xlib": ("agent/foxden_agent/tray",),
}
WATCHING = ROOT / "agent/foxden_agent/watching"
NOT_IN_THE_SDK = (
    "torch sqlalchemy starlette uvicorn websockets cryptography httpx keyring "
    "foxden_agent foxden_broker"
)


def imports(path: Path) -> Iterator[str]:
    """The top names of all modules that a file imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively: write the whole name"
            yield (node.module or "").split(".")[0]
        elif (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute | ast.Name)
            and ast.unparse(node.func).split(".")[-1] in ("import_module", "__import__")
            and node.args
            and isinstance(node.args[0], ast.Constant)
        ):
            yield str(node.args[0].value).split(".")[0]


IMPORTS = {
    path: set(imports(path)) for folder in PACKAGES.values() for path in folder.rglob("*.py")
}


def importers(module: str) -> set[Path]:
    return {path.relative_to(ROOT) for path, names in IMPORTS.items() if module in names}


def test_sources_were_found() -> None:
    for folder in PACKAGES.values():
        assert any(path.is_relative_to(folder) for path in IMPORTS)


@pytest.mark.parametrize("package", PACKAGES)
def test_package_imports_the_contract_and_no_other_room(package: str) -> None:
    forbidden = set(PACKAGES) - MAY_IMPORT[package] - {package}
    wrong = {
        str(path.relative_to(ROOT)): sorted(names & forbidden)
        for path, names in IMPORTS.items()
        if path.is_relative_to(PACKAGES[package]) and names & forbidden
    }
    assert not wrong


@pytest.mark.parametrize("module", ONLY_UNDER)
def test_heavy_library_is_imported_in_its_own_corner_alone(module: str) -> None:
    assert importers(module), "nobody imports it: is this test still about anything?"
    outside = {
        path
        for path in importers(module)
        if not any(path.is_relative_to(corner) for corner in ONLY_UNDER[module])
    }
    assert not outside


def test_cryptography_is_the_brokers_and_the_agents_for_its_keys_and_updates() -> None:
    rooms = ("broker/foxden_broker", "agent/foxden_agent/joining", "agent/foxden_agent/updating")
    for room in rooms:
        assert any(path.is_relative_to(room) for path in importers("cryptography"))
    outside = {p for p in importers("cryptography") if not any(map(p.is_relative_to, rooms))}
    assert not outside


def test_pynvml_is_imported_in_its_one_file_alone() -> None:
    assert importers("pynvml") == {Path("agent/foxden_agent/watching/nvml.py")}


def test_importing_the_watchers_loads_no_pynvml() -> None:
    modules = sorted(path.stem for path in WATCHING.glob("*.py") if path.stem != "__init__")
    assert "nvml" in modules
    loaded = loaded_after("\n".join(f"import foxden_agent.watching.{name}" for name in modules))
    assert "pynvml" not in loaded


def loaded_after(statement: str) -> set[str]:
    """The top names of the modules that a fresh interpreter has loaded after the statement."""
    program = f"{statement}\nimport sys\nprint(*{{name.split('.')[0] for name in sys.modules}})"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    return set(done.stdout.split())


def test_importing_the_sdk_loads_nothing_of_the_other_rooms() -> None:
    all_of_it = "import foxden\nfor name in foxden.__all__: getattr(foxden, name)"
    loaded = loaded_after(all_of_it)
    assert "foxden_proto" in loaded
    assert not loaded & set(NOT_IN_THE_SDK.split())


def test_importing_the_agent_loads_no_torch() -> None:
    loaded = loaded_after("import foxden_agent.app")
    assert not loaded & {
        "torch",
        "diffusers",
        "transformers",
        "huggingface_hub",
        "foxden",
        "foxden_broker",
    }
    assert not loaded & {"starlette", "uvicorn", "pystray", "PIL"}, "page and tray are optional"
