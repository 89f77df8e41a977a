"""foxden cards: what the pool has, and what each card may do now."""

from __future__ import annotations

import argparse

from foxden.cli import _output


def configure(parser: argparse.ArgumentParser) -> None:
    pass


def run(args: argparse.Namespace) -> int:
    with _output.client(args) as client:
        cards = client.cards()
    rows = [
        (
            card.name,
            "online" if card.online else f"away since {_output.when(card.last_seen)}",
            card.mode + (f" ({', '.join(card.reasons)})" if card.reasons else ""),
            card.running,
            f"{card.memory_total / 2**30:.1f} GiB",
            card.device,
            ", ".join(card.models),
        )
        for card in cards
    ]
    head = ("CARD", "LINK", "MODE", "RUNNING", "MEMORY", "DEVICE", "MODELS")
    none = "no cards yet: run `foxden agent` on a PC that has one"
    return _output.answer(args, {"cards": cards}, _output.table(head, rows) if rows else none)
