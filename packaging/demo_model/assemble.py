"""Put trained weights together into the pipeline folder that is shipped."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import parts
import torch

ABOUT = {
    "name": "foxden-demo",
    "family": "sd1",
    "licence": "Apache-2.0",
    "default_width": 64,
    "default_height": 64,
    "default_steps": 20,
    "default_guidance_scale": 3.0,
    "default_sampler": "DPM++ 2M",
    "default_schedule": "automatic",
    "multiple_of": 8,
    "min_size": 32,
    "max_size": 256,
    "description": "Foxden's own tiny model: 11 plain shapes in 12 colours on a plain background, "
    "64 x 64 px, for first tries and tests without a graphics card.",
}
"""What the agent's model folder reads about the model (``foxden.json``)."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--base", type=Path, required=True, help="pipeline folder: tokenizer")
    parser.add_argument("--unet-weights", type=Path, help="train_unet's weights.pt (EMA is taken)")
    parser.add_argument("--vae-weights", type=Path, help="train_vae's state_dict")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    both = parts.load(args.base)
    if args.unet_weights:
        ema = torch.load(args.unet_weights)["ema"]
        both.text.load_state_dict({k[5:]: v for k, v in ema.items() if k.startswith("text.")})
        both.unet.load_state_dict({k[5:]: v for k, v in ema.items() if k.startswith("unet.")})
    if args.vae_weights:
        both.vae.load_state_dict(torch.load(args.vae_weights))
    parts.save(both, args.out, args.base / "tokenizer", json.dumps(ABOUT, indent=2) + "\n")
    size = sum(file.stat().st_size for file in args.out.rglob("*") if file.is_file())
    print(f"{args.out}: {size:,} bytes")


if __name__ == "__main__":
    main()
