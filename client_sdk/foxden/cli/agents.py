"""foxden agents: list, approve and revoke the machines that have joined. Needs scope admin."""

from __future__ import annotations

import argparse
import dataclasses

from foxden.cli import _output


def configure(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", required=True, metavar="list|approve|revoke")
    actions.add_parser("list", help="every machine that joined by a link")
    what = "its id, its name, or the beginning of either"
    text = "say yes to a machine that waits"
    actions.add_parser("approve", help=text).add_argument("agent", help=what)
    text = "shut a machine out: at once, and until it joins by a new link"
    actions.add_parser("revoke", help=text).add_argument("agent", help=what)


def run(args: argparse.Namespace) -> int:
    with _output.client(args) as client:
        if args.action == "approve":
            agent = client.approve_agent(args.agent)
            return _output.answer(args, agent, f"{agent.name} ({agent.id}) may work here")
        if args.action == "revoke":
            agent = client.revoke_agent(args.agent)
            return _output.answer(args, agent, f"{agent.name} ({agent.id}) is shut out")
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
