"""What models a pool has and what a request becomes with their defaults filled in. Pure.

A model is its bytes: the same name with other bytes on another card is another model. A request
that names a model is pinned to one sha256 at once, so that it can never be answered by a namesake.
"""

from __future__ import annotations

import difflib
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from foxden_broker.problems import invalid
from foxden_proto.problems import Problem, Reason
from foxden_proto.sizes import size_class
from foxden_proto.v1.generation_pb2 import ImageRequest
from foxden_proto.v1.pool_pb2 import CardInfo, Model, PoolModel

# A gRPC status has 8 KB for everything.
_MOST_REASONS = 12
_REASON_CHARACTERS = 300


@dataclass(frozen=True)
class Catalogue:
    """The models of all cards an account has, online or not."""

    cards: Sequence[CardInfo]
    online: frozenset[str] = frozenset()  # card ids

    def models(self) -> list[PoolModel]:
        """Every model with the number of cards that have it, the most widespread first."""
        default = self._default
        listed = [
            PoolModel(
                model=model,
                cards=len(holders),
                cards_online=len(holders & self.online),
                is_default=default is not None and model.sha256 == default.sha256,
            )
            for model, holders in self._holders.values()
        ]
        listed.sort(key=lambda m: (-m.cards, m.model.name, m.model.sha256))
        return listed

    def find(self, name: str, sha256: str = "") -> Model:
        """The model with this name (empty: the pool's default), on most cards where namesakes
        differ, or exactly the one with `sha256`. Raises Problem UNKNOWN_MODEL."""
        if not name and not sha256:
            default = self._default
            if default is None:
                raise Problem(
                    Reason.UNKNOWN_MODEL,
                    "No card of this pool has a model: add one to a card's models folder.",
                    {"name": "", "near": ""},
                )
            return default
        named = self._by_name.get(name.lower(), set()) if name else set(self._holders)
        wanted = [one for one in named if not sha256 or one == sha256]
        held = [self._holders[one] for one in wanted if one in self._holders]
        found = [(model, len(holders)) for model, holders in held]
        if not found:
            raise self._unknown(name or sha256)
        return min(found, key=lambda pair: (-pair[1], pair[0].sha256))[0]

    def size(self, sha256: str) -> int:
        """Bytes of a model's files; 0 where that is not known."""
        found = self._holders.get(sha256)
        return found[0].size if found else 0

    @cached_property
    def _holders(self) -> dict[str, tuple[Model, set[str]]]:
        holders: dict[str, tuple[Model, set[str]]] = {}
        for card in self.cards:
            for model in card.models:
                holders.setdefault(model.sha256, (model, set()))[1].add(card.card_id)
        return holders

    @cached_property
    def _by_name(self) -> dict[str, set[str]]:
        """Hashes by name in lower case. A card may have the same bytes under another name than
        the one they are listed by."""
        named: dict[str, set[str]] = {}
        for card in self.cards:
            for model in card.models:
                named.setdefault(model.name.lower(), set()).add(model.sha256)
        return named

    def schedules(self, sha256: str) -> dict[str, set[str]]:
        """By sampler, what the cards with this model run together."""
        if sha256 not in self._offered:
            offered: dict[str, set[str]] = {}
            for card in self.cards:
                if any(model.sha256 == sha256 for model in card.models):
                    for sampler in card.samplers:
                        offered.setdefault(sampler.name, set()).update(sampler.schedules)
            self._offered[sha256] = offered
        return self._offered[sha256]

    def largest(self, sha256: str, sampler: str, schedule: str) -> float:
        """Pixels of the largest picture that a card can draw with these, online or not; inf where
        one sets no limit to it, 0 where none can draw anything."""
        need = (sha256, sampler, schedule)
        if need not in self._largest:
            able = [card for card in self.cards if offers(card, *need)]
            self._largest[need] = max((most_pixels(card, sha256) for card in able), default=0)
        return self._largest[need]

    @cached_property
    def _largest(self) -> dict[tuple[str, str, str], float]:
        return {}  # as _offered

    @cached_property
    def _offered(self) -> dict[str, dict[str, set[str]]]:
        return {}  # filled when asked for: models that somebody has, so it stays small

    @cached_property
    def _default(self) -> Model | None:
        """The real model on most cards; the demo model only where there is no other."""
        found = [(model, len(holders)) for model, holders in self._holders.values()]
        if not found:
            return None
        return min(found, key=lambda p: (p[0].demo, -p[1], p[0].name, p[0].sha256))[0]

    def _unknown(self, name: str) -> Problem:
        names = Counter(model.name for model, _ in self._holders.values())
        near = difflib.get_close_matches(name, list(names), n=3, cutoff=0.4) or sorted(names)[:3]
        return Problem(
            Reason.UNKNOWN_MODEL,
            f"No card of this pool has a model named {name[:100]!r}. "
            f"It has {', '.join(near)}: choose one of those, or add the model to a card.",
            {"name": name[:100], "near": ",".join(near)},
        )


