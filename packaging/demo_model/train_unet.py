"""Train the UNet and the text encoder together on latents of our own drawings (CPU).

Workers share one set of weights without locks (Hogwild: Recht et al., 2011): on two busy cores
that was faster than one worker with two threads. One worker with ``--steps`` is repeatable; the
others depend on timing. The learning rate is constant for the first part of the run and then
falls to nothing along a cosine, by the clock (``--until``) or by steps, so a run always ends well.
"""

from __future__ import annotations

import argparse
import random
import time
from pathlib import Path

import captions
import drawing
import pace
import parts
import scenes
import torch
from torch import Tensor, nn
from torch.multiprocessing import spawn
from torch.nn import functional

EMPTY_SHARE = 0.1  # captions replaced by "", so that guidance has something to compare with
EMA_DECAY = 0.999
SAVE_SECONDS = 120.0


class Model(nn.Module):  # type: ignore[misc]  # torch's types are not followed here
    """Text encoder and UNet as one module, so that they share optimiser, EMA and checkpoint."""

    def __init__(self, both: parts.Parts) -> None:
        super().__init__()
        self.text = both.text
        self.unet = both.unet

    def forward(self, noisy: Tensor, times: Tensor, ids: Tensor) -> Tensor:
        """The predicted v, like ``noisy`` (n, 4, 16, 16), at ``times`` (n,) for ``ids`` (n, 77)."""
        words = self.text(ids).last_hidden_state
        v: Tensor = self.unet(noisy, times, words).sample
        return v


def make_data(args: argparse.Namespace) -> None:
    """Draw and encode ``--scenes`` scenes with three captions each, once, into ``latents.pt``."""
    both = parts.load(args.vae)
    rng = random.Random(args.seed)
    latents: list[Tensor] = []
    texts: list[str] = []
    for start in range(0, args.scenes, 256):
        specs = [scenes.random_spec(rng) for _ in range(min(256, args.scenes - start))]
        pictures = drawing.render([scenes.random_scene(spec, rng) for spec in specs])
        latents.append(parts.encode(both.vae, pictures))
        texts += [captions.random_caption(spec, rng) for spec in specs for _ in range(3)]
    ids = torch.cat([both.tokens(texts[i : i + 3000]).short() for i in range(0, len(texts), 3000)])
    data = {"latents": torch.cat(latents), "ids": ids.view(-1, 3, 77)}
    data["empty"] = both.tokens([""]).short()[0]
    print(f"{args.scenes} scenes, latent spread {data['latents'].std():.3f}", flush=True)
    torch.save(data, args.out / "latents.pt")


def train(rank: int, args: argparse.Namespace, plan: pace.Pace, model: Model, ema: Model) -> None:
    """One worker's loop; worker 0 also keeps the EMA and writes the checkpoints."""
    torch.set_num_threads(1)
    data = torch.load(args.out / "latents.pt")
    latents, ids, empty = data["latents"], data["ids"], data["empty"].long()
    levels = parts.noise_levels()
    generator = torch.Generator().manual_seed(args.seed * 1000 + rank + args.resume * 77)
    optimiser = torch.optim.AdamW(model.parameters(), lr=args.rate, weight_decay=0.01)
    state = args.out / f"optimiser{rank}.pt"
    if args.resume and state.exists():
        optimiser.load_state_dict(torch.load(state))
    step, seen, loss_sum, said, saved = 0, 0, 0.0, time.time(), time.time()
    while plan.progress(step) < 1:
        for group in optimiser.param_groups:
            group["lr"] = plan.learning_rate(step)
        pick = torch.randint(len(latents), (args.batch,), generator=generator)
        which = torch.randint(ids.shape[1], (args.batch,), generator=generator)
        words = ids[pick, which].long()
        words[torch.rand(args.batch, generator=generator) < EMPTY_SHARE] = empty
        noise = torch.randn(args.batch, *parts.LATENT_SHAPE, generator=generator)
        times = (torch.rand(args.batch, generator=generator) ** 0.85 * 1000).long().clamp(max=999)
        keep = levels[times].sqrt()[:, None, None, None]
        add = (1 - levels[times]).sqrt()[:, None, None, None]
        clean = latents[pick]
        v = model(keep * clean + add * noise, times, words)
        loss = functional.mse_loss(v, keep * noise - add * clean)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        optimiser.zero_grad()
        step += 1
        seen += args.batch
        loss_sum += loss.item()
        if rank == 0:
            decay = EMA_DECAY if args.resume else min(EMA_DECAY, (step + 10) / (step + 100))
            with torch.no_grad():
                torch._foreach_lerp_(list(ema.parameters()), list(model.parameters()), 1 - decay)
        if step % 200 == 0:
            rate = 200 * args.batch / (time.time() - said)
            print(
                f"{pace.now()} worker {rank} step {step} seen {seen} "
                f"loss {loss_sum / 200:.4f} lr {plan.learning_rate(step):.2e} {rate:.0f}/s",
                flush=True,
            )
            said, loss_sum = time.time(), 0.0
        if time.time() - saved > SAVE_SECONDS:
            save(args.out, rank, model, ema, optimiser)
            saved = time.time()
    save(args.out, rank, model, ema, optimiser)


def save(
    folder: Path, rank: int, model: Model, ema: Model, optimiser: torch.optim.Optimizer
) -> None:
    """Write the state aside, then rename: a kill in between leaves the last one whole."""
    files = {f"optimiser{rank}.pt": optimiser.state_dict()}
    if rank == 0:
        files["weights.pt"] = {"model": model.state_dict(), "ema": ema.state_dict()}
    for name, content in files.items():
        torch.save(content, folder / (name + ".new"))
        (folder / (name + ".new")).rename(folder / name)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--init", required=True, help="a pipeline folder, or none")
    parser.add_argument("--vae", type=Path, required=True, help="pipeline folder: VAE, tokenizer")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--scenes", type=int, default=48_000)
    pace.add_options(parser, rate=1e-3, flat=0.4)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--resume", action="store_true")
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    torch.set_num_threads(args.workers)
    args.out.mkdir(parents=True, exist_ok=True)
    if not (args.out / "latents.pt").exists():
        make_data(args)
    fresh = args.init == "none"
    model = Model(parts.load(args.vae if fresh else Path(args.init), fresh)).train()
    ema = Model(parts.load(args.vae if fresh else Path(args.init), fresh))
    ema.load_state_dict(model.state_dict())
    if args.resume:
        state = torch.load(args.out / "weights.pt")
        model.load_state_dict(state["model"])
        ema.load_state_dict(state["ema"])
    ema.requires_grad_(False)
    plan = pace.pace_of(args)
    if args.workers == 1:
        train(0, args, plan, model, ema)
        return
    model.share_memory()
    ema.share_memory()
    spawn(train, (args, plan, model, ema), nprocs=args.workers)


if __name__ == "__main__":
    main()
