"""Score a pipeline folder: ask for specs in plain words, look at what is drawn, count.

``--of`` chooses what is looked at: the model's pictures; ``renders``, true drawings, which shows
what the scorer itself gets wrong; or ``ceiling``, true drawings through encoder and decoder, which
shows what the VAE alone costs.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import captions
import drawing
import judging
import parts
import scenes
import torch
from diffusers import (
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    StableDiffusionPipeline,
)
from PIL import Image
from torch import Tensor

SETS = {
    "single seen": ("single", False),
    "single held out": ("single", True),
    "size seen": ("size", False),
    "size held out": ("size", True),
    "position": ("position", False),
    "no background": ("no background", False),
    "no colour": ("no colour", False),
    "2-3 equal": ("several", False),
    "pair": ("pair", False),
}
"""Name -> (kind of spec, whether its colour-shape pairs were never drawn in training)."""
SAMPLERS = {
    "dpm": (DPMSolverMultistepScheduler, 20),
    "euler a": (EulerAncestralDiscreteScheduler, 25),
}


@dataclass
class Tally:
    """Counts of what was right over ``asked`` pictures of one set."""

    asked: int = 0
    right: Counter[str] = field(default_factory=Counter)
    shapes_asked: Counter[str] = field(default_factory=Counter)
    shapes_right: Counter[str] = field(default_factory=Counter)
    mistaken: Counter[str] = field(default_factory=Counter)
    overlap: float = 0.0

    def add(self, spec: scenes.Spec, seen: judging.Seen) -> None:
        """Judge one picture. With several objects "shape" means every one of them."""
        want = wanted(spec)
        got = list(seen.objects)
        if spec.relation in ("above", "below") or spec.count == 3:
            got.sort(key=lambda found: found.y if spec.relation else 0)
        same = len(got) == len(want)
        colours = same and all(f.colour == c for f, (c, _) in zip(got, want, strict=True))
        shapes = same and all(f.shape == s for f, (_, s) in zip(got, want, strict=True))
        background = seen.background == spec.backdrop
        self.asked += 1
        self.right.update(
            background=background,
            count=same,
            colour=colours,
            shape=shapes,
            place=same and all(placed(spec, f) for f in got),
            all=background and colours and shapes,
        )
        if len(want) == 1:
            shape = want[0][1]
            self.shapes_asked[shape] += 1
            self.shapes_right[shape] += shapes
            self.overlap += got[0].iou if shapes else 0.0
            if not shapes:
                self.mistaken[f"{shape}->{got[0].shape if same else f'{len(got)} objects'}"] += 1

    def share(self, what: str) -> float:
        """Percent right, 0–100."""
        return round(100 * self.right[what] / max(1, self.asked), 1)


def wanted(spec: scenes.Spec) -> list[tuple[str, str]]:
    """The (colour, shape) of each object, in the order in which ``Tally.add`` meets them."""
    shapes = [shape for _, shape in spec.kinds]
    want: list[tuple[str, str]] = list(zip(spec.colours, shapes, strict=True)) * spec.count
    return want[::-1] if spec.relation == "below" else want


def placed(spec: scenes.Spec, found: judging.Found) -> bool:
    """Whether a single object is in the named part of the picture (thirds at 24 and 40 px)."""
    if spec.position is None:
        return True
    dx, dy = scenes.POSITIONS[spec.position]
    return all(
        (value > 38) - (value < 26) == side for value, side in ((found.x, dx), (found.y, dy))
    )


def make(
    pipeline: StableDiffusionPipeline, prompts: list[str], seeds: list[int], steps: int, cfg: float
) -> Tensor:
    """Pictures (n, 3, 64, 64) in [-1, 1], one seed each, made 25 at a time."""
    pictures = []
    for start in range(0, len(prompts), 25):
        out = pipeline(
            prompts[start : start + 25],
            num_inference_steps=steps,
            guidance_scale=cfg,
            height=scenes.PIXELS,
            width=scenes.PIXELS,
            generator=[torch.Generator().manual_seed(s) for s in seeds[start : start + 25]],
            output_type="pt",
        )
        pictures.append((out.images.float() * 255).round() / 127.5 - 1)
    return torch.cat(pictures)


def grid(pictures: Tensor, columns: int = 10, scale: int = 2) -> Image.Image:
    """A contact sheet of pictures (n, 3, 64, 64)."""
    side = scenes.PIXELS * scale + 4
    rows = -(-len(pictures) // columns)
    sheet = Image.new("RGB", (columns * side, rows * side), "white")
    for i, picture in enumerate(pictures):
        array = ((picture.clamp(-1, 1) + 1) * 127.5).round().byte().permute(1, 2, 0).numpy()
        tile = Image.fromarray(array).resize((side - 4, side - 4), Image.Resampling.NEAREST)
        sheet.paste(tile, (i % columns * side, i // columns * side))
    return sheet


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--of", choices=("model", "renders", "ceiling"), default="model")
    parser.add_argument("--sampler", choices=tuple(SAMPLERS), default="dpm")
    parser.add_argument("--cfg", type=float, default=3.0)
    parser.add_argument("--count", type=int, default=100, help="pictures per set")
    parser.add_argument("--sets", nargs="*", default=list(SETS))
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--grids", type=Path, help="folder for a contact sheet per set")
    parser.add_argument("--json", type=Path, help="write the figures here")
    args = parser.parse_args()
    torch.set_num_threads(1)
    began = time.time()
    pipeline = StableDiffusionPipeline.from_pretrained(args.folder)
    pipeline.set_progress_bar_config(disable=True)
    scheduler, steps = SAMPLERS[args.sampler]
    pipeline.scheduler = scheduler.from_config(pipeline.scheduler.config)
    figures: dict[str, dict[str, float]] = {}
    total = Tally()
    for name in args.sets:
        kind, held_out = SETS[name]
        rng = random.Random(f"{args.seed} {name}")
        specs = [scenes.random_spec(rng, kind, held_out) for _ in range(args.count)]
        if args.of == "model":
            prompts = [captions.prompt(spec) for spec in specs]
            seeds = [rng.randrange(2**31) for _ in specs]
            pictures = make(pipeline, prompts, seeds, steps, args.cfg)
        else:
            pictures = drawing.render([scenes.random_scene(spec, rng) for spec in specs])
            if args.of == "ceiling":
                latents = parts.encode(pipeline.vae, pictures)
                with torch.no_grad():
                    pictures = parts.decode(pipeline.vae, latents)
        tally = Tally()
        for spec, picture in zip(specs, pictures, strict=True):
            seen = judging.look(picture)
            tally.add(spec, seen)
            total.add(spec, seen)
        figures[name] = {"n": args.count} | {
            what: tally.share(what)
            for what in ("background", "colour", "shape", "count", "place", "all")
        }
        if kind not in ("several", "pair"):  # 1 is a perfectly clean outline
            figures[name]["overlap where right"] = round(
                tally.overlap / max(1, sum(tally.shapes_right.values())), 3
            )
        row = " ".join(f"{what} {value:g}" for what, value in figures[name].items())
        print(f"{name:16} {row} | {dict(tally.mistaken.most_common(6))}", flush=True)
        if args.grids:
            args.grids.mkdir(parents=True, exist_ok=True)
            grid(pictures[:60]).save(args.grids / f"{name.replace(' ', '-')}.png")
    by_shape = {
        shape: f"{total.shapes_right[shape]}/{total.shapes_asked[shape]}" for shape in scenes.SHAPES
    }
    print(f"by shape {by_shape}, {time.time() - began:.0f} s")
    if args.json:
        args.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
