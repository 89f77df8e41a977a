"""Which pools this machine has joined: small files in the agent's folder, without secrets.

`pools.json` is written by joining and leaving alone, `pools-now.json` by the running agent alone.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from foxden_agent.told_files import told_in
from foxden_proto import proofs
from foxden_proto.address import Address, AddressError, parse
from foxden_proto.home import write_private

log = logging.getLogger(__name__)

FILE = "pools.json"
NOW = "pools-now.json"


@dataclass(frozen=True)
class Pool:
    """One pool that this machine is in, or is joining."""

    account_id: str
    account_name: str
    url: str  # the broker's address, foxden://…
    agent_id: str
    key_id: str  # of its private key in the key store
    key_in: str  # "keyring" or "file"
    key_remark: str  # why it is not in the keyring; empty where it is
    joined_ms: int  # Unix milliseconds; 0: its enrolment was never answered
    name: str = ""  # what its owner called this machine when it joined; empty: the machine's own
    fetch_engine: bool = False  # the agent may fetch its engine without asking anybody
    state: str = ""  # as the running agent saw it last: online, waits, offline, refused, …
    state_reason: str = ""

    @property
    def address(self) -> Address:
        return parse(self.url)

    @property
    def audience(self) -> str:
        """What its broker is known by; part of everything that is signed."""
        return proofs.audience(self.address)

    @property
    def enrolled(self) -> bool:
        return bool(self.joined_ms)

    @property
    def title(self) -> str:
        """For people."""
        return f"{self.account_name or self.account_id} at {self.address.grpc_target}"

    def fits(self, name: str) -> bool:
        """Whether an owner may mean this pool."""
        host = self.address.host
        return name.lower() in (self.account_id, self.account_name.lower(), host, self.url)


def pools(folder: Path) -> list[Pool]:
    """What this machine has joined, with what the running agent says of it; by name."""
    now = told_in(folder / NOW)
    found = []
    entries = told_in(folder / FILE).get("pools")
    for entry in entries if isinstance(entries, list) else ():
        pool = _pool(entry, now)
        if pool is None:
            log.warning("an entry in %s cannot be read and is left out", folder / FILE)
        else:
            found.append(pool)
    return sorted(found, key=lambda pool: (pool.account_name, pool.url))


def keep(folder: Path, pool: Pool) -> None:
    """Add a pool, or replace the entry of the same account at the same broker."""
    write(folder, [*(one for one in pools(folder) if not same(one, pool)), pool])


def forget(folder: Path, pool: Pool) -> None:
    write(folder, [one for one in pools(folder) if not same(one, pool)])


def same(one: Pool, other: Pool) -> bool:
    """Whether both are one account at one broker. An account_id alone is no broker's property:
    another one may use it, and must never be shown the first one's key."""
    return one.account_id == other.account_id and one.audience == other.audience


def write(folder: Path, kept: Iterable[Pool]) -> None:
    entries = [asdict(pool) for pool in kept]
    for entry in entries:
        del entry["state"], entry["state_reason"]
    if entries:
        write_private(folder / FILE, json.dumps({"pools": entries}, indent=1))
    else:
        for name in (FILE, NOW):
            (folder / name).unlink(missing_ok=True)


def say_now(folder: Path, states: Mapping[str, tuple[str, str]]) -> None:
    """By key_id: state and reason, as the running agent sees them; nothing where no pool is left.
    Raises OSError."""
    if (folder / FILE).exists():
        write_private(folder / NOW, json.dumps({key: list(said) for key, said in states.items()}))
    if not (folder / FILE).exists():  # all were left meanwhile
        (folder / NOW).unlink(missing_ok=True)


def _pool(entry: object, now: Mapping[str, object]) -> Pool | None:
    names = {one.name: one for one in fields(Pool) if one.name not in ("state", "state_reason")}
    if not isinstance(entry, dict):
        return None
    values = {name: entry.get(name, one.default) for name, one in names.items()}
    # Field types are texts here: one that has no default and is not there is no value of its type.
    if any(type(value).__name__ != names[name].type for name, value in values.items()):
        return None
    said = now.get(values["key_id"])
    if isinstance(said, list) and len(said) == 2:
        values["state"], values["state_reason"] = str(said[0]), str(said[1])
    try:
        parse(values["url"])
    except AddressError:
        return None
    return Pool(**values)
