"""foxden join-link: make, list and revoke links with which machines join. Needs scope admin."""

from __future__ import annotations

import argparse

from foxden.cli import _output
from foxden.errors import InvalidRequest
from foxden_proto import join_links

_HOUR = 3600.0


def configure(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("action", nargs="?", choices=("create", "list", "revoke"), default="create", help="create")
    add("link", nargs="?", help="to revoke: the id of a link, from the list")
    add("--uses", type=_uses, default=1, metavar="N", help="machines that it lets in (1)")
    add(
        "--expires",
        type=_expires,
        default=_HOUR,
        metavar="TIME",
        help="e.g. 30m, 7d (1h)",
    )
    add("--approve", action="store_true", help="each machine waits until you have said yes")
    text = "what agents dial, if that is not the address the broker was started with"
    add("--address", default="", metavar="URL", help=text)


def _uses(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 10_000:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of machines: use 1 to 10000")
    return int(text)


def _expires(text: str) -> float:
    seconds = _output.seconds(text)
    if seconds < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is over at once: use 1s or more, such as 7d")
    return seconds


def run(args: argparse.Namespace) -> int:
    if (args.action == "revoke") != (args.link is not None):
        what = "name the link: foxden join-link revoke ID" if args.link is None else "no ID here"
        raise InvalidRequest(f"To {args.action}, {what}.", field="link")
    with _output.client(args) as client:
        if args.action == "create":
            made = client.create_join_link(
                args.uses, args.expires, approve=args.approve, address=args.address
            )
            machines = "one machine" if args.uses == 1 else f"{args.uses} machines"
            until = _output.when(made.link.expires)
            lines = [f"It lets in {machines} until {until}. Whoever has it can join: keep it safe."]
            if args.approve:
                lines.append("Each waits for your yes: foxden agents list, foxden agents approve")
            if join_links.read(made.text).address.loopback:
                lines.append(
                    "It works on this machine alone, where the broker listens: for others, start "
                    "the broker with --host 0.0.0.0 --public-host NAME."
                )
            value = {"link": made.link, "text": made.text}
            return _output.answer(args, value, "\n".join([f"foxden join {made.text}", "", *lines]))
        if args.action == "revoke":
            revoked = client.revoke_join_link(args.link)
            text = f"{revoked.id} lets nobody in any more; {revoked.used} joined by it and stay"
            return _output.answer(args, revoked, text)
        links = client.join_links()
    rows = [
        (
            link.id,
            f"{link.used} of {link.uses}",
            "yes" if link.approve else "no",
            link.member,
            _output.when(link.created),
            "revoked" if link.revoked else _output.when(link.expires),
        )
        for link in links
    ]
    head = ("LINK", "USED", "APPROVE", "MADE BY", "CREATED", "EXPIRES")
    return _output.answer(args, {"links": links}, _output.table(head, rows))
