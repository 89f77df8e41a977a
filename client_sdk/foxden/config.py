"""Which broker, and with which token: arguments, environment, or what `foxden login` wrote.

A token in the file belongs to the URL beside it and is never sent to another address.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from pathlib import Path

from foxden.errors import InvalidRequest
from foxden_proto import home as homes
from foxden_proto.address import Address, AddressError, parse

FILE = "client.json"
_URL_FORM = "foxden://host:port"


@dataclass(frozen=True)
class Config:
    """A broker's address and the token for it. The token stays out of the repr."""

    address: Address
    token: str = field(repr=False)


def resolve(
    url: str | None = None,
    token: str | None = None,
    home: str | os.PathLike[str] | None = None,
) -> Config:
    """The first of: arguments, FOXDEN_URL and FOXDEN_TOKEN, `<home>/client.json`.

    Raises InvalidRequest (field `url` or `token`) where nothing is configured or it is malformed.
    """
    path = homes.home(home) / FILE
    written_url, written_token = _read(path)
    chosen = url or os.environ.get("FOXDEN_URL") or written_url
    if not chosen:
        raise InvalidRequest(
            "no broker is configured: run `foxden up` for this PC's own, run `foxden login URL`, "
            "or set FOXDEN_URL and FOXDEN_TOKEN",
            field="url",
            allowed=_URL_FORM,
        )
    address = _address(chosen)
    found = token or os.environ.get("FOXDEN_TOKEN") or ""
    if not found and written_url and _address(written_url) == address:
        found = written_token
    return Config(address, check_token(found))


def write(home: str | os.PathLike[str] | None, url: str, token: str) -> Path:
    """Remember a broker for `Client()`; only the owner can read the file."""
    path = homes.home(home) / FILE
    homes.write_private(path, json.dumps({"url": url, "token": token}) + "\n")
    return path


def check_token(token: str) -> str:
    """The token without white space around it. Raises InvalidRequest where it cannot be sent."""
    token = token.strip()
    if any(not "!" <= character <= "~" for character in token):
        raise InvalidRequest(
            "the token holds a character that no token has: copy it again",
            field="token",
            allowed="fxd_ and letters",
        )
    return token


def _address(url: str) -> Address:
    try:
        return parse(url)
    except AddressError as error:
        raise InvalidRequest(str(error), field="url", allowed=_URL_FORM) from None


def _read(path: Path) -> tuple[str, str]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        return str(data["url"]), str(data["token"])
    except FileNotFoundError:
        return "", ""
    except (OSError, ValueError, KeyError, TypeError):
        raise InvalidRequest(
            f"{path} cannot be read: run `foxden login URL` again",
            field="url",
            allowed=_URL_FORM,
        ) from None
