"""How a model is laid out on a card. Decisions and what they are made from; no torch.

    facts        what is known: of a card, of a model, of what shall be drawn; and what comes out
    model_files  a model's parts, from the headers of its safetensors files
    precision    the data types a card is good at
    estimates    bytes that a layout takes, by published rules of thumb
    remembered   what batches really took: corrects the estimates, kept in a small file
    ladder       place(): the fastest layout that fits, or what would
    placer       one card's placements while the agent runs

`foxden_agent/engine/placing.py` does to a pipeline what is decided here.
"""

from foxden_agent.placement.facts import (
    CardFacts,
    ModelFacts,
    Part,
    Placement,
    Refusal,
    Work,
)
from foxden_agent.placement.ladder import place
from foxden_agent.placement.remembered import Remembered

__all__ = [
    "CardFacts",
    "ModelFacts",
    "Part",
    "Placement",
    "Refusal",
    "Remembered",
    "Work",
    "place",
]
