"""foxden models: what the pool can draw with."""

from __future__ import annotations

import argparse

from foxden.cli import _output


def configure(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", required=True, metavar="list")
    actions.add_parser("list", help="the models that cards of the pool offer")


def run(args: argparse.Namespace) -> int:
    with _output.client(args) as client:
        models = client.models()
    rows = [
        (
            model.name + (" (default)" if model.is_default else ""),
            model.family,
            f"{model.default_width}x{model.default_height}",
            model.default_steps,
            f"{model.size / 2**20:,.0f} MiB",
            f"{model.cards_online}/{model.cards}",
            model.licence,
        )
        for model in models
    ]
    head = ("MODEL", "FAMILY", "SIZE", "STEPS", "ON DISK", "CARDS", "LICENCE")
    none = "no models yet: none of the pool's cards has told of one"
    return _output.answer(args, {"models": models}, _output.table(head, rows) if rows else none)
