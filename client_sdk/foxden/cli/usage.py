"""foxden usage: images and card time by day and member. Needs a token of scope admin."""

from __future__ import annotations

import argparse

from foxden.cli import _output


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--member", metavar="NAME", help="of this member; of all if not given")
    parser.add_argument(
        "--days", type=int, default=30, metavar="N", help="today and the days before it (30)"
    )


def run(args: argparse.Namespace) -> int:
    with _output.client(args) as client:
        usage = client.usage(args.member, args.days)
    rows = [(row.day, row.member, f"{row.images:,}", f"{row.gpu_seconds:,.1f}") for row in usage]
    if rows:
        images, seconds = sum(r.images for r in usage), sum(r.gpu_seconds for r in usage)
        rows.append(("all", "", f"{images:,}", f"{seconds:,.1f}"))
    head = ("DAY (UTC)", "MEMBER", "IMAGES", "GPU SECONDS")
    text = _output.table(head, rows) if rows else "nothing was used in these days"
    return _output.answer(args, {"usage": usage}, text)
