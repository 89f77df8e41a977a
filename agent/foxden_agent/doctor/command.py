"""`foxden doctor`: what is wrong with this PC as a card's host, and what to do about it."""

from __future__ import annotations

import argparse
import json
import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from foxden_proto.address import AddressError, parse
from foxden_proto.home import home

if TYPE_CHECKING:
    from collections.abc import Sequence

    from foxden_agent.doctor.judging import Finding

_MARKS = {"good": "ok", "advice": "--", "problem": "!!"}


class DoctorCommand:
    """The command as the `foxden` program plugs it in."""

    name = "doctor"
    help = "look for what keeps this PC's cards from drawing, and say what to do"

    def configure(self, parser: argparse.ArgumentParser) -> None:
        add = parser.add_argument
        add(
            "--broker",
            metavar="URL",
            help="call this broker (FOXDEN_URL; those of the pools it has joined)",
        )
        add("--models", type=Path, metavar="DIR", help="the model folder (models/ in the home)")
        text = "also write a zip for whoever helps you: findings, versions, logs; no tokens"
        add("--bundle", type=Path, metavar="FILE", help=text)

    def run(self, args: argparse.Namespace) -> int:
        from foxden_agent.doctor import bundle
        from foxden_agent.doctor.facts import gather
        from foxden_agent.doctor.judging import Level, judge, worst
        from foxden_agent.joining.pools import pools

        url = args.broker or os.environ.get("FOXDEN_URL")
        folder = home(args.home)
        try:
            brokers = [parse(url)] if url else [one.address for one in pools(folder / "agent")]
        except AddressError as error:
            print(error, file=sys.stderr)
            return 2
        facts = gather(folder, args.models or folder / "models", brokers)
        findings = judge(facts)
        packed: list[str] = []
        if args.bundle:
            packed = bundle.write(args.bundle, folder, facts, findings)
        if args.json:
            told = [{**asdict(one), "level": one.level.value} for one in findings]
            print(json.dumps({"findings": told, "bundle": packed}))
        else:
            print(shown(findings))
            if packed:
                print(f"\nWritten to {args.bundle}: {', '.join(packed)}")
        return 1 if worst(findings) is Level.PROBLEM else 0


COMMAND = DoctorCommand()


def shown(findings: Sequence[Finding]) -> str:
    """The findings as text, each with its advice on a line of its own."""
    lines = []
    for one in findings:
        lines.append(f"{_MARKS[one.level.value]}  {one.subject:8} {one.found}")
        if one.advice:
            lines.append(f"{'':13}{one.advice}")
    return "\n".join(lines)
