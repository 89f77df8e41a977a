"""Types of command-line arguments that programs of several rooms take; for argparse."""

from __future__ import annotations

import argparse


def port(text: str) -> int:
    """0 to 65535."""
    if not text.isascii() or not text.isdigit() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is not a port: use 0 to 65535")
    return int(text)


def gigabytes(text: str) -> float:
    """A budget of memory in GB, 0.5 to 1024."""
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0.5 <= number <= 1024:
        raise argparse.ArgumentTypeError(f"{text!r} is no budget: use GB from 0.5 up, such as 6.5")
    return number
