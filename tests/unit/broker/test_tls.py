"""The broker's own certificates: made once, renewed in time, one pin for all of them."""

from __future__ import annotations

import datetime as dt
import re
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.x509.oid import NameOID

from foxden_broker.tls import Certificate, CertificateError, own_certificate
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


def test_made_apart_it_is_the_same_and_leaves_cryptography_out_of_the_broker(
    tmp_path: Path,
) -> None:
    code = (
        "import datetime as dt, pathlib, sys\n"
        "import foxden_broker.app\n"
        "from foxden_broker.tls import own_certificate\n"
        "folder, now = pathlib.Path(sys.argv[1]), dt.datetime.fromisoformat(sys.argv[2])\n"
        "made = own_certificate(folder, now, apart=True)\n"
        "assert own_certificate(folder, now, apart=True) == made\n"
        "assert not {'cryptography', 'alembic', 'scipy.optimize'} & set(sys.modules)\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path), NOW.isoformat()]
    subprocess.run(command, check=True, timeout=60)
    before = (tmp_path / "server.pem").read_bytes()
    again = own_certificate(tmp_path, NOW + DAY)
    assert again.certificate.read_bytes() == before
    assert signed_by_its_ca(again)


def test_certificate_of_an_earlier_version_is_kept(made: Certificate, tmp_path: Path) -> None:
    before = server(made).serial_number
    (tmp_path / "server.renew").unlink()  # it wrote none
    assert server(own_certificate(tmp_path, NOW)).serial_number == before


def test_certificate_that_was_put_back_from_a_copy_is_looked_at_itself(
    made: Certificate, tmp_path: Path
) -> None:
    old = {name: (tmp_path / name).read_bytes() for name in ("server.pem", "server.key")}
    later = NOW + 380 * DAY
    own_certificate(tmp_path, later)
    for name, data in old.items():
        (tmp_path / name).write_bytes(data)
    assert server(own_certificate(tmp_path, later)).not_valid_after_utc > later + 30 * DAY


def test_damaged_key_made_apart_says_where_and_what_to_do(
    made: Certificate, tmp_path: Path
) -> None:
    (tmp_path / "server.pem").unlink()
    (tmp_path / "ca.key").write_text("no key")
    with pytest.raises(CertificateError, match=rf"{re.escape(str(tmp_path))}.*deleted"):
        own_certificate(tmp_path, NOW, apart=True)


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
