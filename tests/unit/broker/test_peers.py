"""Who may call a broker as a peer, and how brokers with any certificate find each other."""

from __future__ import annotations

import datetime as dt
import ipaddress
from pathlib import Path

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from foxden_broker.peers import Peers, Seal, ca_for_peers
from foxden_broker.store.base import Replica
from foxden_broker.tls import Certificate, own_certificate
from foxden_proto.v1 import peer_pb2 as pb
from foxden_proto.v1 import peer_pb2_grpc

NOW = 1_800_000_000_000
SECRET = b"s" * 32


def test_signature_of_one_who_knows_the_secret_is_let_in() -> None:
    seal = Seal(SECRET)
    assert seal.why_refused(seal.sign("r1", "r2", NOW), "r2", NOW + 59_000) == ""


@pytest.mark.parametrize(
    ("signature", "why"),
    [
        ("", "not signed"),
        ("r1:now:abc", "not signed"),
        ("r1:" + "9" * 5000 + ":abc", "not signed"),
        (f"r1:{NOW}:abc", "wrong"),
        (Seal(b"other" * 7).sign("r1", "r2", NOW), "wrong"),
        (Seal(SECRET).sign("r1", "r3", NOW), "wrong"),  # for another replica
        (Seal(SECRET).sign("r1", "r2", NOW).replace("r1", "r9"), "wrong"),
        (Seal(SECRET).sign("r1", "r2", NOW - 61_000), "clocks"),  # heard long ago
        (Seal(SECRET).sign("r1", "r2", NOW + 61_000), "clocks"),
        ("r1:é:é", "not signed"),
        (f"r1:{NOW}:é", "wrong"),
    ],
)
def test_signature_of_anybody_else_is_refused(signature: str, why: str) -> None:
    assert why in Seal(SECRET).why_refused(signature, "r2", NOW)


class _Peer(peer_pb2_grpc.PeerServicer):
    def __init__(self, peers: Peers) -> None:
        self._peers = peers
        self.heard: list[str] = []

    async def Poke(self, request, context):
        self.heard.append(self._peers.check(dict(context.invocation_metadata())) or "welcome")
        return pb.PokeResponse()


def from_elsewhere(folder: Path) -> Certificate:
    """A certificate of a public kind: for a name and an address, signed by a CA we do not have."""
    key = ec.generate_private_key(ec.SECP256R1())
    names = [x509.DNSName("*.den.example"), x509.IPAddress(ipaddress.ip_address("192.0.2.1"))]
    now = dt.datetime.now(dt.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "den.example")]))
        .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Some CA")]))
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - dt.timedelta(hours=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .sign(ec.generate_private_key(ec.SECP256R1()), hashes.SHA256())
    )
    encoding, plain = serialization.Encoding.PEM, serialization.NoEncryption()
    form = serialization.PrivateFormat.PKCS8
    (folder / "cert.pem").write_bytes(made.public_bytes(encoding))
    (folder / "key.pem").write_bytes(key.private_bytes(encoding, form, plain))
    return Certificate(folder / "cert.pem", folder / "key.pem")


@pytest.mark.parametrize("kind", ["plain", "own CA", "from elsewhere"])
async def test_peer_is_reached_over(kind: str, tmp_path: Path) -> None:
    certificate = None
    if kind == "own CA":
        certificate = own_certificate(tmp_path, dt.datetime.now(dt.UTC))
    elif kind == "from elsewhere":
        certificate = from_elsewhere(tmp_path)
    server = grpc.aio.server()
    service = _Peer(Peers("r2", Seal(SECRET)))
    peer_pb2_grpc.add_PeerServicer_to_server(service, server)
    if certificate is None:
        port = server.add_insecure_port("127.0.0.1:0")
    else:
        pair = (certificate.key.read_bytes(), certificate.certificate.read_bytes())
        port = server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials([pair]))
    await server.start()
    peers = Peers("r1", Seal(SECRET))
    try:
        at = Replica("r2", f"127.0.0.1:{port}", ca_for_peers(certificate), "1", 0)
        await peers.poke(at, "den")
        assert service.heard == ["welcome"]
        # A poke to nobody is a hint that got lost, and no error.
        await peers.poke(Replica("r3", "127.0.0.1:1", "", "1", 0), "den")
    finally:
        await peers.close()
        await server.stop(None)


async def test_peer_with_another_certificate_than_the_database_says_is_not_spoken_to(
    tmp_path: Path,
) -> None:
    (tmp_path / "x").mkdir()
    expected = own_certificate(tmp_path / "x", dt.datetime.now(dt.UTC))
    (tmp_path / "y").mkdir()
    shown = own_certificate(tmp_path / "y", dt.datetime.now(dt.UTC))
    server = grpc.aio.server()
    service = _Peer(Peers("r2", Seal(SECRET)))
    peer_pb2_grpc.add_PeerServicer_to_server(service, server)
    pair = (shown.key.read_bytes(), shown.certificate.read_bytes())
    port = server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials([pair]))
    await server.start()
    peers = Peers("r1", Seal(SECRET))
    try:
        await peers.poke(Replica("r2", f"127.0.0.1:{port}", expected.ca_pem, "1", 0), "den")
        assert service.heard == []
    finally:
        await peers.close()
        await server.stop(None)
