"""What the broker does for an administrator beside tokens: limits, use, and cards set aside."""

from __future__ import annotations

import datetime as dt
import logging
import math

from foxden_broker import pool_calls
from foxden_broker.account import Account, now_ms
from foxden_broker.named import the_one
from foxden_broker.pool_parts import PoolCard
from foxden_broker.problems import invalid, not_found
from foxden_broker.quotas import most_queued
from foxden_broker.store.base import Quota
from foxden_proto import limits, logs
from foxden_proto.states import TaskEvent
from foxden_proto.v1 import pool_pb2 as pb

log = logging.getLogger(__name__)

_MOST_IMAGES = 10**9
_MOST_SECONDS = 1e9
_MOST_DAYS = 3660
_USUAL_DAYS = 30
_STANDINGS = {
    pb.STANDING_UNSPECIFIED: "",
    pb.STANDING_CORDONED: "cordoned",
    pb.STANDING_DRAINING: "draining",
}


# Limits and use


async def set_quota(account: Account, request: pb.SetQuotaRequest) -> pb.Quota:
    """Raises Problem INVALID_REQUEST for a member or a number that is out of range."""
    told = request.quota
    low, high = limits.MEMBER_CHARACTERS
    if not low <= len(told.member) <= high or not told.member.isprintable():
        raise invalid("member", "the member's name is unusable", f"{low} to {high} letters")
    for field in ("most_queued", "most_running"):
        if not 0 <= getattr(told, field) <= _MOST_IMAGES:
            allowed = f"0 (no limit of its own) to {_MOST_IMAGES:,} images"
            raise invalid(field, f"{field} is {getattr(told, field)}", allowed)
    seconds = told.gpu_seconds_per_day
    if math.isnan(seconds) or not 0 <= seconds <= _MOST_SECONDS:
        allowed = f"0 (no limit) to {_MOST_SECONDS:,.0f} seconds"
        raise invalid("gpu_seconds_per_day", f"gpu_seconds_per_day is {seconds}", allowed)
    quota = Quota(told.member, told.most_queued, told.most_running, seconds)
    await account.store.set_quota(account.account_id, quota, now_ms())
    await account.load_quotas()
    account.wake.set()  # more may run now
    return _quota(quota)


def list_quotas(account: Account) -> pb.ListQuotasResponse:
    tally = account.pool.tally
    members = []
    for member in sorted(tally.members() | set(account.quotas)):
        quota = account.quotas.get(member) or Quota(member, 0, 0, 0.0)
        members.append(
            pb.MemberQuota(
                quota=_quota(quota),
                most_queued=most_queued(quota, account.limits),
                queued=tally.queued(member),
                running=tally.running(member),
                gpu_seconds_today=tally.gpu_seconds_today(member, now_ms()),
            )
        )
    return pb.ListQuotasResponse(
        members=members,
        most_queued_in_account=account.limits.most_queued_in_account,
        queued_in_account=tally.queued_in_account,
    )


def _quota(quota: Quota) -> pb.Quota:
    return pb.Quota(
        member=quota.member,
        most_queued=quota.most_queued,
        most_running=quota.most_running,
        gpu_seconds_per_day=quota.gpu_seconds_per_day,
    )


async def usage(account: Account, request: pb.UsageRequest) -> pb.UsageResponse:
    if not 0 <= request.days <= _MOST_DAYS:
        raise invalid("days", f"days is {request.days}", f"1 to {_MOST_DAYS}, or 0 for 30")
    today = dt.datetime.now(dt.UTC).date()
    first = today - dt.timedelta(days=(request.days or _USUAL_DAYS) - 1)
    rows = await account.store.usage(
        account.account_id,
        member=request.member[: limits.MEMBER_CHARACTERS[1]],
        first_day=first.isoformat(),
        last_day=today.isoformat(),
    )
    return pb.UsageResponse(
        rows=[
            pb.MemberUsage(
                member=row.member, day=row.day, images=row.images, gpu_seconds=row.gpu_ms / 1000
            )
            for row in rows
        ]
    )


# Cards


async def set_standing(account: Account, request: pb.SetCardStandingRequest) -> pb.Card:
    if request.standing not in _STANDINGS:
        allowed = "cordoned, draining, or neither"
        raise invalid("standing", "this standing is unknown here", allowed)
    card = find_card(account, request.card)
    standing, card_id = _STANDINGS[request.standing], card.info.card_id
    if not await account.store.set_card_standing(account.account_id, card_id, standing, now_ms()):
        raise not_found("card", request.card)
    card = account.pool.cards.get(card_id, card)  # its agent may have said hello meanwhile
    card.standing = standing
    account.pool.card_changed(card_id)
    log.info(
        *("card %s is %s", card.info.name, standing or "in use again"),
        extra=logs.fields(card=card_id, account=account.account_id),
    )
    await give_back(account)
    account.cards_changed()
    return pool_calls.card_message(account, card)


async def give_back(account: Account) -> None:
    """Queue what draining cards hold but have not begun. The store decides whether they have:
    a start may be on its way here, and then nothing is taken."""
    draining = {c.info.card_id for c in account.pool.cards.values() if c.standing == "draining"}
    if not draining:
        return
    staged = [h for h in account.pool.held.values() if h.card_id in draining and not h.started]
    for held in staged:
        why = "its card is being drained"
        if await account.end_lease(held.lease, TaskEvent.REFUSE, why) is None:
            continue
        session = account.sessions.get(held.agent_id)
        if session is not None:
            session.link.stop(held.lease)
            session.flush()


async def forget_card(account: Account, name: str) -> pb.ForgetCardResponse:
    """Raises Problem INVALID_REQUEST for a card that is online or still has images."""
    card = find_card(account, name)
    told, card_id = card.info.name, card.info.card_id
    if card.online:
        what = f"{told} is online and would be back at once"
        raise invalid("card", what, "`foxden cards cordon`, or stop its agent first")
    if account.pool.images_on(card_id):
        what = f"{told} went away with images that it may still bring back"
        raise invalid("card", what, f"it again in {account.timers.lease_lost:.0f} s")
    await account.store.forget_card(account.account_id, card_id)
    if (now := account.pool.cards.get(card_id)) is not None and not now.online:
        account.pool.forget_card(card_id)
    account.cards_changed()
    return pb.ForgetCardResponse(card_id=card_id, name=told)


def find_card(account: Account, name: str) -> PoolCard:
    """The card with this id or name, or the only one whose id or name begins so.

    Raises Problem NOT_FOUND, or INVALID_REQUEST where several fit.
    """
    return the_one(
        *("card", name, account.pool.cards.values()),
        lambda card: (card.info.card_id, card.info.name),
        listed_by="foxden cards",
    )
