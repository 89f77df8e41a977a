"""What is different where Foxden runs as the installed program (a PyInstaller bundle)."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

ENGINES = "engines"  # the folder in the home folder that holds the engine's environments

# PyInstaller points the loader at the bundle's own libraries and keeps what was there in *_ORIG: a
# Python of its own, started with that, would load the bundle's libraries in place of its system's.
_LOADER = ("LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "DYLD_FRAMEWORK_PATH", "LIBPATH")
_PYTHONS = ("PYTHONHOME", "PYTHONPATH", "PYTHONSTARTUP", "PYTHONUSERBASE")


def frozen() -> bool:
    """Whether this is the installed program, without a Python of its own to install things into."""
    return bool(getattr(sys, "frozen", False))


def shell_file(name: str) -> Path | None:
    """A file that was packed into the bundle; None in a checkout, or where it isn't there."""
    folder = getattr(sys, "_MEIPASS", None)
    if folder is None:
        return None
    path = Path(folder) / name
    return path if path.exists() else None


def program_folder() -> Path | None:
    """The folder of the installed program's executable; None in a checkout."""
    return Path(sys.executable).resolve().parent if frozen() else None


def clean_environment(given: Mapping[str, str]) -> dict[str, str]:
    """The variables for a program that is not part of the bundle.

    >>> clean_environment({"LD_LIBRARY_PATH": "/app", "LD_LIBRARY_PATH_ORIG": "/mine"})
    {'LD_LIBRARY_PATH': '/mine'}
    """
    variables = {
        name: value
        for name, value in given.items()
        if not name.startswith(("_PYI_", "_MEIPASS")) and not (frozen() and name in _PYTHONS)
    }
    for name in _LOADER:
        if f"{name}_ORIG" in variables:
            variables[name] = variables.pop(f"{name}_ORIG")
        elif frozen():
            variables.pop(name, None)
    return variables


def engine_environment(python: Path, given: Mapping[str, str]) -> dict[str, str]:
    """The variables for the engine's Python.

    Torch makes a folder for compiled kernels in the system's temporary one when it is imported:
    with an environment of ours it lies there, and goes with it.
    """
    variables = clean_environment(given)
    if python.parents[2].name == ENGINES:
        variables.setdefault("TORCHINDUCTOR_CACHE_DIR", str(python.parents[1] / "inductor"))
    return variables
