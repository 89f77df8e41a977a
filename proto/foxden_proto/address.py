"""The forms of a broker's address.

    foxden://host[:port]                       TLS, verified by the system's roots
    foxden://host[:port]?pin=<sha256>[&http=N] TLS, trusting only the CA with this hash
    foxden://127.0.0.1[:port]                  plain text, loopback alone

The CA of a pinned broker is fetched from its HTTP port at /ca.pem and compared with the pin,
the sha256 of its DER form. `http` names the HTTP port where it is not 7480.
"""

from __future__ import annotations

import hashlib
import ipaddress
import re
import ssl
from dataclasses import dataclass
from urllib.parse import parse_qsl, urlencode, urlsplit

from foxden_proto.limits import DEFAULT_GRPC_PORT, DEFAULT_HTTP_PORT

# The one name in every certificate our CA signs; clients of a pinned broker check for it,
# so that the certificate holds under any address the broker is reached by.
CERTIFICATE_NAME = "foxden-broker"

_FORM = "write it as foxden://host:port or foxden://host:port?pin=SHA256"


class AddressError(ValueError):
    """A broker address that cannot be used; the text says why and what one looks like."""


@dataclass(frozen=True)
class Address:
    """Where a broker is, and how to know it is the right one."""

    host: str
    grpc_port: int = DEFAULT_GRPC_PORT
    http_port: int = DEFAULT_HTTP_PORT
    pin: str = ""  # sha256 of the CA, lower-case hex; empty: the system's roots

    @property
    def loopback(self) -> bool:
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    @property
    def plain(self) -> bool:
        """True where no TLS is used: to this machine, without a pin."""
        return self.loopback and not self.pin

    @property
    def grpc_target(self) -> str:
        return f"{self._bracketed}:{self.grpc_port}"

    @property
    def http_url(self) -> str:
        return f"{'http' if self.plain else 'https'}://{self._bracketed}:{self.http_port}"

    @property
    def _bracketed(self) -> str:
        return f"[{self.host}]" if ":" in self.host else self.host

    def __str__(self) -> str:
        query = {}
        if self.pin:
            query["pin"] = self.pin
        if self.http_port != DEFAULT_HTTP_PORT:
            query["http"] = str(self.http_port)
        return f"foxden://{self.grpc_target}" + (f"?{urlencode(query)}" if query else "")


def parse(url: str) -> Address:
    """Read a foxden:// URL. Raises AddressError with what is wrong and what to write instead."""
    try:
        parts = urlsplit(url.strip())
        port = parts.port
    except ValueError as error:
        raise AddressError(f"the address {url!r} is malformed ({error}): {_FORM}") from None
    if parts.scheme != "foxden" or not parts.hostname:
        raise AddressError(f"the address {url!r} is not a broker's: {_FORM}")
    if parts.username or parts.password or parts.path.strip("/") or parts.fragment:
        raise AddressError(f"the address of {parts.hostname} carries more than a broker's: {_FORM}")
    query = dict(parse_qsl(parts.query, keep_blank_values=True))
    unknown = sorted(set(query) - {"pin", "http"})
    if unknown:
        raise AddressError(f"the address has an unknown part {unknown[0]!r}: {_FORM}")
    pin = query.get("pin", "").lower()
    if "pin" in query and not re.fullmatch(r"[0-9a-f]{64}", pin):
        raise AddressError("the pin in the address is not 64 hex digits: copy the whole address")
    http = query.get("http", str(DEFAULT_HTTP_PORT))
    if not re.fullmatch(r"[0-9]{1,5}", http) or not 0 < int(http) < 65536:
        raise AddressError(f"the HTTP port {http!r} in the address is not a port: use 1 to 65535")
    if port == 0:
        raise AddressError(f"port 0 in {url!r} is not a port: use 1 to 65535")
    return Address(parts.hostname, port or DEFAULT_GRPC_PORT, int(http), pin)


def ca_pin(ca_pem: str) -> str:
    """The pin of a CA certificate: sha256 over its DER form, lower-case hex."""
    return hashlib.sha256(ssl.PEM_cert_to_DER_cert(ca_pem)).hexdigest()
