"""Broker addresses: what is understood, what is refused, and with which words."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foxden_proto.address import Address, AddressError, parse

PIN = "0123456789abcdef" * 4


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("foxden://broker.example", Address("broker.example")),
        ("foxden://broker.example:9000", Address("broker.example", 9000)),
        (" foxden://Broker.Example/ ", Address("broker.example")),
        (f"foxden://10.0.0.5:7433?pin={PIN}", Address("10.0.0.5", pin=PIN)),
        (f"foxden://10.0.0.5?pin={PIN.upper()}", Address("10.0.0.5", pin=PIN)),
        (f"foxden://b:1?pin={PIN}&http=8443", Address("b", 1, 8443, PIN)),
        ("foxden://[::1]:7433", Address("::1")),
        ("foxden://127.0.0.1?http=1", Address("127.0.0.1", http_port=1)),
    ],
)
def test_good_address_is_understood_and_written_back(url: str, address: Address) -> None:
    assert parse(url) == address
    assert parse(str(address)) == address


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("", "not a broker's"),
        ("broker.example:7433", "not a broker's"),
        ("https://broker.example", "not a broker's"),
        ("foxden://", "not a broker's"),
        ("foxden://:7433", "not a broker's"),
        ("foxden://b:port", "malformed"),
        ("foxden://b:99999", "malformed"),
        ("foxden://[::1", "malformed"),
        ("foxden://b:0", "port 0"),
        ("foxden://user:secret@b", "more than a broker's"),
        ("foxden://b/path", "more than a broker's"),
        ("foxden://b#part", "more than a broker's"),
        ("foxden://b?pin=", "64 hex digits"),
        ("foxden://b?pin=abc", "64 hex digits"),
        (f"foxden://b?pin={PIN}0", "64 hex digits"),
        (f"foxden://b?pn={PIN}", "unknown part 'pn'"),
        ("foxden://b?http=0", "not a port"),
        ("foxden://b?http=65536", "not a port"),
        ("foxden://b?http=", "not a port"),
        ("foxden://b?http=-1", "not a port"),
        ("foxden://b?http=１２", "not a port"),
        ("foxden://b?http=" + "9" * 5000, "not a port"),
    ],
)
def test_bad_address_is_refused_with_what_is_wrong(url: str, says: str) -> None:
    with pytest.raises(AddressError, match=says):
        parse(url)


def test_refusal_does_not_repeat_a_password() -> None:
    with pytest.raises(AddressError) as caught:
        parse("foxden://me:hunter2@b")
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "plain", "http_url", "target"),
    [
        ("foxden://localhost", True, "http://localhost:7480", "localhost:7433"),
        ("foxden://127.8.9.1:1", True, "http://127.8.9.1:7480", "127.8.9.1:1"),
        ("foxden://[::1]", True, "http://[::1]:7480", "[::1]:7433"),
        (f"foxden://127.0.0.1?pin={PIN}", False, "https://127.0.0.1:7480", "127.0.0.1:7433"),
        ("foxden://10.0.0.5?http=80", False, "https://10.0.0.5:80", "10.0.0.5:7433"),
        ("foxden://0.0.0.0", False, "https://0.0.0.0:7480", "0.0.0.0:7433"),
        ("foxden://localhost.evil.net", False, "https://localhost.evil.net:7480", None),
        ("foxden://127.0.0.1.evil.net", False, "https://127.0.0.1.evil.net:7480", None),
    ],
)
def test_plain_text_to_this_machine_without_a_pin_alone(
    url: str, plain: bool, http_url: str, target: str | None
) -> None:
    address = parse(url)
    assert address.plain is plain
    assert address.http_url == http_url
    if target:
        assert address.grpc_target == target


@given(st.text(max_size=60) | st.text(max_size=60).map(lambda rest: "foxden://" + rest))
@settings(deadline=None, max_examples=150)
def test_any_text_is_an_address_or_an_address_error(text: str) -> None:
    try:
        address = parse(text)
    except AddressError:
        return
    assert 0 < address.grpc_port < 65536
    assert 0 < address.http_port < 65536
    assert address.host


@given(
    st.from_regex(r"[a-z0-9]([a-z0-9.-]{0,30}[a-z0-9])?", fullmatch=True),
    st.integers(1, 65535),
    st.integers(1, 65535),
    st.sampled_from(["", PIN]),
)
@settings(deadline=None, max_examples=100)
def test_written_address_is_read_back_as_it_was(host: str, grpc: int, http: int, pin: str) -> None:
    address = Address(host, grpc, http, pin)
    assert parse(str(address)) == address
