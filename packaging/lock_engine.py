"""Write down which files the engine's environment is made of, each with its sha256.

    python packaging/lock_engine.py [--check]

Asks PyPI through uv for what `foxden[engine]` needs on every system, at the versions of
constraints.txt, and writes into agent/foxden_agent/installing/lock:

    engine.txt   the packages that are the same with every build of torch
    torch.txt    PyPI's torch, and on Linux the CUDA libraries that this torch alone needs
    sizes.json   what of them a system downloads, in bytes (for Python 3.12)

Wheels alone are listed: nothing is ever built, or run, while it is installed. The builds of torch
that PyPI does not have are not locked here: see packaging/README.md. `--check` writes nothing and
says whether the lock still names the versions of constraints.txt.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
LOCK = ROOT / "agent/foxden_agent/installing/lock"
PYTHONS = ("cp311", "cp312", "cp313", "cp314")
# What `torch` needs on Linux beside what everybody needs; other builds need others, or none.
WITH_TORCH = re.compile(r"torch|triton|(nvidia|cuda)-.*")
SYSTEMS = {
    "Linux x86_64": ("linux", r"manylinux.*_x86_64"),
    "Linux aarch64": ("linux", r"manylinux.*_aarch64"),
    "Windows x86_64": ("win32", r"win_amd64"),
    "Darwin arm64": ("darwin", r"macosx_.*_(arm64|universal2)"),
}
Package = dict[str, Any]


def main() -> int:
    if sys.argv[1:] == ["--check"]:
        return check()
    packages = [one for one in resolve() if "wheels" in one and usable(one)]
    parts: dict[str, list[Package]] = {"engine.txt": [], "torch.txt": []}
    for package in packages:
        torch = WITH_TORCH.fullmatch(package["name"])
        parts["torch.txt" if torch else "engine.txt"].append(package)
    LOCK.mkdir(exist_ok=True)
    for name, inside in parts.items():
        lines = ["# Written by packaging/lock_engine.py: wheels of PyPI, and their hashes."]
        lines += [requirement(package) for package in inside]
        (LOCK / name).write_text("\n".join(lines) + "\n")
    sizes = {
        system: {name: size(inside, system) for name, inside in parts.items()} for system in SYSTEMS
    }
    (LOCK / "sizes.json").write_text(json.dumps(sizes, indent=1) + "\n")
    for system, told in sizes.items():
        print(system, {name: f"{bytes_ / 1e6:.0f} MB" for name, bytes_ in told.items()})
    return 0


def resolve() -> list[Package]:
    """Every package for every system, as uv resolves it from PyPI alone."""
    import uv

    without = {name: value for name, value in os.environ.items() if not name.endswith("FIND_LINKS")}
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "pylock.toml"
        words = ["pip", "compile", "pyproject.toml", "--extra", "engine", "-c", "constraints.txt"]
        words += ["--universal", "--python-version", "3.11", "--format", "pylock.toml"]
        words += ["--no-config", "-q", "-o", str(out)]
        subprocess.run([uv.find_uv_bin(), *words], cwd=ROOT, env=without, check=True)
        found: list[Package] = tomllib.loads(out.read_text())["packages"]
    return found


def wheels(package: Package) -> list[Package]:
    """Those for systems and Pythons that Foxden runs on."""
    return [one for one in package["wheels"] if any(fits(one, system) for system in SYSTEMS)]


def fits(wheel: Package, system: str, pythons: tuple[str, ...] = PYTHONS) -> bool:
    python, abi, platform = wheel["url"].rpartition("/")[2].removesuffix(".whl").split("-")[-3:]
    if not (platform == "any" or re.search(SYSTEMS[system][1], platform)):
        return False
    if abi == "abi3":
        return int(re.findall(r"cp3(\d+)", python)[0]) <= 11
    return abi in pythons or (abi == "none" and ("py3" in python or python in pythons))


def usable(package: Package) -> bool:
    """Whether one of our systems needs it: some are for a browser's Python alone."""
    return bool(wheels(package)) and "== 'emscripten'" not in package.get("marker", "")


def requirement(package: Package) -> str:
    """A line of a requirements file with all hashes that are allowed."""
    marker = package.get("marker", "")
    marker = re.sub(r"^python_full_version >= '3.11'( and )?", "", marker)
    head = f"{package['name']}=={package['version']}" + (f" ; {marker}" if marker else "")
    hashes = sorted(one["hashes"]["sha256"] for one in wheels(package))
    return " \\\n    ".join([head, *(f"--hash=sha256:{one}" for one in hashes)])


def size(packages: list[Package], system: str) -> int:
    """Bytes that Python 3.12 on this system downloads."""
    total = 0
    for package in packages:
        marker = package.get("marker", "")
        platforms = re.findall(r"sys_platform == '(\w+)'", marker)
        if platforms and SYSTEMS[system][0] not in platforms:
            continue
        if "python_full_version == '3.11.*'" in marker:
            continue
        fitting = [one["size"] for one in package["wheels"] if fits(one, system, ("cp312",))]
        total += max(fitting, default=0)
    return total


def check() -> int:
    """0 where every version that both name is the same in constraints.txt and in the lock."""
    pinned = dict(re.findall(r"^([\w.-]+)==(\S+)$", (ROOT / "constraints.txt").read_text(), re.M))
    text = (LOCK / "engine.txt").read_text() + (LOCK / "torch.txt").read_text()
    locked = re.findall(r"^([\w.-]+)==(\S+)", text, re.M)
    wrong = [(n, v, pinned[n]) for n, v in locked if n in pinned and pinned[n] != v]
    for name, in_lock, in_constraints in wrong:
        print(f"{name}: the lock has {in_lock}, constraints.txt {in_constraints}")
    if wrong:
        print("Run python packaging/lock_engine.py and look at what changes.")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
