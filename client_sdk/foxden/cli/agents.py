"""foxden agents: list, approve and revoke the machines that have joined. Needs scope admin."""

from __future__ import annotations

import argparse
import dataclasses
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from foxden.cli import _output

if TYPE_CHECKING:
    from foxden.pool import JoinLink
    from foxden.sync import Client


def configure(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", required=True, metavar="list|approve|revoke")
    actions.add_parser("list", help="every machine that joined by a link")
    what = "its id, its name, or the beginning of either"
    text = "say yes to a machine that waits"
    actions.add_parser("approve", help=text).add_argument("agent", help=what)
    text = "shut a machine out: at once, and until it joins by a new link"
    revoke = actions.add_parser("revoke", help=text)
    revoke.add_argument("agent", help=what)
    text = "revoke also the link that it came by: its owner may have kept it"
    revoke.add_argument("--with-link", action="store_true", help=text)


def run(args: argparse.Namespace) -> int:
    with _output.client(args) as client:
        if args.action == "approve":
            agent = client.approve_agent(args.agent)
            return _output.answer(args, agent, f"{agent.name} ({agent.id}) may work here")
        if args.action == "revoke":
            return _revoke(args, client)
        agents = client.agents()
    rows = [
        (
            agent.id,
            agent.name,
            ", ".join(agent.cards) or "-",
            agent.joined_from,
            _output.when(agent.joined),
            agent.state,
        )
        for agent in agents
    ]
    head = ("AGENT", "MACHINE", "CARDS", "JOINED FROM", "JOINED", "STATE")
    told = [{**dataclasses.asdict(agent), "state": agent.state} for agent in agents]
    return _output.answer(args, {"agents": told}, _output.table(head, rows))


def _revoke(args: argparse.Namespace, client: Client) -> int:
    """A link knows machines, not their owners: with another home folder one that was shut out is
    a new machine to it. Hence the link is named for as long as it lets anybody in."""
    agent = client.revoke_agent(args.agent)
    link = next((one for one in client.join_links() if one.id == agent.link), None)
    if link is not None and args.with_link:
        link = client.revoke_join_link(link.id)
    text = f"{agent.name} ({agent.id}) is shut out; it came by link {agent.link}"
    if link is not None and (more := _lets_in(link)):
        text += f", which lets in {more} more until {_output.when(link.expires)}.\n"
        text += "Its owner may use that with another home folder. To end the link:\n"
        text += f"foxden join-link revoke {link.id}"
    elif link is not None:
        text += ", which lets nobody in any more"
    return _output.answer(args, {**dataclasses.asdict(agent), "came_by": link}, text)


def _lets_in(link: JoinLink) -> int:
    """So many machines more."""
    over = link.revoked or (link.expires and link.expires <= datetime.now(UTC))
    return 0 if over else link.uses - link.used