def resolve(request: ImageRequest, catalogue: Catalogue) -> ImageRequest:
    """The request with its model pinned and every default filled in.

    Raises Problem: UNKNOWN_MODEL; INVALID_REQUEST for a size this model cannot draw, or a sampler
    and schedule that no card with the model runs; NO_CARD_CAN_RUN where no card, online or not,
    has the memory for it.
    """
    model = catalogue.find(request.model, request.model_sha256)
    complete = ImageRequest()
    complete.CopyFrom(request)
    complete.model, complete.model_sha256 = model.name, model.sha256
    if not request.HasField("width"):
        complete.width = model.default_width
    if not request.HasField("height"):
        complete.height = model.default_height
    if not request.HasField("steps"):
        complete.steps = model.default_steps
    if not request.HasField("guidance_scale"):
        complete.guidance_scale = model.default_guidance_scale
    if not request.schedule:
        # The model's own schedule goes with the model's own sampler; another may not have it.
        complete.schedule = (not request.sampler and model.default_schedule) or "automatic"
    if not request.sampler:
        complete.sampler = model.default_sampler
    _check_size("width", complete.width, model)
    _check_size("height", complete.height, model)
    _check_cards(complete, catalogue.schedules(complete.model_sha256))
    _check_fits(complete, catalogue)
    return complete


def offers(card: CardInfo, model_sha256: str, sampler: str, schedule: str, pixels: int = 0) -> bool:
    """Whether a card can run complete requests with these; `pixels` as foxden_proto.sizes counts
    them, 0: whatever the size."""
    return (
        any(model.sha256 == model_sha256 for model in card.models)
        and any(one.name == sampler and schedule in one.schedules for one in card.samplers)
        and (not pixels or pixels <= most_pixels(card, model_sha256))
    )


def most_pixels(card: CardInfo, model_sha256: str) -> float:
    """Of the largest picture that a card has the memory for; inf where it does not say."""
    for fit in card.fits:
        if fit.model_sha256 == model_sha256:
            return fit.max_pixels
    return math.inf


def _check_size(field: str, pixels: int, model: Model) -> None:
    multiple = model.multiple_of or 8
    if not model.min_size <= pixels <= model.max_size or pixels % multiple:
        allowed = f"a multiple of {multiple} from {model.min_size} to {model.max_size}"
        raise invalid(field, f"{field} is {pixels}, which {model.name} cannot draw", allowed)


def _check_cards(request: ImageRequest, offered: Mapping[str, set[str]]) -> None:
    if request.sampler not in offered:
        what = f"sampler is {request.sampler!r}, which no card with {request.model} has"
        raise invalid("sampler", what, ", ".join(sorted(offered)))
    if request.schedule not in offered[request.sampler]:
        what = f"schedule is {request.schedule!r}, which {request.sampler} does not run with here"
        raise invalid("schedule", what, ", ".join(sorted(offered[request.sampler])))


def _check_fits(request: ImageRequest, catalogue: Catalogue) -> None:
    need = (request.model_sha256, request.sampler, request.schedule)
    if size_class(request.width * request.height) <= catalogue.largest(*need):
        return
    able = [card for card in catalogue.cards if offers(card, *need)]
    reasons = [f"{card.name}: {_refusal(card, request.model_sha256)}" for card in able]
    told = [reason[:_REASON_CHARACTERS] for reason in reasons[:_MOST_REASONS]]
    if len(reasons) > len(told):
        told.append(f"and {len(reasons) - len(told)} more cards")
    raise Problem(
        Reason.NO_CARD_CAN_RUN,
        f"No card of this pool, online or not, has the memory to draw {request.width} x "
        f"{request.height} pixels with {request.model} ({told[0]}): "
        "ask for a smaller picture or another model, or add a card.",
        {"reasons": "\n".join(told)},
    )


def _refusal(card: CardInfo, model_sha256: str) -> str:
    fit = next(fit for fit in card.fits if fit.model_sha256 == model_sha256)
    return fit.refusal or f"pictures of up to {fit.max_pixels} pixels fit"
