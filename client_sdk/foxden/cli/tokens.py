"""foxden tokens: hand out, list and revoke access. Needs a token of scope admin."""

from __future__ import annotations

import argparse

from foxden.cli import _output

_SCOPES = ("generate", "admin", "agent")


def configure(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", required=True, metavar="create|list|revoke")
    create = actions.add_parser("create", help="make a token; its secret is shown once")
    create.add_argument("--member", required=True, metavar="NAME", help="who works with it")
    create.add_argument(
        "--scopes",
        type=_scopes,
        default=["generate"],
        metavar="SCOPE,...",
        help="of generate, admin, agent; generate if not given",
    )
    create.add_argument(
        "--expires", type=_output.seconds, metavar="TIME", help="e.g. 30d; never if not given"
    )
    actions.add_parser("list", help="all tokens, without their secrets")
    actions.add_parser("revoke", help="make a token useless").add_argument("token", help="its id")


def _scopes(text: str) -> list[str]:
    scopes = [scope.strip() for scope in text.split(",")]
    unknown = sorted(set(scopes) - set(_SCOPES))
    if unknown:
        raise argparse.ArgumentTypeError(
            f"there is no scope {unknown[0]!r}: use {', '.join(_SCOPES)}"
        )
    return scopes


def run(args: argparse.Namespace) -> int:
    with _output.client(args) as client:
        if args.action == "create":
            made = client.create_token(args.member, args.scopes, args.expires)
            return _output.answer(args, {"token": made.token, "secret": made.secret}, made.secret)
        if args.action == "revoke":
            revoked = client.revoke_token(args.token)
            return _output.answer(args, revoked, f"{revoked.id} is revoked")
        tokens = client.tokens()
    rows = [
        (
            token.id,
            token.member,
            ",".join(token.scopes),
            _output.when(token.created),
            "revoked" if token.revoked else _output.when(token.expires, "never"),
        )
        for token in tokens
    ]
    head = ("TOKEN", "MEMBER", "SCOPES", "CREATED", "EXPIRES")
    return _output.answer(args, {"tokens": tokens}, _output.table(head, rows))
