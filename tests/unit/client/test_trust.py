"""Who is spoken to: plain text on loopback alone, a pinned CA or nobody."""

from __future__ import annotations

import datetime
import hashlib
import http.server
import ssl
import threading

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

import foxden
from foxden._transport import open_channel
from foxden_proto.address import CERTIFICATE_NAME, Address

NOW = datetime.datetime.now(datetime.UTC)


class Authority:
    """A CA that signs one certificate for the broker's name."""

    def __init__(self) -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        self._key, self.certificate = key, self._signed("a CA", key.public_key(), key, ca=True)
        self.server_key = ec.generate_private_key(ec.SECP256R1())
        self.server = self._signed(CERTIFICATE_NAME, self.server_key.public_key(), key, ca=False)

    @staticmethod
    def _signed(name, public_key, signer, *, ca):
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        issuer = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "a CA")])
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(issuer)
            .public_key(public_key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(NOW - datetime.timedelta(hours=1))
            .not_valid_after(NOW + datetime.timedelta(hours=1))
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
            .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
            .sign(signer, hashes.SHA256())
        )

    @property
    def pem(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    @property
    def pin(self) -> str:
        der = self.certificate.public_bytes(serialization.Encoding.DER)
        return hashlib.sha256(der).hexdigest()

    @property
    def server_pem(self) -> bytes:
        return self.server.public_bytes(serialization.Encoding.PEM)

    @property
    def key_pem(self) -> bytes:
        return self.server_key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )


@pytest.fixture
def authority():
    return Authority()


@pytest.fixture
def serve_ca(tmp_path):
    """Serve `pem` over HTTPS with the authority's certificate; returns the port."""
    servers = []

    def serve(authority: Authority, pem: bytes) -> int:
        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                assert "authorization" not in self.headers
                self.send_response(200)
                self.end_headers()
                self.wfile.write(pem)

            def log_message(self, *_: object) -> None:
                pass

        (tmp_path / "chain.pem").write_bytes(authority.server_pem)
        (tmp_path / "key.pem").write_bytes(authority.key_pem)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(tmp_path / "chain.pem", tmp_path / "key.pem")
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.socket = context.wrap_socket(server.socket, server_side=True)
        servers.append(server)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return server.server_address[1]

    yield serve
    for server in servers:
        server.shutdown()
        server.server_close()


def secure(far, authority: Authority) -> int:
    """Restart the far end behind the authority's certificate; returns its port."""
    far.stop()
    pair = (authority.key_pem, authority.server_pem)
    return far.start(0, grpc.ssl_server_credentials([pair]))


def test_a_broker_whose_ca_has_the_pin_is_trusted_under_any_address(far, authority, serve_ca, say):
    port, http_port = secure(far, authority), serve_ca(authority, authority.pem)
    url = f"foxden://localhost:{port}?pin={authority.pin}&http={http_port}"
    with foxden.Client(url, say.TOKEN, retry_for=3) as client:
        assert client.cards()
    assert far.broker.tokens_seen == {f"Bearer {say.TOKEN}"}


def test_a_ca_without_the_pin_is_refused_before_the_token_is_sent(far, authority, serve_ca, say):
    port, http_port = secure(far, authority), serve_ca(authority, authority.pem)
    url = f"foxden://127.0.0.1:{port}?pin={'0' * 64}&http={http_port}"
    with (
        foxden.Client(url, say.TOKEN, retry_for=3) as client,
        pytest.raises(foxden.WrongBroker, match="does not match the pin"),
    ):
        client.cards()
    assert not far.broker.tokens_seen


def test_an_impostors_ca_behind_the_real_one_is_not_trusted(far, authority, serve_ca, say):
    real, impostor = authority, Authority()
    port = secure(far, impostor)
    http_port = serve_ca(impostor, real.pem + impostor.pem)
    url = f"foxden://127.0.0.1:{port}?pin={real.pin}&http={http_port}"
    with (
        foxden.Client(url, say.TOKEN, retry_for=0.5) as client,
        pytest.raises(foxden.Unavailable),
    ):
        client.cards()
    assert not far.broker.tokens_seen


def test_a_ca_that_cannot_be_fetched_is_unavailable(far, authority, say):
    port = secure(far, authority)
    with (
        foxden.Client(
            f"foxden://127.0.0.1:{port}?pin={authority.pin}&http=1", say.TOKEN, retry_for=0.3
        ) as client,
        pytest.raises(foxden.Unavailable, match="cannot be fetched"),
    ):
        client.cards()


@pytest.mark.parametrize("host", ["pool.example", "192.168.0.7", "0.0.0.0"])
async def test_off_loopback_there_is_no_plain_text(host, monkeypatch):
    opened = []
    monkeypatch.setattr(grpc.aio, "insecure_channel", lambda *_, **__: opened.append("plain"))
    monkeypatch.setattr(grpc.aio, "secure_channel", lambda *_, **__: opened.append("TLS"))
    await open_channel(Address(host))
    assert opened == ["TLS"]
