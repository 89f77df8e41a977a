"""The one place that stands inside a running pipeline: progress, stop, and the guards.

No pipeline is subclassed or copied. For one batch the driver shadows two methods *on the
instances* the pipeline uses and hands it a step callback:

    scheduler.set_timesteps   the text is encoded, sampling begins, and how many model calls follow
    callback_on_step_end      after each model call: progress and stop
    vae.decode                sampling is over: drop stopped items, refuse NaN

Previews, checkpoints and the duty cycle have their place in `_after_call`: it sees the latents
of the whole batch, and what it returns under "latents" replaces them.

Traps:
- The scheduler must stay an instance of its own class: pipelines ask `isinstance`, `.order` and
  `.config`. So its methods are shadowed; it isn't put inside another object.
- A shadow keeps the original's signature (functools.wraps): pipelines look for `generator`, `eta`,
  `sigmas` and `timesteps` with inspect.signature and silently leave out what they don't see. That
  is how seeds get lost.
- `pipe._interrupt` is no way to stop: the loop runs out idly and the pipeline still decodes.
- Heun, DPM2 and DPM++ SDE call the model 2N - 1 times for N steps, PNDM N + 1 times. The user asked
  for N steps, so progress counts those.
- A scheduler keeps state between batches (model outputs, the Brownian tree); it is built afresh.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from foxden_agent.engine.errors import BadNumbers, Stopped
from foxden_proto.v1.engine_pb2 import EngineEvent, EngineStage, EngineStep, EngineStopped

OnEvent = Callable[[EngineEvent], None]
ShouldStop = Callable[[], set[str]]  # the item ids to stop; called from the torch thread

# Progress is for people's eyes: a word per step of a small model would cost four processes more
# time than the step itself.
_PROGRESS_SECONDS = 0.1


class SamplerDriver:
    """Follows one batch through one pipeline call.

    `steps` is what the user asked for; `item_ids` are in the batch's order.
    """

    def __init__(
        self, item_ids: Sequence[str], steps: int, on_event: OnEvent, should_stop: ShouldStop
    ) -> None:
        self._items = list(item_ids)
        self._steps = steps
        self._on_event = on_event
        self._should_stop = should_stop
        self._stopped: set[str] = set()
        self._scheduler: Any = None
        self._calls = steps  # model calls that the scheduler will make
        self._step = 0  # the last that was told
        self._next_word = 0.0
        self.decoded: list[str] = []  # whose pictures the pipeline returns, in their order

    @contextmanager
    def attached(self, pipe: Any) -> Iterator[Callable[..., dict[str, Any]]]:
        """Shadow the pipeline's methods; yields the callback for `callback_on_step_end`."""
        self._scheduler = pipe.scheduler
        self.decoded = list(self._items)
        vae = getattr(pipe, "vae", None)
        with _shadowed(pipe.scheduler, "set_timesteps", self._set_timesteps):
            if vae is None:
                yield self._after_call
                return
            with _shadowed(vae, "decode", self._decode):
                yield self._after_call

    def stage(self, name: str) -> None:
        """Announce a stage, after looking whether anybody still wants the pictures."""
        self._look_for_stops()
        self._on_event(EngineEvent(stage=EngineStage(stage=name)))

    def _set_timesteps(self, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        result = original(*args, **kwargs)
        self._calls = len(self._scheduler.timesteps)
        self.stage("sampling")
        return result

    def _after_call(
        self, pipe: Any, call: int, timestep: Any, tensors: dict[str, Any]
    ) -> dict[str, Any]:
        """Called by the pipeline after each model call, `call` counting from 0."""
        latents = tensors.get("latents")
        if latents is not None and latents.is_cuda:
            # Launches run ahead of the card: unsynchronised, the last step is "finished" while the
            # card is at the third, and a stop waits for all that was launched.
            torch.cuda.current_stream(latents.device).synchronize()
        # Exact for 2N-1 calls (the last one ends the last step) as for N and N+1.
        step = min(self._steps, (call + 1) * self._steps // self._calls)
        now = time.monotonic()
        if step > self._step and (now >= self._next_word or step == self._steps):
            self._step, self._next_word = step, now + _PROGRESS_SECONDS
            self._on_event(EngineEvent(step=EngineStep(step=step, steps=self._steps)))
        self._look_for_stops()
        return {}

    def _decode(
        self, original: Callable[..., Any], latents: torch.Tensor, *args: Any, **kwargs: Any
    ) -> Any:
        self.stage("decoding")
        if self._stopped:
            # The pipeline takes the number of pictures from what comes out of here.
            keep = [i for i, item in enumerate(self._items) if item not in self._stopped]
            latents = latents[keep]
            self.decoded = [self._items[i] for i in keep]
        _require_numbers(latents, "latents")
        result = original(latents, *args, **kwargs)
        pixels = result[0] if isinstance(result, tuple) else result.sample
        _require_numbers(pixels, "decoded picture")
        return result

    def _look_for_stops(self) -> None:
        for item in self._items:
            if item in self._stopped or item not in self._should_stop():
                continue
            self._stopped.add(item)
            self._on_event(EngineEvent(stopped=EngineStopped(item_id=item)))
        if len(self._stopped) == len(self._items):
            raise Stopped


def _require_numbers(values: torch.Tensor, where: str) -> None:
    if not bool(torch.isfinite(values).all()):
        raise BadNumbers(where, str(values.dtype).removeprefix("torch."))


@contextmanager
def _shadowed(target: Any, name: str, replacement: Callable[..., Any]) -> Iterator[None]:
    """Put `replacement(original, ...)` before a method of one instance, and take it away again."""
    held = vars(target).get(name)
    original = getattr(target, name)

    @functools.wraps(original)
    def shadow(*args: Any, **kwargs: Any) -> Any:
        return replacement(original, *args, **kwargs)

    setattr(target, name, shadow)
    try:
        yield
    finally:
        if held is None:
            delattr(target, name)
        else:
            setattr(target, name, held)
