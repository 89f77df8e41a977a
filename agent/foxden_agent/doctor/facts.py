"""Gathers what judging.py judges: the edge to driver, disk, torch, models and network.

Each question has a time limit and an answer of its own when it fails: the doctor is called where
something is broken.
"""

from __future__ import annotations

import email.utils
import json
import logging
import os
import platform
import shutil
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterable
from pathlib import Path

import psutil

from foxden_agent import identity, models
from foxden_agent.doctor.judging import (
    BrokerFacts,
    CardFacts,
    DiskFacts,
    DriverFacts,
    Facts,
    TorchFacts,
)
from foxden_agent.installing.environment import EngineMissing, engine_python
from foxden_agent.installing.shell import engine_environment
from foxden_agent.watching.nvml import ask_driver
from foxden_proto.address import CERTIFICATE_NAME, Address
from foxden_proto.trust import BrokerUnreachable, WrongBroker, tls_context

_TORCH_SECONDS = 120.0
_BROKER_SECONDS = 10.0


def gather(home: Path, models_folder: Path, brokers: Iterable[Address]) -> Facts:
    """All of it; takes some seconds, most of them for torch."""
    count, largest, left_out = model_facts(home, models_folder)
    return Facts(
        system=platform.system(),
        torch=torch_facts(home),
        driver=driver_facts(),
        disks=(
            disk_facts("home folder", home),
            *([disk_facts("model folder", models_folder)] if models_folder.exists() else []),
        ),
        memory_total=psutil.virtual_memory().total,
        swap_total=psutil.swap_memory().total,
        models=count,
        largest_model=largest,
        left_out=left_out,
        brokers=tuple(broker_facts(broker) for broker in brokers),
        agent_runs=agent_runs(home),
    )


def torch_facts(home: Path) -> TorchFacts:
    """What the engine's Python says; it is asked as the agent asks it, in a child."""
    try:
        python = engine_python(home)
    except EngineMissing:
        return TorchFacts(missing=True)
    command = [str(python), "-m", "foxden_agent.engine.probe"]
    env = engine_environment(python, os.environ)
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=_TORCH_SECONDS, env=env
        )
        told = json.loads(done.stdout.strip().splitlines()[-1])
        return TorchFacts(**{**told, "architectures": tuple(told.get("architectures", ()))})
    except subprocess.TimeoutExpired:
        return TorchFacts(error=f"importing torch takes more than {_TORCH_SECONDS:g} s")
    except (IndexError, ValueError, TypeError):
        last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        return TorchFacts(error=last[:300])


def driver_facts() -> DriverFacts:
    """The NVIDIA driver and its cards."""
    told = ask_driver()
    cards = tuple(CardFacts(*card) for card in told.cards)
    return DriverFacts(told.absent, told.problem, told.version, cards)


def disk_facts(what: str, folder: Path) -> DiskFacts:
    """Space and the right to write, of the folder or the nearest one above it that exists."""
    existing = next(one for one in (folder, *folder.parents) if one.exists())
    try:
        free = shutil.disk_usage(existing).free
    except OSError as error:
        return DiskFacts(what, str(folder), error=error.strerror or str(error))
    writable = os.access(existing, os.W_OK | os.X_OK)
    return DiskFacts(what, str(folder), free, "" if writable else "it may not be written")


def model_facts(home: Path, folder: Path) -> tuple[int, int, tuple[str, ...]]:
    """How many models besides the demo one, the largest's bytes, and what is left out and why."""
    said: list[str] = []

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            said.append(record.getMessage())

    listener, logger = Listener(logging.WARNING), logging.getLogger(models.__name__)
    heard = logger.propagate
    logger.addHandler(listener)
    logger.propagate = False
    try:
        found = models.scan(folder, home / "agent" / "models.json")
    except OSError as error:  # the cache of hashes cannot be written: the disk's finding says it
        return 0, 0, (f"the model folder cannot be read: {error}",)
    finally:
        logger.removeHandler(listener)
        logger.propagate = heard
    real = [one.model for one in found if not one.model.demo]
    return len(real), max((model.size for model in real), default=0), tuple(said)


def broker_facts(address: Address) -> BrokerFacts:
    """Knock at both doors of a broker, and compare clocks."""
    shown = address.grpc_target
    try:
        context = tls_context(address)
    except WrongBroker as error:
        return BrokerFacts(shown, wrong=str(error))
    except BrokerUnreachable as error:
        return BrokerFacts(shown, errors=(str(error),))
    errors = []
    try:
        with socket.create_connection((address.host, address.grpc_port), _BROKER_SECONDS) as raw:
            if context is not None:
                name = CERTIFICATE_NAME if address.pin else address.host
                context.wrap_socket(raw, server_hostname=name).close()
    except OSError as error:
        errors.append(f"the gRPC port {shown} cannot be reached ({error.strerror or error})")
    seconds, off = 0.0, None
    try:
        seconds, off = _ask_health(address)
    except (OSError, ValueError) as error:
        why = getattr(error, "reason", error)  # urllib wraps what the socket said
        errors.append(f"the HTTP port at {address.http_url} does not answer ({why})")
    return BrokerFacts(shown, tuple(errors), seconds, off)


def _ask_health(address: Address) -> tuple[float, float | None]:
    """Seconds until /healthz answered, and how far this PC's clock is ahead of the broker's.

    A pinned certificate has a fixed name that urllib cannot be told; the pin was compared already,
    and nothing secret is sent.
    """
    context = tls_context(address)
    if context is not None and address.pin:
        context.check_hostname = False
    opener = urllib.request.build_opener(urllib.request.HTTPSHandler(context=context))
    if address.loopback:
        opener.add_handler(urllib.request.ProxyHandler({}))
    begun = time.monotonic()
    with opener.open(f"{address.http_url}/healthz", timeout=_BROKER_SECONDS) as answer:
        seconds = time.monotonic() - begun
        date = email.utils.parsedate_to_datetime(answer.headers.get("date", ""))
    return seconds, time.time() - seconds / 2 - date.timestamp()


def agent_runs(home: Path) -> bool:
    """Whether an agent holds the home folder's lock now."""
    folder = home / "agent"
    if not (folder / "lock").exists():
        return False
    try:
        with identity.only_one(folder):
            return False
    except identity.HomeInUse:
        return True
    except OSError:
        return False
