"""Makes the certificates of the broker's own authority: all that needs cryptography, which is a
tenth of an idle broker's memory. `python -m foxden_broker.own_ca FOLDER NOW` does it in a process
that ends, and writes when to look at the certificate again.
"""

from __future__ import annotations

import datetime as dt
import sys
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from foxden_proto.address import CERTIFICATE_NAME
from foxden_proto.home import write_private

_CA_DAYS = 3650
_SERVER_DAYS = 397
_RENEW_DAYS = 30


def make(folder: Path, now: dt.datetime) -> dt.datetime:
    """See to it that the folder has a CA and a certificate of it that lasts; when the latter is to
    be looked at again."""
    ca_key_path, ca_path = folder / "ca.key", folder / "ca.pem"
    server, server_key = folder / "server.pem", folder / "server.key"
    if not ca_path.exists() or not ca_key_path.exists():
        server.unlink(missing_ok=True)  # signed by a CA that is gone
        ca_key = ec.generate_private_key(ec.SECP256R1())
        write_private(ca_key_path, _key_pem(ca_key))
        write_private(ca_path, _pem(_ca(ca_key, now)))
    ca = x509.load_pem_x509_certificate(ca_path.read_bytes())
    if not server_key.exists() or not server.exists() or now >= _renew(server):
        ca_key = serialization.load_pem_private_key(ca_key_path.read_bytes(), None)  # type: ignore[assignment]
        key = ec.generate_private_key(ec.SECP256R1())
        write_private(server_key, _key_pem(key))
        write_private(server, _pem(_server(key, ca, ca_key, now)))
    return _renew(server)


def _renew(path: Path) -> dt.datetime:
    until = x509.load_pem_x509_certificate(path.read_bytes()).not_valid_after_utc
    return until - dt.timedelta(days=_RENEW_DAYS)


def _ca(key: ec.EllipticCurvePrivateKey, now: dt.datetime) -> x509.Certificate:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Foxden broker CA")])
    usage = x509.KeyUsage(False, False, False, False, False, True, True, False, False)
    return (
        _builder(name, name, key, now, _CA_DAYS)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .sign(key, hashes.SHA256())
    )


def _server(
    key: ec.EllipticCurvePrivateKey,
    ca: x509.Certificate,
    ca_key: ec.EllipticCurvePrivateKey,
    now: dt.datetime,
) -> x509.Certificate:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, CERTIFICATE_NAME)])
    names = x509.SubjectAlternativeName([x509.DNSName(CERTIFICATE_NAME)])
    issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key())
    return (
        _builder(name, ca.subject, key, now, _SERVER_DAYS)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(names, critical=False)
        .add_extension(issuer, critical=False)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .sign(ca_key, hashes.SHA256())
    )


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePrivateKey,
    now: dt.datetime,
    days: int,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        # An hour back: the clocks of thirty PCs are not one clock.
        .not_valid_before(now - dt.timedelta(hours=1))
        .not_valid_after(now + dt.timedelta(days=days))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )


def _pem(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(serialization.Encoding.PEM).decode()


def _key_pem(key: ec.EllipticCurvePrivateKey) -> str:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    ).decode()


if __name__ == "__main__":
    renew = make(Path(sys.argv[1]), dt.datetime.fromisoformat(sys.argv[2]))
    sys.stdout.write(renew.isoformat())
