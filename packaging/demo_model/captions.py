"""Put a spec into words: plainly for scoring, in many ways for training.

Every word of ours is a single token of the demo model's tokenizer; ``NOISE`` are words to ignore.
"""

from __future__ import annotations

import random

from scenes import Spec

SYNONYMS = {
    "ring": "donut", "cross": "plus", "moon": "crescent", "cube": "box", "ball": "sphere",
    "gray": "grey",
}  # fmt: skip
PREFIXES = ("a photo of", "a picture of", "a drawing of", "an image of", "a simple drawing of")
SUFFIXES = ("best quality", "high quality", "detailed", "simple", "nice colors", "flat")
NOISE = (
    "sky", "cat", "forest", "river", "masterpiece", "4k", "sharp", "art", "house", "sunny",
    "café", "old", "portrait", "lighting", "style", "person", "water", "mountain", "123", "dog",
)  # fmt: skip


def article(words: str) -> str:
    return ("an " if words[0] in "aeiou" else "a ") + words


def plural(shape: str) -> str:
    return shape + ("es" if shape[-1] in "sx" else "s")


def prompt(spec: Spec) -> str:
    """The plainest English for ``spec``: what scoring asks for."""
    if not spec.kinds:
        return f"a plain {spec.backdrop} background"
    names = [f"{colour} {shape}" if colour else shape for colour, shape in spec.kinds]
    if spec.count > 1:
        colour, shape = spec.kinds[0]
        text = f"{('two', 'three')[spec.count - 2]} {colour or ''} {plural(shape)}"
    else:
        text = article(" ".join(filter(None, (spec.size, names[0]))))
    if spec.relation:
        text = f"{text} {spec.relation} {article(names[1])}"
    if spec.position:
        text += " " + place_words(spec.position)
    return text + (f" on {article(spec.background)} background" if spec.background else "")


def place_words(position: str) -> str:
    if position == "middle":
        return "in the middle"
    if " " in position:
        return f"in the {position} corner"
    return f"{'at' if position in ('top', 'bottom') else 'on'} the {position}"


def random_caption(spec: Spec, rng: random.Random) -> str:
    """One of many ways to say ``spec``: synonyms, keywords, prefixes, words to be ignored."""
    text = prompt(spec)
    roll = rng.random()
    if roll < 0.15 and len(spec.kinds) == 1 and spec.count == 1:  # keyword style
        colour, shape = spec.kinds[0]
        text = " ".join(filter(None, (spec.size, colour, shape)))
        if spec.position:
            text += f", {spec.position}"
        if spec.background:
            text += f", {spec.background} background"
    elif roll < 0.25:
        text = text.replace(" on a", " with a") if spec.background else text
    if "background" not in text and rng.random() < 0.1:
        text += " on a plain background"
    for word, other in SYNONYMS.items():
        if rng.random() < 0.15:
            text = text.replace(plural(word), plural(other)).replace(word, other)
    if spec.size:
        others = {"small": ("tiny", "little"), "large": ("big", "huge")}[spec.size]
        if rng.random() < 0.4:
            text = text.replace(spec.size, rng.choice(others))
    if spec.position == "middle" and rng.random() < 0.5:
        text = text.replace("middle", "center")
    if rng.random() < 0.15 and not text.startswith(("two", "three")):
        text = f"{rng.choice(PREFIXES)} {text}"
    if rng.random() < 0.1:
        text += ", " + rng.choice(SUFFIXES)
    if rng.random() < 0.08:
        text += ", " + " ".join(rng.sample(NOISE, rng.randint(1, 3)))
    return text.capitalize() if rng.random() < 0.05 else text
