"""The agent's side of the tray: starts it once, where there is a screen, and says how it ended."""

from __future__ import annotations

import asyncio
import importlib.util
import logging
import os
import sys
from asyncio.subprocess import DEVNULL, PIPE
from collections.abc import Callable, Mapping
from pathlib import Path

from foxden_agent.page.command import has_screen

log = logging.getLogger(__name__)

_END_SECONDS = 2.0


def why_not(environment: Mapping[str, str], system: str, installed: Callable[[str], bool]) -> str:
    """Why no tray is started here, in a sentence; empty where one is. Pure."""
    if not has_screen(environment, system):
        return "no icon in the tray: there is no screen here"
    if not installed("pystray"):
        return "no icon in the tray: pystray is not installed; `pip install pystray` brings it"
    return ""


async def run(home: Path) -> None:
    """Start the tray and wait for its end, which is not the agent's; cancelled, end it."""
    why = why_not(os.environ, sys.platform, lambda name: importlib.util.find_spec(name) is not None)
    if why:
        log.info("%s", why)
        return
    command = [sys.executable, "-m", "foxden_agent.tray", "--home", str(home), "--supervised"]
    try:
        process = await asyncio.create_subprocess_exec(
            *command, stdin=PIPE, stdout=PIPE, stderr=DEVNULL
        )
    except OSError as error:
        log.warning("no icon in the tray: it cannot be started (%s)", error.strerror or error)
        return
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        said = (await process.stdout.read(4000)).decode("utf-8", "replace").strip()
        code = await process.wait()
    finally:
        process.stdin.close()  # it ends with its standard input, as all our programs do
        if process.returncode is None:
            try:
                await asyncio.wait_for(process.wait(), _END_SECONDS)
            except TimeoutError:
                process.kill()
                await process.wait()
    log.info("no icon in the tray: %s", said or f"it ended with code {code}")
