"""foxden restore: a broker's folder from an archive of `foxden backup`."""

from __future__ import annotations

import argparse
from datetime import UTC, datetime
from pathlib import Path

from foxden.cli import _output
from foxden_proto.home import home


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("archive", type=Path, metavar="FILE", help="what `foxden backup` wrote")
    parser.add_argument(
        "--force",
        action="store_true",
        help="although the home is not empty; its broker's folder is set aside",
    )


def run(args: argparse.Namespace) -> int:
    from foxden._restore import restore

    done = restore(args.archive, home(args.home), force=args.force)
    made = datetime.fromtimestamp(done.created_ms / 1000, UTC)
    lines = [f"{done.folder} is as the broker was at {_output.when(made)}"]
    if not done.pictures:
        lines.append("pictures were not in the archive: jobs are there, their pictures are not")
    if done.kept_aside:
        lines.append(f"what was there before is in {done.kept_aside}")
    lines.append(f"start it with `foxden broker --home {done.folder.parent}`")
    return _output.answer(
        args,
        {
            "folder": str(done.folder),
            "files": done.files,
            "pictures": done.pictures,
            "created": made,
            "kept_aside": str(done.kept_aside) if done.kept_aside else None,
        },
        "\n".join(lines),
    )
