"""What a client sees of the pool: cards, models and, for administrators, tokens."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

from foxden.errors import InvalidRequest
from foxden_proto.v1 import pool_pb2


@dataclass(frozen=True)
class Model:
    """A model that cards of the pool offer."""

    name: str
    sha256: str
    kind: str
    family: str
    licence: str
    description: str
    size: int  # bytes on disk
    default_width: int  # pixels
    default_height: int
    default_steps: int
    default_guidance_scale: float
    default_sampler: str
    default_schedule: str
    multiple_of: int  # pixels; sizes it can draw are multiples of this
    min_size: int
    max_size: int
    demo: bool  # the built-in demo model
    cards: int = 0  # that have it
    cards_online: int = 0
    is_default: bool = False


@dataclass(frozen=True)
class Card:
    """One compute device of the pool, as it is now."""

    id: str
    name: str
    device: str
    agent: str
    online: bool
    mode: str  # ready, duty_cycled, paused, hot, gaming, quiet_hours, draining or broken
    reasons: tuple[str, ...]  # why it is not ready
    running: int  # images on it now
    models: tuple[str, ...]
    samplers: Mapping[str, tuple[str, ...]]  # each with the schedules it runs with
    memory_total: int  # bytes
    memory_used: int | None
    temperature: float | None  # degrees Celsius
    utilisation: float | None  # 0 to 1
    power: float | None  # watts
    engine: str
    agent_version: str
    last_seen: datetime | None
    standing: str = ""  # what an administrator decided: "", "cordoned" or "draining"


@dataclass(frozen=True)
class Token:
    """A token, without its secret."""

    id: str
    member: str
    scopes: tuple[str, ...]
    created: datetime | None
    expires: datetime | None  # None: never
    revoked: datetime | None  # None: it works


@dataclass(frozen=True)
class NewToken:
    """A token with its secret, which the broker tells this once."""

    token: Token
    secret: str = field(repr=False)


@dataclass(frozen=True)
class JoinLink:
    """A link with which machines join the pool, without its secret."""

    id: str
    uses: int  # machines that it can let in
    used: int
    approve: bool  # each of them waits for an administrator's yes
    member: str  # who made it
    created: datetime | None
    expires: datetime | None
    revoked: datetime | None  # None: not revoked


@dataclass(frozen=True)
class NewJoinLink:
    """A join link with its text, which the broker tells this once."""

    link: JoinLink
    text: str = field(repr=False)


@dataclass(frozen=True)
class Agent:
    """An agent that has joined the pool with a key of its own."""

    id: str
    name: str  # its machine's
    version: str
    cards: tuple[str, ...]
    joined_from: str  # network address
    link: str  # the id of the join link
    joined: datetime | None
    approved: datetime | None  # None: it waits for an administrator's yes
    revoked: datetime | None  # None: not revoked
    online: bool

    @property
    def state(self) -> str:
        """online, offline, "waits for approval" or revoked."""
        if self.revoked:
            return "revoked"
        if not self.approved:
            return "waits for approval"
        return "online" if self.online else "offline"


@dataclass(frozen=True)
class Quota:
    """A member's own limits; 0: none of its own."""

    member: str
    most_queued: int  # images that wait
    most_running: int  # images on cards
    gpu_seconds_per_day: float


@dataclass(frozen=True)
class MemberQuota:
    """A member's limits beside what it uses now."""

    quota: Quota
    most_queued: int  # what holds, the broker's default included; 0: no limit
    queued: int
    running: int
    gpu_seconds_today: float


@dataclass(frozen=True)
class Quotas:
    members: tuple[MemberQuota, ...]  # by name
    most_queued_in_account: int  # 0: no limit
    queued_in_account: int


@dataclass(frozen=True)
class Usage:
    """What a member used on one day."""

    member: str
    day: str  # 2026-11-22, UTC
    images: int  # finished
    gpu_seconds: float  # cards were held, failed and released attempts included


_STANDINGS: dict[int, str] = {
    pool_pb2.STANDING_UNSPECIFIED: "",
    pool_pb2.STANDING_CORDONED: "cordoned",
    pool_pb2.STANDING_DRAINING: "draining",
}
_MOST_DAYS = 3660


def standing_of(name: str) -> pool_pb2.Standing.ValueType:
    """The wire's number of a standing. Raises InvalidRequest for another word."""
    for number, known in _STANDINGS.items():
        if known == name:
            return pool_pb2.Standing.ValueType(number)
    allowed = '"cordoned", "draining" or ""'
    raise InvalidRequest(
        f"there is no standing {name!r}: use {allowed}", field="standing", allowed=allowed
    )


