"""The pin against real TLS servers: one certificate authority is trusted, and no other."""

from __future__ import annotations

import datetime as dt
import hashlib
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from foxden_broker.tls import Certificate, own_certificate
from foxden_proto.address import CERTIFICATE_NAME, Address
from foxden_proto.trust import BrokerUnreachable, WrongBroker, check_root, pinned_root, tls_context

Serve = Callable[..., Address]


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return own_certificate(tmp_path_factory.mktemp("real"), dt.datetime.now(dt.UTC))


@pytest.fixture(scope="module")
def impostor(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return own_certificate(tmp_path_factory.mktemp("impostor"), dt.datetime.now(dt.UTC))


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Starts servers that speak TLS with a certificate and answer each call with the same bytes."""
    listeners: list[socket.socket] = []

    def start(certificate: Certificate | None, answer: bytes, pin: str) -> Address:
        listener = socket.create_server(("127.0.0.1", 0))
        listeners.append(listener)
        arguments = (listener, certificate, answer)
        threading.Thread(target=answer_all, args=arguments, daemon=True).start()
        return Address("127.0.0.1", 1, listener.getsockname()[1], pin)

    yield start
    for listener in listeners:
        listener.close()


def answer_all(listener: socket.socket, certificate: Certificate | None, answer: bytes) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    if certificate:
        context.load_cert_chain(certificate.certificate, certificate.key)
    while True:
        try:
            raw, _ = listener.accept()
        except OSError:
            return  # closed: the test is over
        try:
            raw.settimeout(5)
            with raw, context.wrap_socket(raw, server_side=True) if certificate else raw as stream:
                stream.recv(4096)
                stream.sendall(answer)
        except OSError:
            pass  # the client did not like us: that is what some tests want


def http(body: str, status: str = "200 OK", head: str = "") -> bytes:
    length = len(body.encode())
    return f"HTTP/1.1 {status}\r\nContent-Length: {length}\r\n{head}\r\n{body}".encode()


def shake_hands(address: Address, context: ssl.SSLContext, name: str = CERTIFICATE_NAME) -> None:
    with (
        socket.create_connection((address.host, address.http_port), timeout=5) as raw,
        context.wrap_socket(raw, server_hostname=name),
    ):
        pass


def test_right_pin_trusts_the_broker_under_its_fixed_name(real: Certificate, serve: Serve) -> None:
    address = serve(real, http(real.ca_pem), real.pin)
    context = tls_context(address)
    assert context is not None
    shake_hands(address, context)
    with pytest.raises(ssl.SSLCertVerificationError):
        shake_hands(address, context, "127.0.0.1")


def test_wrong_pin_is_the_wrong_broker(
    real: Certificate, impostor: Certificate, serve: Serve
) -> None:
    address = serve(impostor, http(impostor.ca_pem), real.pin)
    with pytest.raises(WrongBroker, match="administrator"):
        tls_context(address)


def test_right_ca_file_served_by_an_impostor_does_not_let_it_in(
    real: Certificate, impostor: Certificate, serve: Serve
) -> None:
    address = serve(impostor, http(real.ca_pem), real.pin)
    context = tls_context(address)
    assert context is not None
    with pytest.raises(ssl.SSLCertVerificationError):
        shake_hands(address, context)


@pytest.mark.parametrize("joint", ["", "\n", "\n# more\n"])
def test_ca_file_with_an_impostor_appended_trusts_the_real_one_at_most(
    joint: str, real: Certificate, impostor: Certificate, serve: Serve
) -> None:
    served = real.ca_pem + joint + impostor.ca_pem
    address = serve(impostor, http(served), real.pin)
    try:
        root = pinned_root(address)
    except WrongBroker:
        return  # refused altogether: as good
    assert root.count("BEGIN CERTIFICATE") == 1
    assert ssl.PEM_cert_to_DER_cert(root) == ssl.PEM_cert_to_DER_cert(real.ca_pem)
    context = tls_context(address)
    assert context is not None
    assert len(context.get_ca_certs()) == 1
    with pytest.raises(ssl.SSLCertVerificationError):
        shake_hands(address, context)


def test_impostor_put_before_the_real_ca_is_the_wrong_broker(
    real: Certificate, impostor: Certificate
) -> None:
    with pytest.raises(WrongBroker):
        check_root(impostor.ca_pem + real.ca_pem, Address("b", pin=real.pin))


@pytest.mark.parametrize("pem", ["", "<html>", "-----BEGIN CERTIFICATE-----\nä\n", "\x00" * 100])
@pytest.mark.parametrize("pin", ["", hashlib.sha256(b"").hexdigest()])
def test_what_is_no_certificate_is_the_wrong_broker(pem: str, pin: str) -> None:
    with pytest.raises(WrongBroker):
        check_root(pem, Address("b", pin=pin))


def test_redirect_to_somewhere_else_is_not_followed(real: Certificate, serve: Serve) -> None:
    elsewhere = serve(real, http(real.ca_pem), real.pin)
    head = f"Location: {elsewhere.http_url}/ca.pem\r\n"
    address = serve(real, http("", "302 Found", head), real.pin)
    with pytest.raises(BrokerUnreachable):
        pinned_root(address)


@pytest.mark.parametrize("answer", [b"", b"SSH-2.0-OpenSSH_9\r\n", http("no", "404 Not Found")])
def test_answer_that_holds_no_ca_is_an_unreachable_broker(
    answer: bytes, real: Certificate, serve: Serve
) -> None:
    with pytest.raises(BrokerUnreachable, match="check that it runs"):
        pinned_root(serve(real, answer, real.pin))


def test_server_that_speaks_no_tls_is_an_unreachable_broker(
    real: Certificate, serve: Serve
) -> None:
    with pytest.raises(BrokerUnreachable):
        pinned_root(serve(None, http(real.ca_pem), real.pin))


def test_port_where_nobody_listens_is_an_unreachable_broker(real: Certificate) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(BrokerUnreachable):
        pinned_root(Address("127.0.0.1", 1, port, real.pin))


def test_host_name_that_cannot_be_is_an_unreachable_broker(real: Certificate) -> None:
    with pytest.raises(BrokerUnreachable):
        pinned_root(Address("a" * 70 + ".example", 1, 1, real.pin))


def test_address_without_a_pin_uses_the_systems_roots_and_loopback_none() -> None:
    context = tls_context(Address("broker.example"))
    assert context is not None
    assert context.check_hostname
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert tls_context(Address("127.0.0.1")) is None


def test_pinned_context_checks_names_and_certificates(real: Certificate, serve: Serve) -> None:
    context = tls_context(serve(real, http(real.ca_pem), real.pin))
    assert context is not None
    assert context.check_hostname
    assert context.verify_mode is ssl.CERT_REQUIRED


def test_certificate_files_hold_what_the_pin_says(real: Certificate) -> None:
    der = ssl.PEM_cert_to_DER_cert(real.ca_pem)
    assert real.pin == hashlib.sha256(der).hexdigest()
    assert Path(real.certificate).exists()
