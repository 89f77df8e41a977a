"""`python -m foxden_agent.engine.probe`: one JSON object about torch, for `foxden doctor`.

A process of its own: the agent never imports torch, and an import that fails or crashes is a
finding. The keys are the fields of doctor.judging.TorchFacts.
"""

from __future__ import annotations

import json
import sys
from typing import Any


def main() -> int:
    try:
        told = _facts()
    except Exception as error:  # noqa: BLE001 -- whatever breaks the import is the answer
        told = {"error": f"{type(error).__name__}: {error}"[:300]}
    print(json.dumps(told))  # noqa: T201 -- its one answer
    return 0


def _facts() -> dict[str, Any]:
    import diffusers
    import torch

    return {
        "version": torch.__version__,
        "cuda": torch.version.cuda or "",
        "architectures": torch.cuda.get_arch_list(),
        "usable_cards": torch.cuda.device_count() if torch.cuda.is_available() else 0,
        "diffusers": diffusers.__version__,
    }


if __name__ == "__main__":
    sys.exit(main())
