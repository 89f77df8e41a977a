"""Where this installation's page is, for the programs of the same user: `page.json`, 0600.

It holds the secret by which they call it. Whoever may read the file may do what the owner may.
"""

from __future__ import annotations

import hmac
import json
import logging
import re
from dataclasses import asdict, dataclass, field
from pathlib import Path

from foxden_proto.home import write_private

log = logging.getLogger(__name__)

FILE = "page.json"
_SECRET = re.compile(r"[A-Za-z0-9_-]{20,100}")


@dataclass(frozen=True)
class Whereabouts:
    """The page of an agent that runs, or did when it wrote this."""

    port: int
    secret: str = field(repr=False)

    def proof(self, nonce: str) -> str:
        """What only who knows the secret can answer to this nonce."""
        return hmac.new(self.secret.encode(), nonce.encode(), "sha256").hexdigest()

    @property
    def origin(self) -> str:
        return f"http://127.0.0.1:{self.port}"


def write(folder: Path, where: Whereabouts) -> None:
    """Raises OSError."""
    write_private(folder / FILE, json.dumps(asdict(where)) + "\n")


def read(folder: Path) -> Whereabouts | None:
    """None where no agent with a page has run, or the file is damaged."""
    try:
        told = json.loads((folder / FILE).read_text(encoding="utf-8"))
        port, secret = told["port"], told["secret"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    if not isinstance(port, int) or not 0 < port < 65536:
        return None
    if not isinstance(secret, str) or not _SECRET.fullmatch(secret):
        return None
    return Whereabouts(port, secret)


def forget(folder: Path, where: Whereabouts) -> None:
    """Take the file away, unless it is another agent's by now."""
    if read(folder) == where:
        try:
            (folder / FILE).unlink(missing_ok=True)
        except OSError as error:
            log.debug("%s stays: %s", folder / FILE, error)
