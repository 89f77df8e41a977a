"""Train the VAE on our own drawings (CPU): all of it at first, later its decoder alone.

With ``--part decoder`` the encoder stays as it is, so latents made before stay valid. The decoder
then also learns to clear up what it will really be given: latents with a little noise, and, with
``--restored``, latents that were noised far and brought back by the UNet (paired with the true
picture), so that it draws a clean edge where the UNet left a blurred one.
"""

from __future__ import annotations

import argparse
import itertools
import math
import random
import time
from pathlib import Path

import captions
import drawing
import pace
import parts
import scenes
import torch
from diffusers import DDIMScheduler
from torch import Tensor
from torch.nn import functional

KL_WEIGHT = 5e-4
LATENT_NOISE = 0.1
GUIDANCE = 3.0
SAVE_SECONDS = 180.0


def draw(count: int, rng: random.Random) -> tuple[list[scenes.Spec], Tensor]:
    """Fresh specs and their pictures (count, 3, 64, 64) in [-1, 1]."""
    specs = [scenes.random_spec(rng) for _ in range(count)]
    return specs, drawing.render([scenes.random_scene(spec, rng) for spec in specs])


def picture_loss(got: Tensor, want: Tensor) -> Tensor:
    """L1 + MSE + half the L1 of both pictures' differences between neighbours (edges)."""
    error = got - want
    across = error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean()
    return error.abs().mean() + error.square().mean() + 0.5 * across


def restored_pool(both: parts.Parts, count: int, rng: random.Random) -> tuple[Tensor, Tensor]:
    """Latents that the UNet brought back from noise levels 100–600, and the true pictures.

    Six DDIM steps at guidance 3: like the end of a real run, yet still about the same drawing.
    Returns (count, 4, 16, 16) and (count, 3, 64, 64).
    """
    scheduler = DDIMScheduler(**parts.SCHEDULER_CONFIG)
    latents: list[Tensor] = []
    pictures: list[Tensor] = []
    empty = both.text(both.tokens([""])).last_hidden_state
    while len(latents) * 50 < count:
        specs, batch = draw(50, rng)
        words = both.text(both.tokens([captions.prompt(spec) for spec in specs])).last_hidden_state
        context = torch.cat([words, empty.expand_as(words)])
        clean = parts.encode(both.vae, batch)
        start = rng.randint(100, 600)
        times = torch.linspace(start, 1, 7).long()
        level = scheduler.alphas_cumprod[times[0]]
        noisy = level.sqrt() * clean + (1 - level).sqrt() * torch.randn_like(clean)
        for now, then in itertools.pairwise(times):
            v, v_empty = both.unet(torch.cat([noisy, noisy]), now, context).sample.chunk(2)
            v = v_empty + GUIDANCE * (v - v_empty)
            level, after = scheduler.alphas_cumprod[now], scheduler.alphas_cumprod[then]
            clear = level.sqrt() * noisy - (1 - level).sqrt() * v
            noise = level.sqrt() * v + (1 - level).sqrt() * noisy
            noisy = after.sqrt() * clear + (1 - after).sqrt() * noise
        latents.append(clear)
        pictures.append(batch)
    return torch.cat(latents)[:count], torch.cat(pictures)[:count]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--init", required=True, help="a pipeline folder, or none")
    parser.add_argument("--tokenizer", type=Path, help="pipeline folder, where --init is none")
    parser.add_argument("--out", type=Path, required=True, help="state_dict file to write")
    parser.add_argument("--start", type=Path, help="VAE state_dict to go on from")
    parser.add_argument("--part", choices=("all", "decoder"), default="all")
    parser.add_argument("--restored", type=int, default=0, help="size of the UNet-made pool")
    parser.add_argument("--unet-weights", type=Path, help="train_unet's weights.pt for the pool")
    pace.add_options(parser, rate=2e-3, flat=0.0)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    torch.set_num_threads(1)
    rng = random.Random(args.seed)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    both = parts.load(args.tokenizer or Path(args.init), fresh=args.init == "none")
    vae = both.vae
    if args.start:
        vae.load_state_dict(torch.load(args.start))
    pool: tuple[Tensor, Tensor] | None = None
    if args.restored:
        ema = torch.load(args.unet_weights)["ema"]
        both.text.load_state_dict({k[5:]: v for k, v in ema.items() if k.startswith("text.")})
        both.unet.load_state_dict({k[5:]: v for k, v in ema.items() if k.startswith("unet.")})
        with torch.no_grad():
            pool = restored_pool(both, args.restored, rng)
        print(f"{pace.now()} pool of {args.restored} made", flush=True)
    whole = args.part == "all"
    vae.requires_grad_(whole)
    vae.decoder.requires_grad_(True)
    vae.post_quant_conv.requires_grad_(True)
    weights = [weight for weight in vae.parameters() if weight.requires_grad]
    optimiser = torch.optim.AdamW(weights, lr=args.rate, weight_decay=0.01)
    plan = pace.pace_of(args)
    step, loss_sum, saved = 0, 0.0, time.time()
    while plan.progress(step) < 1:
        for group in optimiser.param_groups:
            group["lr"] = plan.learning_rate(step)
        _, pictures = draw(args.batch, rng)
        with torch.autocast("cpu", torch.bfloat16):
            if whole:
                posterior = vae.encode(pictures).latent_dist
                loss = picture_loss(vae.decode(posterior.sample()).sample.float(), pictures)
                loss = loss + KL_WEIGHT * posterior.kl().mean() / math.prod(parts.LATENT_SHAPE)
            else:
                latents = parts.encode(vae, pictures).float()
                spread = LATENT_NOISE * torch.rand(len(latents), 1, 1, 1)
                latents += spread * torch.randn_like(latents)
                if pool:  # half of every batch
                    half = args.batch // 2
                    pick = torch.randint(len(pool[0]), (half,))
                    latents[:half], pictures[:half] = pool[0][pick], pool[1][pick]
                loss = picture_loss(parts.decode(vae, latents).float(), pictures)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimiser.step()
        optimiser.zero_grad()
        step += 1
        loss_sum += loss.item()
        if step % 200 == 0:
            print(f"{pace.now()} {step} {loss_sum / 200:.4f}", flush=True)
            loss_sum = 0.0
        if time.time() - saved > SAVE_SECONDS:
            torch.save(vae.state_dict(), args.out)
            saved = time.time()
    torch.save(vae.state_dict(), args.out)
    with torch.no_grad():
        _, pictures = draw(200, random.Random(999))
        latents = parts.encode(vae, pictures)
        error = functional.mse_loss(parts.decode(vae, latents), pictures)
    print(f"{step} steps, PSNR {10 * math.log10(4 / error):.2f} dB (200 unseen drawings)")
    print(f"for latents of spread 1, parts.SCALING should be {parts.SCALING / latents.std():.4f}")


if __name__ == "__main__":
    main()
