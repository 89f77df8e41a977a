"""Signed permissions: good for one lease, one kind and one key."""

from __future__ import annotations

import pytest

from foxden_broker.store.base import Lease
from foxden_broker.uploads import Signer, upload_path

LEASE = Lease("job", 3, 7)
OTHERS = [Lease("job2", 3, 7), Lease("job", 4, 7), Lease("job", 3, 8), Lease("job", 37, 7)]
SHA = "0" * 64


@pytest.fixture
def signer() -> Signer:
    return Signer(b"k" * 32)


def test_path_names_the_lease() -> None:
    assert upload_path("acc", LEASE) == "/v1/pictures/acc/job/3/7"


def test_token_is_good_for_its_lease_also_after_a_restart(signer: Signer) -> None:
    token = signer.upload_token("acc", LEASE)
    assert Signer(b"k" * 32).check_upload_token(token, "acc", LEASE)


@pytest.mark.parametrize("lease", OTHERS)
def test_token_is_not_good_for_another_lease(lease: Lease, signer: Signer) -> None:
    assert not signer.check_upload_token(signer.upload_token("acc", LEASE), "acc", lease)


def test_token_is_not_good_for_another_account_or_key(signer: Signer) -> None:
    token = signer.upload_token("acc", LEASE)
    assert not signer.check_upload_token(token, "acc2", LEASE)
    assert not Signer(b"x" * 32).check_upload_token(token, "acc", LEASE)


@pytest.mark.parametrize("text", ["", "0" * 64, "é", "x" * 10_000])
def test_made_up_text_is_neither_token_nor_receipt(text: str, signer: Signer) -> None:
    assert not signer.check_upload_token(text, "acc", LEASE)
    assert not signer.check_receipt(text, "acc", LEASE, SHA, 5)


def test_receipt_is_good_for_the_bytes_that_were_sent_alone(signer: Signer) -> None:
    receipt = signer.receipt("acc", LEASE, SHA, 5)
    assert signer.check_receipt(receipt, "acc", LEASE, SHA, 5)
    assert not signer.check_receipt(receipt, "acc", LEASE, "1" * 64, 5)
    assert not signer.check_receipt(receipt, "acc", LEASE, SHA, 6)
    assert not signer.check_receipt(receipt, "acc2", LEASE, SHA, 5)
    for lease in OTHERS:
        assert not signer.check_receipt(receipt, "acc", lease, SHA, 5)


def test_token_is_no_receipt_and_a_receipt_no_token(signer: Signer) -> None:
    assert not signer.check_receipt(signer.upload_token("acc", LEASE), "acc", LEASE, SHA, 5)
    assert not signer.check_upload_token(signer.receipt("acc", LEASE, SHA, 5), "acc", LEASE)
