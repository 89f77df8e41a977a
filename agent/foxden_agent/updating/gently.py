"""Work that nobody is to feel: at the lowest priority for processor and disk, ended at a word.

On Linux a child begins with its thread's priorities, on Windows it is told its own.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress

import psutil

from foxden_agent.installing.shell import clean_environment

_CHECK_SECONDS = 0.5
_END_SECONDS = 5.0  # for what was killed to be gone


def this_thread() -> None:
    """Give way to everything else from here on: this thread, and what it starts."""
    if sys.platform == "win32":
        import ctypes

        background = 0x00010000  # THREAD_MODE_BACKGROUND_BEGIN: processor, disk and memory
        kernel = ctypes.WinDLL("kernel32")
        kernel.GetCurrentThread.restype = ctypes.c_void_p  # as a C int, the handle would be cut
        kernel.SetThreadPriority(ctypes.c_void_p(kernel.GetCurrentThread()), background)
    elif sys.platform == "linux":
        number = threading.get_native_id()
        with suppress(OSError, psutil.Error):
            os.setpriority(os.PRIO_PROCESS, number, 19)
            psutil.Process(number).ionice(psutil.IOPRIO_CLASS_IDLE)


def run(
    words: Sequence[str], seconds: float, go_on: Callable[[], None]
) -> subprocess.CompletedProcess[str]:
    """A program to its end, outside the bundle. `go_on` is asked twice a second; when it raises,
    the program ends with all that it has started. Raises that, TimeoutExpired or OSError."""
    process = subprocess.Popen(
        list(words),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        env=clean_environment(os.environ),
        creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0)
        | getattr(subprocess, "IDLE_PRIORITY_CLASS", 0),
    )
    deadline = time.monotonic() + seconds
    try:
        while True:
            go_on()
            try:
                out, errors = process.communicate(timeout=_CHECK_SECONDS)
                return subprocess.CompletedProcess(process.args, process.returncode, out, errors)
            except subprocess.TimeoutExpired:
                if time.monotonic() >= deadline:
                    raise
    finally:
        _end(process)


def _end(process: subprocess.Popen[str]) -> None:
    """It and what it started: uv would write on for minutes after the program that called it."""
    if process.poll() is not None:
        return
    started: list[psutil.Process] = []
    with suppress(psutil.Error):
        started = psutil.Process(process.pid).children(recursive=True)
    process.kill()  # first, or it would say why uv died
    for one in started:
        with suppress(psutil.Error):
            one.kill()
    process.wait()
    psutil.wait_procs(started, timeout=_END_SECONDS)
    for pipe in (process.stdout, process.stderr):
        if pipe is not None:
            pipe.close()  # not read to its end: what got away may hold it for hours
