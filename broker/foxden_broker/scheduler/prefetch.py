"""Which model a card should bring into RAM while it draws, where it is sure enough what comes next.

Pure. A wrong hint costs the owner's disk and memory something, so there is one only where the card
holds a batch of another model already, or where the plan of a deep backlog allots it one.
"""

from __future__ import annotations

from foxden_broker.scheduler.queue import State


def next_model(state: State, card_id: str, now: float) -> str | None:
    """The sha256 to hint at; None where nothing is sure, or all is said. Counts as said."""
    card = state.table.cards.get(card_id)
    if card is None or not card.here or not card.held:
        return None
    near = card.loaded | card.in_ram | {card.held[0].kind.model}
    model = next((batch.kind.model for batch in card.held[1:] if batch.kind.model not in near), "")
    if not model and state.planned.fresh(now):
        allotted = state.planned.of(card_id)
        # Not yet where more of the running model is to come: much can happen until then.
        if not allotted.get(card.held[-1].kind.model):
            model = next((model for model in allotted if model not in near), "")
    if card.hinted in near:
        card.hinted = ""  # it came; should it go again, it is worth another word
    if not model or model == card.hinted:
        return None
    card.hinted = model
    return model
