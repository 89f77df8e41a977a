"""foxden backup: an archive of a running broker. Needs a token of scope admin."""

from __future__ import annotations

import argparse
from pathlib import Path

from foxden.cli import _output


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--out", type=Path, required=True, metavar="FILE", help="where to write the archive"
    )
    parser.add_argument(
        "--with-pictures", action="store_true", help="also the finished pictures and uploads"
    )


def run(args: argparse.Namespace) -> int:
    with _output.client(args) as client:
        size = client.backup(args.out, with_pictures=args.with_pictures)
    return _output.answer(
        args,
        {"path": str(args.out), "bytes": size, "pictures": args.with_pictures},
        f"{args.out} ({size / 2**20:,.1f} MiB) holds the broker's jobs and its keys: "
        "keep it where nobody else can read it",
    )
