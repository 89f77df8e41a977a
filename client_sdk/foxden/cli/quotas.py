"""foxden quotas: limits of members, and what each uses. Needs a token of scope admin."""

from __future__ import annotations

import argparse
from typing import TypeVar

from foxden.cli import _output

Number = TypeVar("Number", int, float)


def configure(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", required=True, metavar="list|set")
    actions.add_parser("list", help="every member with limits, or with anything in use")
    text = "set a member's limits; what is not named keeps its value"
    setting = actions.add_parser("set", help=text)
    setting.add_argument("member", help="as in its tokens")
    add = setting.add_argument
    add("--queued", type=int, metavar="N", help="images that wait; 0: the broker's default")
    add("--running", type=int, metavar="N", help="images on cards at once; 0: no limit")
    add(
        "--gpu-seconds-per-day",
        type=float,
        metavar="X",
        help="of cards' time, per day in UTC; 0: no limit",
    )


def run(args: argparse.Namespace) -> int:
    with _output.client(args) as client:
        quotas = client.quotas()
        if args.action == "set":
            now = {one.quota.member: one.quota for one in quotas.members}.get(args.member)
            quota = client.set_quota(
                args.member,
                most_queued=_chosen(args.queued, now and now.most_queued),
                most_running=_chosen(args.running, now and now.most_running),
                gpu_seconds_per_day=_chosen(
                    args.gpu_seconds_per_day, now and now.gpu_seconds_per_day
                ),
            )
            text = (
                f"{quota.member}: {_limit(quota.most_queued, 'the default')} queued, "
                f"{_limit(quota.most_running)} running, "
                f"{_limit(quota.gpu_seconds_per_day)} GPU seconds per day"
            )
            return _output.answer(args, quota, text)
    rows = [
        (
            one.quota.member,
            f"{one.queued:,} of {_limit(one.most_queued)}",
            f"{one.running:,} of {_limit(one.quota.most_running)}",
            f"{one.gpu_seconds_today:,.0f} of {_limit(one.quota.gpu_seconds_per_day)}",
        )
        for one in quotas.members
    ]
    table = _output.table(("MEMBER", "QUEUED", "RUNNING", "GPU SECONDS TODAY"), rows)
    whole = (
        f"all members: {quotas.queued_in_account:,} of "
        f"{_limit(quotas.most_queued_in_account)} images queued"
    )
    return _output.answer(args, quotas, f"{table}\n{whole}" if rows else whole)


def _chosen(given: Number | None, before: Number | None) -> Number:
    """What was given, else what holds; 0 where nothing does."""
    chosen = before if given is None else given
    return chosen or 0


def _limit(number: float, none: str = "any number") -> str:
    return f"{number:,.0f}" if number else none
