"""The scheduler's constants. Times in seconds; chosen in tests/bench/fleet_sim on seeds 0 to 9."""

from __future__ import annotations

from dataclasses import dataclass, field


def _age_limits() -> dict[int, float]:
    return {1: 60.0, 2: 600.0, 3: 1800.0}


@dataclass(frozen=True)
class Settings:
    """One pool's rules."""

    look_at: int = 200  # images at the head of the queue that a round places
    most_gives: int = 64  # batches a round hands out; more are left to the next, at once
    most_expired: int = 256  # images a round expires
    # Set-up is weighed with 1 + min(most, backlog / scale): a deep queue is no time for switches.
    setup_weight_most: float = 1.0
    setup_weight_scale: float = 10.0
    hot_after: float = 6.0  # of backlog: cards go on with the model they hold
    # An image that waits longer than patience + share x what is usual now is placed before cards
    # go on with what they hold.
    patience: float = 30.0
    patience_share: float = 1.0
    # An open card is taken instead of a better one that is busy yet, if the image ends later by no
    # more than this share of its drawing; what is urgent adds a share of the time it has waited.
    near: float = 0.1
    near_age: float = 0.25
    keep_loads: float = 2.0  # a card keeps a model for this many load times while it is wanted
    deep_after: float = 45.0  # of backlog: the linear programme plans
    deep_until: float = 20.0  # of backlog: it plans no longer
    deep_every: float = 20.0  # between two of its plans, at least
    deep_covered: float = 0.6  # share of what waits that a plan covers as long as it is good
    deep_stale: float = 600.0  # a plan older than this counts no more
    follow_covered: float = 0.9  # share of what waits that is allotted: a batch of work, no stream
    follow_unanswered: int = 3  # questions without an answer: a plan is no longer followed
    end_every: float = 2.0  # between two looks at it when the backlog is no longer deep
    stage_lead: float = 2.0  # before a card's batch is expected to end, the next one is staged
    stage_share: float = 0.15  # or this share of the batch, if that is longer
    batch_seconds: float = 30.0  # a batch of several images lasts no longer than this
    batch_gain: float = 0.97  # a further image must cost less than this share of a single one
    age_limits: dict[int, float] = field(default_factory=_age_limits)  # by priority class
    overdue_share: float = 0.25  # of what is handed out, for jobs past their age limit
    # Fairness, in GPU-seconds; both grow with the pool.
    slack: float = 15.0  # how far a member may be behind before speed gives way to fairness
    slack_per_card: float = 1.5
    credit: float = 1.25  # what a new or idle member has in advance, in slacks
    # Bulk work gives way to interactive work (preempting.py).
    preempt_cost: float = 2.0  # stopping, the checkpoint's way to the broker, the new assignment
    preempt_gain: float = 10.0  # the urgent image must be done sooner by this much
    preempt_ratio: float = 3.0  # what runs must last this many times as long as the switch costs
    preempt_hold: float = 30.0  # a card that gave way does not do so again for this long
    preempt_most: int = 2  # times that one image gives way
    away: float = 600.0  # a card that is gone counts as another to try for this long
    overrun: float = 0.15  # of its estimate that a batch which overran is expected to take still
