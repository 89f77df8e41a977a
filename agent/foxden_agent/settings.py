"""The agent's settings: few, frozen, resolved once from flags and environment."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from foxden_proto.address import Address
from foxden_proto.timers import Timers


@dataclass(frozen=True)
class AgentSettings:
    """How one agent runs."""

    home: Path  # holds everything it writes, in `agent/`; never a picture or a prompt
    broker: Address | None = None  # the owner's own; None: the joined pools alone
    token: str = field(default="", repr=False)  # of scope agent, for that one
    device: str = "auto"  # auto (every CUDA device, else the CPU), cpu, cuda:N
    models: Path | None = None  # the model folder; None: `models/` in the home folder
    name: str = ""  # for people; empty: the machine's name
    vram_budget: int = 0  # bytes of each card that its owner lets the engine use; 0: all there are
    idle_unload: float = 600.0  # seconds without work until the engine ends; 0: never
    replay: Path | None = None  # recorded readings in place of the card's own; for demonstrations
    replay_speed: float = 60.0  # how many times as fast as they were recorded
    record: Path | None = None  # a file that takes the readings, to be replayed
    supervised: bool = False  # stop when standard input closes
    timers: Timers = field(default_factory=Timers)

    @property
    def folder(self) -> Path:
        return self.home / "agent"

    @property
    def models_folder(self) -> Path:
        return self.models or self.home / "models"
