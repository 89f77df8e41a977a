"""What the broker does for a client that looks at the pool, and for an administrator."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable

from foxden_broker.account import Account, now_ms
from foxden_broker.pool_parts import PoolCard
from foxden_broker.problems import invalid, not_found
from foxden_broker.store.base import Store
from foxden_broker.tokens import SCOPES, new_token
from foxden_broker.wire import token_message
from foxden_proto import limits
from foxden_proto.v1 import pool_pb2 as pb

_LONGEST_TOKEN_SECONDS = 10 * 365 * 24 * 3600.0
_WELCOME_SECONDS = 3.0  # a revoked token's stream goes on for this long at most
_STANDINGS = {
    "": pb.STANDING_UNSPECIFIED,
    "cordoned": pb.STANDING_CORDONED,
    "draining": pb.STANDING_DRAINING,
}


def cards(account: Account) -> list[pb.Card]:
    """Every card the account has, online or not, by name."""
    found = [card_message(account, card) for card in account.pool.cards.values()]
    return sorted(found, key=lambda card: (card.info.name, card.info.card_id))


async def watch_cards(
    account: Account, still_welcome: Callable[[], Awaitable[object]]
) -> AsyncIterator[pb.CardEvent]:
    """Every card once, then each that changed, for as long as the client listens and
    `still_welcome` raises no Problem."""
    told: dict[str, bytes] = {}
    with account.hub.subscribe(account.hub.CARDS) as subscription:
        while True:
            for card in cards(account):
                seen = pb.Card()
                seen.CopyFrom(card)
                seen.ClearField("last_seen_ms")
                state = seen.SerializeToString(deterministic=True)
                if told.get(card.info.card_id) != state:
                    told[card.info.card_id] = state
                    yield pb.CardEvent(card=card)
            await subscription.wait(_WELCOME_SECONDS)
            await still_welcome()


def card_message(account: Account, card: PoolCard) -> pb.Card:
    return pb.Card(
        info=card.info,
        agent_id=card.agent_id,
        agent_name=card.agent_name,
        agent_version=card.agent_version,
        online=card.online,
        mode=card.mode,
        reasons=card.reasons,
        readings=card.readings,
        running=account.pool.images_on(card.info.card_id),
        last_seen_ms=card.last_seen_ms,
        standing=_STANDINGS[card.standing],
    )


async def create_token(
    store: Store, account_id: str, request: pb.CreateTokenRequest
) -> pb.CreateTokenResponse:
    """Raises Problem INVALID_REQUEST for a member, scope or expiry that is out of range."""
    low, high = limits.MEMBER_CHARACTERS
    if not low <= len(request.member) <= high or not request.member.isprintable():
        raise invalid("member", "the member's name is unusable", f"{low} to {high} letters")
    scopes = frozenset(request.scopes)
    if not scopes or scopes - set(SCOPES):
        wrong = ", ".join(sorted(scopes - set(SCOPES))) or "none"
        raise invalid("scopes", f"scopes are {wrong[:100]}", ", ".join(SCOPES))
    if not 0 <= request.expires_in <= _LONGEST_TOKEN_SECONDS:
        allowed = "0 (never) or seconds up to ten years"
        raise invalid("expires_in", f"expires_in is {request.expires_in}", allowed)
    now = now_ms()
    expires = now + int(request.expires_in * 1000) if request.expires_in else 0
    token, secret = new_token(account_id, request.member, scopes, now, expires)
    await store.add_token(token)
    return pb.CreateTokenResponse(token=token_message(token), secret=secret)


async def list_tokens(store: Store, account_id: str) -> pb.ListTokensResponse:
    found = await store.tokens(account_id)
    return pb.ListTokensResponse(tokens=[token_message(token) for token in found])


async def revoke_token(store: Store, account_id: str, token_id: str) -> pb.Token:
    token = None
    if token_id.isprintable():  # no id is otherwise, and PostgreSQL takes no NUL
        token = await store.revoke_token(account_id, token_id, now_ms())
    if token is None:
        raise not_found("token", token_id)
    return token_message(token)
