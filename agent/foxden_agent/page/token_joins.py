"""Joining with a broker's address and a token of scope agent: FOXDEN-URL#TOKEN.

The broker is verified by the pin in the address before the token goes anywhere.
"""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

from foxden_agent.doctor.facts import broker_facts
from foxden_agent.page.plugs import CannotJoin, Membership, Terms
from foxden_proto.address import Address, AddressError, parse
from foxden_proto.home import write_private

FILE = "membership.json"


class TokenJoins:
    """Keeps what was joined in `membership.json` of the agent's folder, 0600."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / FILE

    def membership(self) -> Membership | None:
        try:
            kept = json.loads(self._path.read_text(encoding="utf-8"))
            name = str(kept.get("name", ""))
            return Membership(parse(kept["broker"]), str(kept["token"]), name=name)
        except (OSError, ValueError, KeyError, TypeError):
            return None

    async def look(self, link: str) -> Terms:
        address, _ = _read(link)
        facts = await asyncio.to_thread(broker_facts, address)
        if facts.wrong:
            raise CannotJoin(facts.wrong)
        if facts.errors:
            raise CannotJoin(
                f"The broker cannot be reached: {facts.errors[0]}. See that it runs and that this "
                "PC is on its network, then look again."
            )
        return Terms(account="", broker=address.grpc_target)

    async def join(self, link: str, name: str) -> Membership:
        await self.look(link)
        address, token = _read(link)
        kept = json.dumps({"broker": str(address), "token": token, "name": name}) + "\n"
        try:
            await asyncio.to_thread(write_private, self._path, kept)
        except OSError as error:
            raise CannotJoin(
                f"{self._path} cannot be written ({error.strerror or error}): "
                "see to its rights and to the disk's space, then join again."
            ) from None
        return Membership(address, token, name=name)


def _read(link: str) -> tuple[Address, str]:
    url, _, token = link.partition("#")
    try:
        address = parse(url)
    except AddressError as error:
        raise CannotJoin(f"This is no link to join with: {error}.") from None
    if not token.startswith("fxd_"):
        raise CannotJoin("The link has no token at its end: copy all of it.")
    return address, token
