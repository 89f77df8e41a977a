"""The end of an agent that was revoked, or has left: its link, its images and its cards."""

from __future__ import annotations

import logging

from foxden_broker import agent_calls
from foxden_broker.account import Account, now_ms
from foxden_broker.session import dismiss
from foxden_proto import logs

log = logging.getLogger(__name__)


async def remove(account: Account, agent_id: str, reason: str) -> None:
    """Close the agent's link at once, give its images to others, and forget its cards. What it
    still sends is refused: its leases are over. Does nothing for an agent that has none of these.
    Raises StoreError where the store cannot write; the leases' own grace ends them then."""
    session = account.sessions.get(agent_id)
    connection = session.detach() if session is not None else None
    if session is not None:
        agent_calls.offline(account, session)  # nothing new goes there meanwhile
    try:
        await agent_calls.put_back(account, agent_id, reason)
        for card in account.pool.cards_of(agent_id):
            if not account.pool.images_on(card.info.card_id):
                account.pool.forget_card(card.info.card_id)
        await account.store.save_cards(account.account_id, agent_id, "", "", [], now_ms())
    finally:
        account.cards_changed()
        if connection is not None:
            await dismiss(connection, reason, final=True, code=4401)
    log.info(
        *("agent %s is out: %s", agent_id, reason),
        extra=logs.fields(agent=agent_id, account=account.account_id),
    )
