"""Wheels of a few hundred bytes, with which the real uv makes a whole engine environment."""

from __future__ import annotations

import hashlib
import zipfile
from importlib.metadata import version
from pathlib import Path

from foxden_agent.engine import probe

TORCH = """
__version__ = "{version}"
class version: cuda = None
class cuda:
    get_arch_list = staticmethod(list)
    is_available = staticmethod(lambda: False)
"""


def wheel(folder: Path, name: str, of: str, files: dict[str, str]) -> Path:
    """A pure wheel with these files."""
    path = folder / f"{name}-{of}-py3-none-any.whl"
    info = f"{name}-{of}.dist-info"
    about = {
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {of}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\n"
        "Tag: py3-none-any\n",
    }
    whole = {**files, **about}
    rows = [f"{one},," for one in (*whole, f"{info}/RECORD")]
    with zipfile.ZipFile(path, "w") as archive:
        for one, text in whole.items():
            archive.writestr(one, text)
        archive.writestr(f"{info}/RECORD", "\n".join(rows) + "\n")
    return path


def all_of_it(folder: Path, torch: str = TORCH) -> tuple[Path, Path]:
    """A folder of wheels and a folder with their lock, as the engine's installation wants them.

    Returns (the engine's own wheel, the lock); the others lie in `folder`/wheels.
    """
    wheels, lock = folder / "wheels", folder / "lock"
    wheels.mkdir(parents=True, exist_ok=True)
    lock.mkdir(exist_ok=True)
    diffusers = wheel(wheels, "diffusers", "0.42.1", {"diffusers.py": "__version__ = '0.42.1'"})
    text = torch.replace("{version}", "2.13.0+cpu")
    wheel(wheels, "torch", "2.13.0+cpu", {"torch.py": text})
    digest = hashlib.sha256(diffusers.read_bytes()).hexdigest()
    (lock / "engine.txt").write_text(f"diffusers==0.42.1 \\\n    --hash=sha256:{digest}\n")
    (lock / "sizes.json").write_text("{}")
    code = {
        "foxden_agent/__init__.py": "",
        "foxden_agent/engine/__init__.py": "",
        "foxden_agent/engine/probe.py": Path(probe.__file__).read_text(),
    }
    own = folder / "own"
    own.mkdir(exist_ok=True)
    return wheel(own, "foxden", version("foxden"), code), lock
