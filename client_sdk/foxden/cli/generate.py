"""foxden generate: draw pictures, save each as it finishes."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from foxden import events
from foxden.cli import _output
from foxden.errors import FoxdenError
from foxden.results import Picture

_SHORT = 8  # characters of a job's id in a file name


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("prompt", help="what to draw")
    parser.add_argument("--negative-prompt", default="", metavar="TEXT", help="what to avoid")
    parser.add_argument("--count", type=int, default=1, metavar="N", help="images, 1 to 1000")
    parser.add_argument("--out", type=Path, default=Path(), metavar="DIR", help="where to save")
    parser.add_argument("--steps", type=int, metavar="N", help="1 to 150")
    parser.add_argument("--sampler", metavar="NAME", help='e.g. "DPM++ 2M"')
    parser.add_argument("--schedule", metavar="NAME", help="e.g. karras")
    parser.add_argument("--guidance-scale", type=float, metavar="X", help="0 to 50")
    parser.add_argument("--width", type=int, metavar="PIXELS", help="a multiple of 8")
    parser.add_argument("--height", type=int, metavar="PIXELS", help="a multiple of 8")
    parser.add_argument("--seed", type=int, metavar="N", help="image i uses seed + i")
    parser.add_argument("--model", metavar="NAME", help="see `foxden models list`")
    parser.add_argument("--priority", default="normal", help="interactive, normal or bulk")
    parser.add_argument(
        "--deadline", type=_output.seconds, metavar="TIME", help="start nothing after, e.g. 10m"
    )
    parser.add_argument(
        "--timeout",
        type=_output.seconds,
        metavar="TIME",
        help="stop waiting after; the job goes on",
    )


def run(args: argparse.Namespace) -> int:
    saved: list[dict[str, Any]] = []
    args.out.mkdir(parents=True, exist_ok=True)

    def save(event: events.Event) -> None:
        if isinstance(event, events.PictureReady):
            path = event.picture.save(args.out / file_name(event.picture))
            saved.append(describe(event.picture, path))
            if not args.json:
                print(path, flush=True)

    try:
        with _output.client(args) as client:
            result = client.generate(
                args.prompt,
                negative_prompt=args.negative_prompt,
                count=args.count,
                steps=args.steps,
                sampler=args.sampler,
                schedule=args.schedule,
                guidance_scale=args.guidance_scale,
                width=args.width,
                height=args.height,
                seed=args.seed,
                model=args.model,
                priority=args.priority,
                deadline=args.deadline,
                timeout=args.timeout,
                on_event=save,
            )
    except FoxdenError as error:  # what was finished is saved, and told
        return _output.report(error, args.json, pictures=_in_order(saved))
    if args.json:
        _output.print_json({"job_id": result.job_id, "pictures": _in_order(saved)})
    return _output.DONE


def file_name(picture: Picture) -> str:
    return f"{picture.job_id[:_SHORT]}-{picture.index}-{picture.seed}.png"


def describe(picture: Picture, path: Path) -> dict[str, Any]:
    """A saved picture as JSON."""
    return {
        "path": str(path),
        "index": picture.index,
        "seed": picture.seed,
        "width": picture.width,
        "height": picture.height,
        "card": picture.card,
        "model": picture.model,
        "seconds": picture.seconds,
        "sha256": picture.sha256,
    }


def _in_order(saved: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return sorted(saved, key=lambda picture: int(picture["index"]))
