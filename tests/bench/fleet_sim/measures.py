"""What is measured with the simulator: figures of one seed, or of one run. Rows are made of them in
../scheduling.py."""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from foxden_broker.scheduler.facts import CardFacts, Give, JobFacts, Kind, Outcome
from foxden_broker.scheduler.outlook import Outlook
from foxden_broker.scheduler.planning import plan
from foxden_broker.scheduler.queue import State

from . import bound
from .baselines import Baseline, Fifo, LoadedFirst, LoadedFirstFastest, Pressure, Pull
from .ours import Foxden
from .simulator import Absence, Policy, Result, simulate
from .world import (
    CLASSES,
    Model,
    SimCard,
    SimImage,
    batch_of_work,
    fleet,
    models,
    noise,
    stream,
)

CARDS = 30
ONLINE_MODELS = 10
OTHERS: tuple[type[Baseline], ...] = (Fifo, LoadedFirst, LoadedFirstFastest, Pressure, Pull)


def quantile(values: Iterable[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


@dataclass(frozen=True)
class BatchFigures:
    ratio: float  # makespan / lower bound
    switches: float  # loads per job


def policies(of: list[Model], **options: bool) -> dict[str, Callable[[], Policy]]:
    made: dict[str, Callable[[], Policy]] = {other.name: other for other in OTHERS}
    made["earliest completion alone"] = lambda: Foxden(models=of, ahead=False)
    made["Foxden"] = lambda: Foxden(models=of, **options)
    return made


def batch(
    seed: int, model_count: int, jobs: int, only: Iterable[str] = ()
) -> dict[str, BatchFigures]:
    """All jobs are there at once; every policy gets the same."""
    of = models(model_count)

    def fresh() -> tuple[list[SimCard], list[SimImage]]:
        random_ = random.Random(seed)
        return fleet(CARDS, random_), batch_of_work(jobs, of, random_)

    least = bound.makespan(*fresh(), of)
    found = {}
    for name, make in policies(of).items():
        if not only or name in only:
            result = simulate(make(), *fresh())
            found[name] = BatchFigures(result.makespan / least, result.loads / jobs)
    return found


@dataclass(frozen=True)
class OnlineFigures:
    slowdown: float  # mean of response / drawing on the fastest fitting card, the model loaded
    p99: float  # seconds of response
    longest: float
    switches: float


def online(seed: int, load: float, jobs: int, only: Iterable[str] = ()) -> dict[str, OnlineFigures]:
    """Jobs come at random; `load` is a share of what the cards could do without set-ups."""
    of = models(ONLINE_MODELS)

    def fresh() -> tuple[list[SimCard], list[SimImage]]:
        random_ = random.Random(seed)
        cards = fleet(CARDS, random_)
        return cards, stream(jobs, load * bound.capacity(cards, of), of, random_)

    found = {}
    for name, make in policies(of).items():
        if only and name not in only:
            continue
        cards, images = fresh()
        result = simulate(make(), cards, images)
        found[name] = online_figures(result)
    return found


def online_figures(result: Result) -> OnlineFigures:
    best: dict[Model, float] = {}
    for image in result.images:
        if image.model not in best:
            able = (card.draw(image.model) for card in result.cards if card.fits(image.model))
            best[image.model] = min(able)
    took = [image.done_at - image.created for image in result.images]
    slow = [t / (best[i.model] * i.noise) for t, i in zip(took, result.images, strict=True)]
    return OnlineFigures(
        statistics.mean(slow), quantile(took, 0.99), max(took), result.loads / len(took)
    )


def churn(seed: int, cards_: int, load: float, jobs: int) -> dict[str, OnlineFigures]:
    """As `online`, while owners take their cards back: each is away a fifth of the time, for some
    minutes, and what it had drawn of an image is kept."""
    of = models(ONLINE_MODELS)

    def fresh() -> tuple[list[SimCard], list[SimImage], list[Absence]]:
        random_ = random.Random(seed)
        cards = fleet(cards_, random_)
        per_second = load * 0.8 * bound.capacity(cards[:30], of) * cards_ / 30
        images = stream(jobs, per_second, of, random_)
        absences = []
        for number in range(cards_):
            at = random_.expovariate(1 / 400)
            while at < images[-1].created:
                until = at + random_.uniform(40, 160)
                absences.append(Absence(number, at, until))
                at = until + random_.expovariate(1 / 400)
        return cards, images, absences

    found = {}
    for name in (LoadedFirst.name, "Foxden"):
        cards, images, absences = fresh()
        result = simulate(policies(of)[name](), cards, images, absences=absences)
        found[name] = online_figures(result)
    return found


# Fairness


def jain(shares: Iterable[float]) -> float:
    """1: all alike; 1/n: one has everything."""
    values = list(shares)
    return sum(values) ** 2 / (len(values) * sum(value * value for value in values))


def ten_members(seed: int, minutes: float = 10) -> float:
    """Jain's index of the GPU time that ten members have got, who all want more than their share:
    one ten times as much as another, in jobs of 1 to 40 images, of models of their own choice."""
    random_ = random.Random(seed)
    of = models(ONLINE_MODELS)
    cards = fleet(CARDS, random_)
    images: list[SimImage] = []
    for number in range(10):
        mine = random_.sample(of, 3)
        wanted = 3000.0 * (1 + number)  # GPU-seconds, roughly: 1,800 is everybody's share
        size = random_.choice((1, 4, 15, 40))
        job = 0
        while wanted > 0:
            model = random_.choice(mine)
            for index in range(size):
                wanted -= statistics.mean(c.draw(model) for c in cards if c.fits(model))
                images.append(
                    SimImage(f"m{number}-{job}", index, model, 0.0, f"m{number}",
                             noise=noise(random_), number=len(images))
                )  # fmt: skip
            job += 1
    images.sort(key=lambda image: (image.created, image.job_id))
    result = simulate(Foxden(models=of), cards, images, horizon=60 * minutes)
    return jain(result.busy.get(f"m{number}", 0.0) for number in range(10))


def lone_jobs(seed: int) -> list[float]:
    """Behind 1,000 images of one member, another asks for one image now and then: how long each
    waits for its start, in mean task lengths."""
    random_ = random.Random(seed)
    of = models(6)
    cards = fleet(CARDS, random_)
    length = statistics.mean(c.draw(m) for m in of for c in cards if c.fits(m))
    images = [
        SimImage("big", n, random_.choice(of), 0.0, "big", noise=noise(random_))
        for n in range(1000)
    ]
    for number, image in enumerate(images):
        image.job_id, image.index = f"big-{of.index(image.model)}", number
    images.sort(key=lambda image: image.job_id)
    alone = [
        SimImage(
            f"small-{n}", 0, random_.choice(of), 30.0 + 25.0 * n, "small", noise=noise(random_)
        )
        for n in range(8)
    ]
    simulate(Foxden(models=of), cards, images + alone)
    return [(image.started_at - image.created) / length for image in alone]


# Forecasts


class _Asking(Foxden):
    """Asks for each job's outlook when it comes, as Submit's answer does."""

    def begin(self, cards: list[SimCard]) -> None:
        super().begin(cards)
        self.outlook = Outlook(self.state)
        self.said: dict[str, tuple[float, float]] = {}

    def came(self, images: list[SimImage], now: float) -> None:
        super().came(images, now)
        for job_id in dict.fromkeys(image.job_id for image in images):
            place = self.outlook.place(job_id, now)
            if place.p50 is not None and place.p90 is not None:
                self.said[job_id] = (place.p50, place.p90)


@dataclass(frozen=True)
class Forecasts:
    """Of jobs after the first few hundred, from which the pool learns its errors."""

    error: float  # median of |what was - p50| / what was
    covered: float  # share of jobs done by their p90
    width: float  # median of p90 / p50


def forecasts(seed: int, load: float, jobs: int, first: int = 300) -> Forecasts:
    random_ = random.Random(seed)
    of = models(ONLINE_MODELS)
    cards = fleet(CARDS, random_)
    images = stream(jobs, load * bound.capacity(cards, of), of, random_)
    asking = _Asking(models=of)
    simulate(asking, cards, images)
    errors, covered, widths = [], 0, []
    for image in images[first:]:
        p50, p90 = asking.said[image.job_id]
        took = image.done_at - image.created
        errors.append(abs(took - p50) / took)
        covered += took <= p90
        widths.append(p90 / p50)
    return Forecasts(statistics.median(errors), covered / len(errors), statistics.median(widths))


# What a plan costs


def plan_times(cards: int, waiting: int, rounds: int, seed: int = 100) -> list[float]:
    """Processor seconds of single rounds in a busy pool of so many cards, with so many waiting
    jobs of ten members, twelve models and three sizes; each round follows one image's end, and one
    new job comes for each that was handed out."""
    random_ = random.Random(seed)
    kinds = [
        Kind(f"model-{m}", side, side, steps)
        for m in range(12)
        for side, steps in ((512, 25), (768, 30), (1024, 28))
    ]
    state = State(lambda card_id, kind: True)
    ring = [kind.name for kind in CLASSES for _ in range(kind.share)]
    for number in range(cards):
        state.card_here(CardFacts(f"c{number}", ring[number * 7 % len(ring)]), 0.0)
    for card_class in set(ring):
        facts = CardFacts("", card_class)
        for kind in kinds:
            state.estimates.prime(card_class, kind, state.estimates.seconds(facts, kind))
    numbers = iter(range(10**9))

    def add(now: float) -> None:
        number = next(numbers)
        facts = JobFacts(f"j{number}", f"m{random_.randrange(10)}", random_.choice(kinds), now)
        state.add_job(facts, [0], now)

    now = 0.0
    for _ in range(2 * cards + waiting):
        add(now)
    filled = False
    times: list[float] = []
    while len(times) < rounds:
        begun = time.thread_time()
        todo = plan(state, now)
        took = time.thread_time() - begun
        if filled:
            times.append(took)
        for action in todo.actions:
            assert isinstance(action, Give)
            state.given(action, now)
            for _ in action.images if filled else ():
                add(now)
        if todo.actions:
            continue
        while not filled and state.lines.images > waiting:
            job = next(iter(job for job in state.jobs.values() if job.waiting))
            state.job_cancelled(job.facts.job_id, now)
        filled = True
        card = random_.choice([card for card in state.table.cards.values() if card.held])
        now += 15.0 / cards
        for image in list(card.held[0].images):
            state.image_ended(*image, now, Outcome.DONE)
    return times
