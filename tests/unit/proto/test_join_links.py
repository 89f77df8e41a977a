"""The text of a join link: what was made is read, and whatever was changed is noticed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from foxden_proto import join_links, proofs
from foxden_proto.address import Address, parse
from foxden_proto.join_links import JoinLink, JoinLinkError, read, split_bearer

PIN = "0f" * 32
SECRET = "abcdefghijklmnopqrstuvwxyz"
LINK = JoinLink(Address("pool.example", 7433, 8080, PIN), "main1234", "abcd2345", SECRET)
ADDRESSES = [
    Address("pool.example"),
    Address("pool.example", 7433, 8080, PIN),
    Address("10.1.2.3", 9000, 7480, PIN),
    Address("2001:db8::1", 9000, 9001, PIN),
    Address("127.0.0.1"),
]


@pytest.mark.parametrize("address", ADDRESSES, ids=str)
def test_link_is_read_as_it_was_made(address: Address) -> None:
    link = JoinLink(address, "main1234", "abcd2345", SECRET)
    assert read(link.text()) == link
    assert read(f"  {link.text()}\n") == link


def test_link_needs_no_quotes_in_a_shell() -> None:
    assert not set(LINK.text()) & set("?&;|<>()$`\\\"' *#~!{}^")


def test_any_changed_character_is_noticed() -> None:
    text = LINK.text()
    for place, character in enumerate(text):
        for other in {"a", "b", "7", "/", "-", character.upper(), ""} - {character}:
            with pytest.raises(JoinLinkError):
                read(text[:place] + other + text[place + 1 :])


@pytest.mark.parametrize(
    "text",
    [
        "",
        "https://pool.example/join",
        "foxden://pool.example",
        "foxden:///join/a-b-c-d",
        "x" * 10_000,
        LINK.text()[:-1],
        LINK.text() + "a",
        LINK.text().replace("-", "\u2013"),
    ],
)
def test_what_is_no_link_is_refused_with_what_to_do(text: str) -> None:
    with pytest.raises(JoinLinkError, match="copy the whole link"):
        read(text)


@given(st.text(max_size=300))
def test_any_text_is_a_link_or_refused(text: str) -> None:
    for tried in (text, f"foxden://a/join/{text}"):
        with pytest.raises(JoinLinkError):
            read(tried)


def test_link_with_an_option_that_an_address_does_not_know_is_refused() -> None:
    body = f"foxden://pool.example:7433/join/color=red/main1234-abcd2345-{SECRET}"
    with pytest.raises(JoinLinkError, match="unknown part"):
        read(f"{body}-{join_links._check(body)}")


def test_an_address_is_read_by_no_client_from_a_join_link() -> None:
    with pytest.raises(ValueError, match="carries more"):
        parse(LINK.text())


def test_secret_is_in_no_repr() -> None:
    assert SECRET not in repr(LINK)
    assert SECRET not in str(LINK)


def test_bearer_is_taken_apart_again_and_nothing_else_is() -> None:
    assert split_bearer(LINK.bearer) == ("main1234", "abcd2345", SECRET)
    for other in ("", "fxd_a_b_c", LINK.bearer[:-1], LINK.bearer + "a", LINK.bearer.upper()):
        assert split_bearer(other) is None


# What is signed


def test_no_two_statements_have_the_same_bytes() -> None:
    nonce = b"n" * 32
    made = [
        make(*words)
        for make in (proofs.link_statement, proofs.leave_statement)
        for words in [
            (nonce, "account", "agent", "pin:1"),
            (nonce, "accounta", "gent", "pin:1"),
            (nonce, "account", "agentpin", ":1"),
            (b"m" * 32, "account", "agent", "pin:1"),
            (nonce, "account", "agent", "pin:2"),
            (nonce, "", "accountagent", "pin:1"),
        ]
    ]
    assert len(set(made)) == len(made)


def test_broker_is_known_by_its_pin_wherever_it_is_dialled() -> None:
    pinned = proofs.audience(Address("a", 1, 2, PIN))
    assert pinned == proofs.audience(Address("b", 3, 4, PIN))
    assert pinned != proofs.audience(Address("a", 1, 2, "1" * 64))
    assert proofs.audience(Address("a", 1, 2)) != proofs.audience(Address("b", 1, 2))


def test_authorization_is_read_back_and_other_headers_are_not() -> None:
    header = proofs.authorization("main", "agent-1")
    assert proofs.split_authorization(header) == ("main", "agent-1")
    for other in ("", "Bearer fxd_a_b_c", "foxden-key main", "foxden-key a b c"):
        assert proofs.split_authorization(other) is None