def checked_quota(
    member: str, most_queued: int, most_running: int, gpu_seconds_per_day: float
) -> pool_pb2.Quota:
    try:
        return pool_pb2.Quota(
            member=member,
            most_queued=most_queued,
            most_running=most_running,
            gpu_seconds_per_day=gpu_seconds_per_day,
        )
    except (TypeError, ValueError) as error:
        raise InvalidRequest(
            f"these limits cannot be sent ({error}): use whole numbers of images and seconds",
            field="quota",
            allowed="numbers from 0 on",
        ) from None


def checked_days(days: int) -> int:
    if not 1 <= days <= _MOST_DAYS:
        raise InvalidRequest(
            f"days is {days}: use 1 to {_MOST_DAYS}", field="days", allowed=f"1 to {_MOST_DAYS}"
        )
    return days


def quota(told: pool_pb2.Quota) -> Quota:
    return Quota(told.member, told.most_queued, told.most_running, told.gpu_seconds_per_day)


def quotas(told: pool_pb2.ListQuotasResponse) -> Quotas:
    members = tuple(
        MemberQuota(
            quota(one.quota), one.most_queued, one.queued, one.running, one.gpu_seconds_today
        )
        for one in told.members
    )
    return Quotas(members, told.most_queued_in_account, told.queued_in_account)


def usage(told: pool_pb2.MemberUsage) -> Usage:
    return Usage(told.member, told.day, told.images, told.gpu_seconds)


def moment(milliseconds: int) -> datetime | None:
    """A time of the wire; 0 is none."""
    return datetime.fromtimestamp(milliseconds / 1000, UTC) if milliseconds else None


def model(found: pool_pb2.PoolModel) -> Model:
    told = found.model
    return Model(
        name=told.name,
        sha256=told.sha256,
        kind=told.kind,
        family=told.family,
        licence=told.licence,
        description=told.description,
        size=told.size,
        default_width=told.default_width,
        default_height=told.default_height,
        default_steps=told.default_steps,
        default_guidance_scale=told.default_guidance_scale,
        default_sampler=told.default_sampler,
        default_schedule=told.default_schedule,
        multiple_of=told.multiple_of,
        min_size=told.min_size,
        max_size=told.max_size,
        demo=told.demo,
        cards=found.cards,
        cards_online=found.cards_online,
        is_default=found.is_default,
    )


def card(told: pool_pb2.Card) -> Card:
    info, readings = told.info, told.readings
    return Card(
        id=info.card_id,
        name=info.name,
        device=info.device,
        agent=told.agent_name,
        online=told.online,
        mode=_mode(told.mode),
        reasons=tuple(told.reasons),
        running=told.running,
        models=tuple(offered.name for offered in info.models),
        samplers={sampler.name: tuple(sampler.schedules) for sampler in info.samplers},
        memory_total=info.memory_total,
        memory_used=readings.memory_used if readings.HasField("memory_used") else None,
        temperature=readings.temperature if readings.HasField("temperature") else None,
        utilisation=readings.utilisation if readings.HasField("utilisation") else None,
        power=readings.power if readings.HasField("power") else None,
        engine=info.engine,
        agent_version=told.agent_version,
        last_seen=moment(told.last_seen_ms),
        standing=_STANDINGS.get(told.standing, "unknown"),
    )


def token(told: pool_pb2.Token) -> Token:
    return Token(
        id=told.token_id,
        member=told.member,
        scopes=tuple(told.scopes),
        created=moment(told.created_ms),
        expires=moment(told.expires_ms),
        revoked=moment(told.revoked_ms),
    )


def join_link(told: pool_pb2.JoinLink) -> JoinLink:
    return JoinLink(
        id=told.link_id,
        uses=told.uses,
        used=told.used,
        approve=told.approve,
        member=told.member,
        created=moment(told.created_ms),
        expires=moment(told.expires_ms),
        revoked=moment(told.revoked_ms),
    )


def agent(told: pool_pb2.Agent) -> Agent:
    return Agent(
        id=told.agent_id,
        name=told.name,
        version=told.version,
        cards=tuple(told.cards),
        joined_from=told.joined_from,
        link=told.link_id,
        joined=moment(told.joined_ms),
        approved=moment(told.approved_ms),
        revoked=moment(told.revoked_ms),
        online=told.online,
    )


def _mode(number: int) -> str:
    if number not in pool_pb2.Mode.values():
        return "unknown"
    return pool_pb2.Mode.Name(pool_pb2.Mode.ValueType(number)).removeprefix("MODE_").lower()
