"""How commands answer: text or JSON on standard output, one sentence per error, an exit code."""

from __future__ import annotations

import argparse
import dataclasses
import json
import re
import sys
from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from foxden import errors

if TYPE_CHECKING:
    from foxden.sync import Client

DONE, FAILED, WRONG_CALL, UNREACHABLE, REFUSED, INTERRUPTED = 0, 1, 2, 3, 4, 130

_RETRY_FOR = 10.0  # a broker that restarts is back by then; a wrong address is told soon
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "": 1}


def exit_code(error: errors.FoxdenError) -> int:
    match error:
        case errors.InvalidRequest() | errors.UnknownModel() | errors.NotFound():
            return WRONG_CALL
        case errors.Unavailable():
            return UNREACHABLE
        case errors.Unauthorized() | errors.PermissionDenied():
            return REFUSED
    return getattr(error, "exit_code", FAILED)


def report(error: errors.FoxdenError, as_json: bool, **more: Any) -> int:
    """Tell an error: a sentence for people, an object for programs. Returns the exit code."""
    return report_as(
        type(error).__name__, error.message, exit_code(error), as_json, error.facts(), more
    )


def report_as(
    kind: str,
    message: str,
    code: int,
    as_json: bool,
    facts: dict[str, Any] | None = None,
    more: dict[str, Any] | None = None,
) -> int:
    print(f"foxden: {message}", file=sys.stderr)
    if as_json:
        print_json({"error": {"type": kind, "message": message, **(facts or {})}, **(more or {})})
    return code


def print_json(value: Any) -> None:
    print(json.dumps(value, default=_plain), flush=True)


def answer(args: argparse.Namespace, value: Any, text: str) -> int:
    """Print a command's answer in the form that was asked for."""
    if args.json:
        print_json(value)
    else:
        print(text, flush=True)
    return DONE


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Columns of plain text."""
    cells = [list(head), *([str(cell) for cell in row] for row in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(head))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in cells
    )


def when(moment: datetime | None, none: str = "-") -> str:
    return moment.astimezone().strftime("%Y-%m-%d %H:%M:%S") if moment else none


def client(args: argparse.Namespace) -> Client:
    from foxden.sync import Client

    return Client(home=args.home, retry_for=_RETRY_FOR)


def seconds(text: str) -> float:
    """An argparse type: 90, 90s, 15m, 2h or 30d."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd]?)", text.strip())
    if not found:
        raise argparse.ArgumentTypeError(f"{text!r} is no duration: write 90, 15m, 2h or 30d")
    return float(found[1]) * _UNITS[found[2]]


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.isoformat()
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    raise TypeError(f"{type(value).__name__} has no JSON form")
