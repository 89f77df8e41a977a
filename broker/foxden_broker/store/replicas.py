"""Several brokers on one database: who plans for an account, who is there, what they share."""

from __future__ import annotations

from functools import cache
from typing import Any

from sqlalchemy import BigInteger, Connection, Text, bindparam, case, delete, or_, select, update

from foxden_broker.store.base import LeaseLost, Replica, SchedulingLease
from foxden_broker.store.database import upsert
from foxden_broker.store.schema import replica, scheduling_lease, secret

_l = scheduling_lease.c
_COLUMNS = (_l.account_id, _l.replica_id, _l.epoch, _l.until_ms)


@cache
def _taking(dialect: str) -> Any:
    """Take or extend with one statement: the row's lock decides between two callers."""
    statement = upsert(dialect, scheduling_lease)
    fresh = statement.excluded
    return statement.on_conflict_do_update(
        index_elements=[_l.account_id],
        set_={
            "replica_id": fresh.replica_id,
            "epoch": case((_l.replica_id == fresh.replica_id, _l.epoch), else_=_l.epoch + 1),
            "until_ms": fresh.until_ms,
        },
        where=or_(
            _l.replica_id == bindparam("me", type_=Text),
            _l.replica_id == "",
            _l.until_ms <= bindparam("now_ms", type_=BigInteger),
        ),
    ).returning(*_COLUMNS)


def lease_account(
    conn: Connection, account_id: str, replica_id: str, now_ms: int, until_ms: int
) -> SchedulingLease | None:
    row = {
        "account_id": account_id,
        "replica_id": replica_id,
        "epoch": 1,
        "until_ms": until_ms,
        "me": replica_id,
        "now_ms": now_ms,
    }
    found = conn.execute(_taking(conn.dialect.name), row).first()
    return None if found is None else SchedulingLease(*found)


def leave_account(conn: Connection, account_id: str, replica_id: str, epoch: int) -> None:
    mine = (_l.account_id == account_id, _l.replica_id == replica_id, _l.epoch == epoch)
    conn.execute(update(scheduling_lease).where(*mine).values(replica_id="", until_ms=0))


def current(conn: Connection, account_id: str) -> SchedulingLease | None:
    row = conn.execute(select(*_COLUMNS).where(_l.account_id == account_id)).first()
    return None if row is None else SchedulingLease(*row)


def check_epoch(conn: Connection, account_id: str, epoch: int) -> None:
    """Raises LeaseLost. Holds the row until the transaction ends: a takeover waits for it."""
    found = conn.execute(EPOCH, {"account": account_id}).scalar()
    if found != epoch:
        raise LeaseLost(
            f"Another broker plans for the account {account_id} now (epoch {found}, not {epoch}): "
            "nothing was written. Nothing is to be done; it goes on there."
        )


EPOCH = select(_l.epoch).where(_l.account_id == bindparam("account")).with_for_update(read=True)


def save_replica(conn: Connection, new: Replica) -> None:
    statement = upsert(conn.dialect.name, replica)
    fresh = statement.excluded
    names = ("address", "ca_pem", "version", "seen_ms")
    conn.execute(
        statement.on_conflict_do_update(
            index_elements=[replica.c.replica_id], set_={name: fresh[name] for name in names}
        ),
        new.__dict__,
    )


def replicas(conn: Connection, seen_after_ms: int) -> tuple[Replica, ...]:
    r = replica.c
    query = select(r.replica_id, r.address, r.ca_pem, r.version, r.seen_ms)
    rows = conn.execute(query.where(r.seen_ms > seen_after_ms).order_by(r.replica_id))
    return tuple(Replica(*row) for row in rows)


def forget_replica(conn: Connection, replica_id: str) -> None:
    conn.execute(delete(replica).where(replica.c.replica_id == replica_id))


def shared_secret(conn: Connection, name: str, candidate: bytes) -> bytes:
    statement = upsert(conn.dialect.name, secret).on_conflict_do_nothing()
    conn.execute(statement, {"name": name, "value": candidate})
    query = select(secret.c.value).where(secret.c.name == name)
    return bytes(conn.execute(query).scalar_one())
