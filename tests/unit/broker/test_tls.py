"""The broker's own certificates: made once, renewed in time, one pin for all of them."""

from __future__ import annotations

import datetime as dt
import stat
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.x509.oid import NameOID

from foxden_broker.tls import Certificate, own_certificate
from foxden_proto.address import CERTIFICATE_NAME, ca_pin

NOW = dt.datetime(2026, 11, 22, 12, tzinfo=dt.UTC)
DAY = dt.timedelta(days=1)


def server(made: Certificate) -> x509.Certificate:
    return x509.load_pem_x509_certificate(made.certificate.read_bytes())


def signed_by_its_ca(made: Certificate) -> bool:
    authority = x509.load_pem_x509_certificate(made.ca_pem.encode())
    server(made).verify_directly_issued_by(authority)  # raises where it was not
    return True


@pytest.fixture
def made(tmp_path: Path) -> Certificate:
    return own_certificate(tmp_path, NOW)


def test_first_start_makes_a_ca_and_a_certificate_it_signed(made: Certificate) -> None:
    assert signed_by_its_ca(made)
    assert made.pin == ca_pin(made.ca_pem)
    names = server(made).extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == [CERTIFICATE_NAME]
    (name,) = server(made).subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    assert name.value == CERTIFICATE_NAME


def test_ca_can_sign_servers_and_no_further_ca(made: Certificate) -> None:
    authority = x509.load_pem_x509_certificate(made.ca_pem.encode())
    limits = authority.extensions.get_extension_for_class(x509.BasicConstraints)
    assert (limits.value.ca, limits.value.path_length, limits.critical) == (True, 0, True)
    own = server(made).extensions.get_extension_for_class(x509.BasicConstraints).value
    assert not own.ca


def test_keys_are_readable_by_their_owner_alone(made: Certificate, tmp_path: Path) -> None:
    for path in tmp_path.glob("*.key"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_clock_an_hour_behind_finds_it_valid(made: Certificate) -> None:
    assert server(made).not_valid_before_utc <= NOW - dt.timedelta(hours=1)


@pytest.mark.parametrize(
    ("days", "renewed"), [(0, False), (366, False), (368, True), (397, True), (500, True)]
)
def test_next_start_renews_near_the_end_alone_and_keeps_the_pin(
    days: int, renewed: bool, made: Certificate, tmp_path: Path
) -> None:
    before = server(made).serial_number
    again = own_certificate(tmp_path, NOW + days * DAY)
    assert (server(again).serial_number != before) is renewed
    assert again.pin == made.pin
    assert signed_by_its_ca(again)
    assert server(again).not_valid_after_utc > NOW + (days + 30) * DAY


def test_pin_is_the_same_over_many_renewals(made: Certificate, tmp_path: Path) -> None:
    pins = {own_certificate(tmp_path, NOW + year * 380 * DAY).pin for year in range(5)}
    assert pins == {made.pin}


@pytest.mark.parametrize("lost", ["server.pem", "server.key"])
def test_lost_server_file_is_made_again_under_the_same_pin(
    lost: str, made: Certificate, tmp_path: Path
) -> None:
    (tmp_path / lost).unlink()
    again = own_certificate(tmp_path, NOW)
    assert again.pin == made.pin
    assert signed_by_its_ca(again)


@pytest.mark.parametrize("lost", ["ca.pem", "ca.key"])
def test_lost_ca_file_makes_another_ca_and_a_certificate_that_it_signed(
    lost: str, made: Certificate, tmp_path: Path
) -> None:
    (tmp_path / lost).unlink()
    again = own_certificate(tmp_path, NOW)
    assert again.pin != made.pin
    assert signed_by_its_ca(again)
