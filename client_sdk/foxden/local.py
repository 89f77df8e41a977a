"""This PC as a pool of one: a broker and an agent on loopback, as two supervised children."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import FrameType

from foxden import config
from foxden._child import Child, ChildFailed
from foxden_proto.address import parse
from foxden_proto.home import write_private
from foxden_proto.programs import Restarts

_BROKER_SECONDS = 60.0  # to be ready
_AGENT_SECONDS = 300.0  # to be ready: loads torch, and its model, on a busy machine
_STOP_SECONDS = 6.0  # to end gently
_LOOK_SECONDS = 0.2  # between two looks at the children
_AGENT_TOKEN = "local-agent.json"  # noqa: S105 - a file's name


@dataclass(frozen=True)
class Endpoint:
    """How to call the broker. The token has the scopes generate and admin."""

    url: str
    http: str
    token: str = field(repr=False)


@dataclass(frozen=True)
class Settings:
    """What `up` and `demo` can choose."""

    home: Path
    grpc_port: int = 0  # 0: any free one
    http_port: int = 0
    device: str | None = None  # None: the agent chooses
    models: Path | None = None
    replay: Path | None = None  # recorded readings, in place of the card's own
    vram_budget: float | None = None  # GB of the card that may be used; None: the agent decides
    page: bool = True  # whether the agent serves its owner's page
    tray: bool = True  # and shows an icon in the tray


class LocalPool:
    """A broker and an agent. Use as a context manager: leaving it stops both."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._broker: Child | None = None
        self._agent: Child | None = None
        self._deaths = {"broker": Restarts(), "agent": Restarts()}

    def __enter__(self) -> LocalPool:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Stop both, the agent first, so that it can say goodbye. Safe to call twice."""
        try:
            if self._agent is not None:
                self._agent.stop(_STOP_SECONDS)
        finally:
            if self._broker is not None:
                self._broker.stop(_STOP_SECONDS)

    def start_broker(self) -> Endpoint:
        """Start the broker and wait until it answers. Raises ChildFailed."""
        settings = self._settings
        self._broker = self._child(
            "broker",
            "foxden_broker",
            *("--grpc-port", str(settings.grpc_port), "--http-port", str(settings.http_port)),
        )
        from foxden import sync  # noqa: F401 - imports gRPC, while the broker starts

        told = self._broker.ready(_BROKER_SECONDS)
        endpoint = Endpoint(str(told["url"]), str(told["http"]), str(told["token"]))
        # A broker that is started again must be where the agent and the clients look for it.
        address = parse(endpoint.url)
        self._settings = replace(settings, grpc_port=address.grpc_port, http_port=address.http_port)
        return endpoint

    def start_agent(self, endpoint: Endpoint) -> None:
        """Start the agent. `agent_ready` waits for its card."""
        arguments = ["--broker", endpoint.url]
        if self._settings.device:
            arguments += ["--device", self._settings.device]
        if self._settings.models:
            arguments += ["--models", str(self._settings.models)]
        if self._settings.vram_budget:
            arguments += ["--vram-budget", f"{self._settings.vram_budget:g}"]
        if not self._settings.page:
            arguments.append("--no-page")
        if not self._settings.tray:
            arguments.append("--no-tray")
        if self._settings.replay:
            arguments += ["--replay", str(self._settings.replay)]
        token = agent_token(self._settings.home, endpoint)
        self._agent = self._child("agent", "foxden_agent", *arguments, token=token)

    def agent_ready(self) -> None:
        """Wait until the agent's card can be given work. Raises ChildFailed."""
        assert self._agent is not None
        self._agent.ready(_AGENT_SECONDS)

    def watch(self, endpoint: Endpoint, changed: Callable[[Endpoint], object]) -> None:
        """Restart whichever child dies, for ever. Raises ChildFailed where that does not help.

        `changed` is called where a new broker answers differently from the one before.
        """
        while True:
            if self._broker is not None and not self._broker.alive:
                self._pause_or_give_up(self._broker)
                told = self.start_broker()
                if told != endpoint:
                    endpoint = told
                    changed(endpoint)
            if self._agent is not None and not self._agent.alive:
                self._pause_or_give_up(self._agent)
                self.start_agent(endpoint)
            time.sleep(_LOOK_SECONDS)

    def _pause_or_give_up(self, child: Child) -> None:
        failure = child.failure()
        delay = self._deaths[child.name].delay(time.monotonic())
        if delay is None:
            raise ChildFailed(
                f"gave up after 5 restarts in a minute: {failure.message}",
                exit_code=failure.exit_code,
            )
        time.sleep(delay)

    def _child(self, name: str, module: str, *arguments: str, token: str = "") -> Child:
        environment = {
            key: value
            for key, value in os.environ.items()
            if key not in ("FOXDEN_URL", "FOXDEN_TOKEN")
        }
        if token:  # in the environment: command lines can be read by every user of the machine
            environment["FOXDEN_TOKEN"] = token
        home = self._settings.home
        logs = home / "logs"
        log_file = ("--log-file", str(logs / f"{name}.log"))
        return Child(
            name,
            [module, "--home", str(home), "--json", "--supervised", *log_file, *arguments],
            logs / f"{name}.err",
            environment,
        )


def agent_token(home: Path, endpoint: Endpoint) -> str:
    """The local agent's token: the one of the last start if the broker still knows it."""
    from foxden.sync import Client

    path = home / _AGENT_TOKEN
    with Client(endpoint.url, endpoint.token, retry_for=10) as client:
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            kept = json.loads(path.read_text(encoding="utf-8"))
            known = {token.id for token in client.tokens() if token.revoked is None}
            if kept["id"] in known:
                return config.check_token(str(kept["secret"]))
        made = client.create_token("this PC", ["agent"])
    write_private(path, json.dumps({"id": made.token.id, "secret": made.secret}) + "\n")
    return made.secret


class Stopped(BaseException):
    """The system asked this program to end. Not an Exception: nothing may take it for an error."""


@contextlib.contextmanager
def stoppable() -> Iterator[None]:
    """Let SIGTERM and a closed terminal raise Stopped, so that children are stopped properly."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise Stopped

    before = {}
    for name in ("SIGTERM", "SIGHUP"):
        if (number := getattr(signal, name, None)) is not None:
            with contextlib.suppress(ValueError):  # not the main thread: signals are not ours
                before[number] = signal.signal(number, stop)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
