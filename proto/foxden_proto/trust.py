"""Knowing a broker before telling it a secret: the pinned CA of an address."""

from __future__ import annotations

import hmac
import ssl
import urllib.request
from http.client import HTTPException

from foxden_proto.address import Address, ca_pin

_CA_SECONDS = 10.0
_CA_BYTES = 64 * 1024


class WrongBroker(Exception):
    """What answers is not the broker that the address names."""


class BrokerUnreachable(Exception):
    """The broker's CA could not be fetched; it may be down for now."""


def pinned_root(address: Address) -> str:
    """The one certificate (PEM) to trust for a pinned address: fetched, then compared with the pin.

    Blocks for up to ten seconds. Raises WrongBroker or BrokerUnreachable.
    """
    return check_root(_fetch_ca(address), address)


def check_root(pem: str, address: Address) -> str:
    """The certificate in `pem`, rebuilt from the bytes that the pin was compared with.

    What was served must not be used as it came: a reader of PEM stops at the first certificate's
    padding, gRPC does not. The real CA, which is public, with an impostor's appended would pass
    the comparison, and both would be trusted.
    """
    try:
        root = ssl.DER_cert_to_PEM_cert(ssl.PEM_cert_to_DER_cert(pem.strip()))
        pin = ca_pin(root)
    except ValueError:
        root, pin = "", ""
    if not pin or not hmac.compare_digest(pin, address.pin):
        raise WrongBroker(
            f"what answers at {address.grpc_target} is not the broker this address names: "
            "its CA does not match the pin. Ask the administrator for the current address"
        )
    return root


def tls_context(address: Address) -> ssl.SSLContext | None:
    """The TLS settings for HTTP and WebSocket to this address; None where it is plain text.

    With a pin the server's name is `address.CERTIFICATE_NAME`, whatever was dialled: pass that as
    the server's host name. Blocks where there is a pin; raises like `pinned_root`.
    """
    if address.plain:
        return None
    if not address.pin:
        return ssl.create_default_context()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(cadata=pinned_root(address))
    return context


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: object) -> None:
        return None


def _fetch_ca(address: Address) -> str:
    """The CA as served, which proves nothing yet: hence no verification, and no secret sent."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    opener = urllib.request.build_opener(
        urllib.request.ProxyHandler({}),
        urllib.request.HTTPSHandler(context=context),
        _NoRedirect(),
    )
    try:
        with opener.open(f"{address.http_url}/ca.pem", timeout=_CA_SECONDS) as answer:
            return str(answer.read(_CA_BYTES).decode("ascii", "replace"))
    except (OSError, HTTPException, ValueError) as error:  # ValueError: an impossible host name
        raise BrokerUnreachable(
            f"the CA of the broker at {address.http_url} cannot be fetched ({error}): "
            "check that it runs and that the HTTP port in the address is right"
        ) from None
