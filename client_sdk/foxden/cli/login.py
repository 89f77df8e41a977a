"""foxden login: try a broker and a token, then remember them."""

from __future__ import annotations

import argparse
import getpass
import sys

from foxden import config
from foxden.cli import _output
from foxden.errors import InvalidRequest


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("url", help="foxden://host:port, with ?pin=... as you were given it")
    parser.add_argument("--token", help="else asked for, or read from standard input")


def run(args: argparse.Namespace) -> int:
    from foxden.sync import Client

    token = args.token or _asked()
    if not token.strip():
        raise InvalidRequest(
            "no token was given: ask the broker's administrator for one", field="token"
        )
    with Client(args.url, token, home=args.home, retry_for=5) as client:
        cards = client.cards()
        url = client.url
    path = config.write(args.home, url, config.check_token(token))
    online = sum(card.online for card in cards)
    return _output.answer(
        args,
        {"url": url, "path": str(path), "cards": len(cards), "cards_online": online},
        f"Logged in at {url} ({online} of {len(cards)} cards online); remembered in {path}",
    )


def _asked() -> str:
    if sys.stdin is not None and sys.stdin.isatty():
        return getpass.getpass("Token: ")
    return sys.stdin.readline() if sys.stdin is not None else ""
