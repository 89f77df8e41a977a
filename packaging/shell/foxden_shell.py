"""The first file of the installed program: `foxden …`, and the children that it starts.

A child is started as `sys.executable -m MODULE …`, as in a checkout. Here sys.executable is this
program, so it does what Python would, for our own modules alone.
"""

from __future__ import annotations

import multiprocessing
import os
import runpy
import sys

_CHILDREN = ("foxden", "foxden_agent", "foxden_broker")
_LOADER = ("LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "DYLD_FRAMEWORK_PATH")


def main() -> int:
    multiprocessing.freeze_support()
    _give_back_environment()
    if sys.stdout is None or sys.stderr is None:  # Windows, started without a console
        nowhere = open(os.devnull, "w")  # noqa: SIM115 -- for as long as the program lives
        sys.stdout, sys.stderr = sys.stdout or nowhere, sys.stderr or nowhere
    if sys.argv[1:2] == ["-m"] and len(sys.argv) > 2 and sys.argv[2].split(".")[0] in _CHILDREN:
        module = sys.argv[2]
        del sys.argv[1:3]
        runpy.run_module(module, run_name="__main__", alter_sys=False)
        return 0
    from foxden.cli.main import main as command

    return command()


def _give_back_environment() -> None:
    """Take PyInstaller's out of it, which has done its work in this process. With it the browser
    that is to show the page would load the bundle's libraries in place of its system's. All or
    nothing: a child of ours that finds _PYI_* relies on the rest."""
    for name in _LOADER:
        own = os.environ.get(f"{name}_ORIG", "")
        if own:
            os.environ[name] = own
        else:
            os.environ.pop(name, None)
    for name in [name for name in os.environ if name.startswith("_PYI_")]:
        del os.environ[name]


if __name__ == "__main__":
    sys.exit(main())
