"""foxden cards: what the pool has, what each card may do now, and setting cards aside."""

from __future__ import annotations

import argparse
import time
from typing import TYPE_CHECKING

from foxden.cli import _output
from foxden.errors import Timeout
from foxden.pool import Card

if TYPE_CHECKING:
    from foxden.sync import Client

_LOOK_SECONDS = 0.5  # between looks at a card that is being drained
_STANDINGS = {"cordon": "cordoned", "drain": "draining", "uncordon": ""}
_SAID = {
    "cordon": "gets nothing new",
    "drain": "gets nothing new and gives back what it has not begun",
    "uncordon": "is in use again",
}


def configure(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", metavar="list|cordon|drain|uncordon|forget")
    actions.add_parser("list", help="the cards of the pool (also without a word)")
    texts = {
        "cordon": "give a card nothing new",
        "drain": "also give back what it has not begun",
        "uncordon": "use a card again",
        "forget": "remove a card that is away for good",
    }
    for name, text in texts.items():
        action = actions.add_parser(name, help=f"{text} (needs scope admin)")
        action.add_argument("card", help="its id, its name, or how either begins")
        if name == "drain":
            action.add_argument("--wait", action="store_true", help="until it holds nothing")
            action.add_argument(
                "--timeout", type=_output.seconds, metavar="TIME", help="give up waiting after"
            )


def run(args: argparse.Namespace) -> int:
    with _output.client(args) as client:
        if args.action == "forget":
            name = client.forget_card(args.card)
            return _output.answer(args, {"forgotten": name}, f"{name} is forgotten")
        if args.action in _STANDINGS:
            card = client.set_card_standing(args.card, _STANDINGS[args.action])
            said = _SAID[args.action]
            if args.action == "drain" and args.wait:
                card, said = _drained(client, card, args.timeout), "is drained: it holds nothing"
            return _output.answer(args, card, f"{card.name} {said}")
        cards = client.cards()
    rows = [
        (
            card.name,
            "online" if card.online else f"away since {_output.when(card.last_seen)}",
            card.mode + (f" ({', '.join(card.reasons)})" if card.reasons else ""),
            card.standing or "in use",
            card.running,
            f"{card.memory_total / 2**30:.1f} GiB",
            card.device,
            ", ".join(card.models),
        )
        for card in cards
    ]
    head = ("CARD", "LINK", "MODE", "STANDING", "RUNNING", "MEMORY", "DEVICE", "MODELS")
    none = "no cards yet: run `foxden agent` on a PC that has one"
    return _output.answer(args, {"cards": cards}, _output.table(head, rows) if rows else none)


def _drained(client: Client, card: Card, timeout: float | None) -> Card:
    """The card once it holds no image."""
    end = None if timeout is None else time.monotonic() + timeout
    while card.running:
        if end is not None and time.monotonic() >= end:
            raise Timeout(
                f"{card.name} still holds {card.running} images: it goes on draining, "
                "see `foxden cards`"
            )
        time.sleep(_LOOK_SECONDS)
        card = next((now for now in client.cards() if now.id == card.id), card)
    return card
