"""macOS: nothing is told yet. There are no NVIDIA cards in machines that it runs on now."""

from __future__ import annotations

from foxden_agent.watching.machine import AtTheScreen


class MacDesktop:
    """Battery, memory and programs come from psutil (machine.py); the rest is not asked."""

    def look(self, at: float) -> AtTheScreen:
        return AtTheScreen()
