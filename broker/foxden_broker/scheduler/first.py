"""Which image goes to which card now: `plan(jobs, cards) -> list[Give]`. Pure.

Order is priority class, then age. A card takes one running and one staged image. Idle cards are
served first, so that a job's images fan out; an image is staged behind a running one only where
more images wait than busy cards could take next, or the last ones would be stuck behind one card
while another runs dry.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from foxden_broker.catalogue import can_run
from foxden_proto.v1.generation_pb2 import ImageRequest
from foxden_proto.v1.pool_pb2 import CardInfo

SLOTS = 2  # one running, one staged


@dataclass(frozen=True)
class WaitingJob:
    """The images of a job that wait, and the cards that each has failed on."""

    job_id: str
    priority: int  # foxden.v1.Priority: smaller goes first
    created_ms: int
    request: ImageRequest  # complete
    waiting: Sequence[int]  # indices, ascending
    avoid: dict[int, frozenset[str]] = field(default_factory=dict)


@dataclass(frozen=True)
class OpenCard:
    """A card that is online and allowed to work."""

    info: CardInfo
    busy: int  # images it holds
    loaded: frozenset[str] = frozenset()  # sha256 of models in its memory


@dataclass(frozen=True)
class Give:
    job_id: str
    index: int
    card_id: str


def order(jobs: Iterable[WaitingJob]) -> list[WaitingJob]:
    """Who goes first: by priority class, then by age, then by id so that it is total."""
    return sorted(jobs, key=lambda job: (job.priority, job.created_ms, job.job_id))


def plan(jobs: Iterable[WaitingJob], cards: Iterable[OpenCard]) -> list[Give]:
    """The images to hand out now, in order. Every card gets `SLOTS` images at the most."""
    by_id = {card.info.card_id: card for card in cards}
    slots = {card_id: card.busy for card_id, card in by_id.items()}
    gives: list[Give] = []
    ordered = order(jobs)
    left = sum(len(job.waiting) for job in ordered)
    for job in ordered:
        capable = [card for card in by_id.values() if not can_run(job.request, card.info)]
        if not capable:
            continue
        for index in job.waiting:
            if all(slots[card.info.card_id] >= SLOTS for card in capable):
                break
            card = _choose(job, index, capable, slots, left)
            if card is None:
                continue  # the next image may go to a card that this one avoids
            left -= 1
            slots[card.info.card_id] += 1
            gives.append(Give(job.job_id, index, card.info.card_id))
    return gives


def _choose(
    job: WaitingJob,
    index: int,
    capable: Sequence[OpenCard],
    slots: dict[str, int],
    waiting: int,
) -> OpenCard | None:
    avoid = job.avoid.get(index, frozenset())
    # A card that failed on this image is asked again only where there is no other.
    willing = [card for card in capable if card.info.card_id not in avoid] or capable
    idle = [card for card in willing if slots[card.info.card_id] == 0]
    if idle:
        return min(idle, key=lambda card: _preference(job, card))
    stageable = [card for card in willing if slots[card.info.card_id] < SLOTS]
    if stageable and waiting >= len(stageable):
        return min(stageable, key=lambda card: _preference(job, card))
    return None


def _preference(job: WaitingJob, card: OpenCard) -> tuple[bool, str]:
    return (job.request.model_sha256 not in card.loaded, card.info.card_id)
