"""What an error of NVML means (nvmlReturn_t), and what the owner is told. Pure."""

from __future__ import annotations

_UNINITIALIZED, _NOT_SUPPORTED, _NO_PERMISSION, _NOT_FOUND = 1, 3, 4, 6
_DRIVER_NOT_LOADED, _LIBRARY_NOT_FOUND, _FUNCTION_NOT_FOUND = 9, 12, 13
GPU_IS_LOST, _RESET_REQUIRED, _LIB_RM_VERSION_MISMATCH = 15, 16, 18
GONE = frozenset(
    {
        *(_UNINITIALIZED, _NOT_FOUND, _DRIVER_NOT_LOADED, GPU_IS_LOST, _RESET_REQUIRED),
        _LIB_RM_VERSION_MISMATCH,
    }
)
MERELY_UNTOLD = frozenset({_NOT_SUPPORTED, _NO_PERMISSION, _FUNCTION_NOT_FOUND})
# The library that is loaded belongs to another driver than the one that runs: load it anew.
OUTDATED = frozenset({_DRIVER_NOT_LOADED, _LIB_RM_VERSION_MISMATCH, _FUNCTION_NOT_FOUND})

LOOKS_AGAIN = "Foxden looks again by itself."
_PROBLEMS = {
    _UNINITIALIZED: "The NVIDIA driver was restarted, or is gone: restart the PC if this stays.",
    _LIBRARY_NOT_FOUND: "The NVIDIA driver was not found: install or repair it.",
    _DRIVER_NOT_LOADED: "The NVIDIA driver is not loaded, as while it is updated or restarted: "
    "restart the PC if this stays.",
    _LIB_RM_VERSION_MISMATCH: "The NVIDIA driver was updated while the old one runs: restart the "
    "PC.",
    GPU_IS_LOST: "The driver has lost the card: restart the PC, and check the card's power "
    "cables and its seat if it happens again.",
    _RESET_REQUIRED: "The card hangs and has to be reset: restart the PC.",
}


def sentence(code: int, text: str) -> str:
    """What happened and what to do; `text` is NVML's own, for codes that are not known here."""
    known = _PROBLEMS.get(code, f"The NVIDIA driver answers {text!r}: restart the PC if it stays.")
    return f"{known} {LOOKS_AGAIN}"
