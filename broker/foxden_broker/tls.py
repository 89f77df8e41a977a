"""The broker's own certificate authority, for pools whose broker has no public certificate.

The CA is made once and kept; the server's certificate is made anew when it nears its end (own_ca).
Its one fixed name is `foxden_proto.address.CERTIFICATE_NAME`, which pinned clients check for
whatever address they dialled.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from foxden_proto.address import ca_pin
from foxden_proto.home import write_private

_FILES = ("ca.key", "ca.pem", "server.key", "server.pem")
_MAKING_SECONDS = 60.0


class CertificateError(Exception):
    """The broker's own certificate could not be made; the text says why and what to do."""


@dataclass(frozen=True)
class Certificate:
    """What a TLS server needs. `ca_pem` and `pin` are empty for a certificate from elsewhere."""

    certificate: Path
    key: Path
    ca_pem: str = ""
    pin: str = ""


def own_certificate(folder: Path, now: dt.datetime, *, apart: bool = False) -> Certificate:
    """The certificate of this broker's own CA, made or renewed where needed; `apart`: by a process
    of its own, so that what this takes is gone with it. Raises CertificateError."""
    remembered = folder / "server.renew"
    if not _lasts(folder, remembered, now):
        renew = _make_apart(folder, now) if apart else _make(folder, now)
        write_private(remembered, f"{renew.isoformat()} {_digest(folder)}\n")
    ca_pem = (folder / "ca.pem").read_text()
    return Certificate(folder / "server.pem", folder / "server.key", ca_pem, ca_pin(ca_pem))


def _lasts(folder: Path, remembered: Path, now: dt.datetime) -> bool:
    """Whether there is nothing to be made: as was written down when these very files were."""
    if not all((folder / name).exists() for name in _FILES):
        return False
    with suppress(OSError, ValueError):
        renew, digest = remembered.read_text().split()
        return digest == _digest(folder) and now < dt.datetime.fromisoformat(renew)
    return False


def _digest(folder: Path) -> str:
    return hashlib.sha256((folder / "server.pem").read_bytes()).hexdigest()


def _make(folder: Path, now: dt.datetime) -> dt.datetime:
    from foxden_broker import own_ca

    return own_ca.make(folder, now)


def _make_apart(folder: Path, now: dt.datetime) -> dt.datetime:
    command = [sys.executable, "-m", "foxden_broker.own_ca", str(folder), now.isoformat()]
    try:
        made = subprocess.run(
            command,
            capture_output=True,
            text=True,
            check=True,
            timeout=_MAKING_SECONDS,
            creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),  # Windows opens one otherwise
        )
        return dt.datetime.fromisoformat(made.stdout.strip())
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        said = (getattr(error, "stderr", None) or str(error)).strip().splitlines()
        raise CertificateError(
            f"The broker's own certificate in {folder} could not be made "
            f"({said[-1] if said else type(error).__name__}): look whether its files can be read "
            "and written; what is damaged can be deleted, but agents then need the new address."
        ) from error
