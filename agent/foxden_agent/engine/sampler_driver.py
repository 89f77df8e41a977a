"""The one place that stands inside a running pipeline: progress, stop, checkpoints, rests, guards.

No pipeline is subclassed or copied. For one batch the driver shadows methods *on the instances*
the pipeline uses and hands it a step callback:

    scheduler.set_timesteps   the text is encoded, sampling begins, and how many model calls follow
    callback_on_step_end      after each model call: progress, checkpoint, stop, rest
    vae.decode                sampling is over: drop stopped items, refuse NaN
    scheduler.step,           going on from a checkpoint of k calls: below k both are skipped, so
    unet or transformer         that the pipeline counts to k by itself; after call k - 1 latents,
                                generators and the scheduler's state are put back, and from k on
                                everything is real. No pipeline needs a `latents` argument for it.

Previews have their place in `_after_call`: it sees the latents of the whole batch, and what it
returns under "latents" replaces them.

Traps:
- The scheduler must stay an instance of its own class: pipelines ask `isinstance`, `.order` and
  `.config`. So its methods are shadowed; it isn't put inside another object.
- A shadow keeps the original's signature (functools.wraps): pipelines look for `generator`, `eta`,
  `sigmas` and `timesteps` with inspect.signature and silently leave out what they don't see. That
  is how seeds get lost.
- `pipe._interrupt` is no way to stop: the loop runs out idly and the pipeline still decodes.
- Heun, DPM2 and DPM++ SDE call the model 2N - 1 times for N steps, PNDM N + 1 times. The user asked
  for N steps, so progress counts those. Checkpoints count calls. Image to image makes fewer calls
  than the scheduler has timesteps; the pipeline knows how many once it has begun.
- A scheduler keeps state between batches (model outputs, the Brownian tree); it is built afresh.
- A ControlNet that comes to a pipeline has to be skipped below k, too.
"""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from diffusers.models.modeling_outputs import Transformer2DModelOutput
from diffusers.schedulers.scheduling_utils import SchedulerOutput

from foxden_agent.engine.checkpoint_writer import CheckpointWriter, Pace
from foxden_agent.engine.checkpoints import Snapshot
from foxden_agent.engine.duty_cycle import DutyCycle
from foxden_agent.engine.errors import BadCheckpoint, BadNumbers, EngineError, Stopped
from foxden_agent.engine.scheduler_state import NotAState, SchedulerState, mapped
from foxden_proto.v1.engine_pb2 import (
    EngineCheckpoint,
    EngineEvent,
    EngineStage,
    EngineStep,
    EngineStopped,
)

log = logging.getLogger(__name__)

OnEvent = Callable[[EngineEvent], None]
ShouldStop = Callable[[], set[str]]  # the item ids to stop; called from the torch thread
# The checkpoint of the batch's image of that index, from a snapshot of it alone. Called from a
# thread of its own; may raise NotAState.
WriteCheckpoint = Callable[[int, Snapshot], bytes]

# Progress is for people's eyes: a word per step of a small model would cost four processes more
# time than the step itself.
_PROGRESS_SECONDS = 0.1
_NETWORKS = ("unet", "transformer")


class SamplerDriver:
    """Follows one batch through one pipeline call.

    `steps` is what the user asked for; `item_ids` and `generators` (those that the pipeline is
    given) are in the batch's order. With `write`, each image's checkpoint goes to `on_event` (from
    another thread) after every model call but the last, as `Pace` allows. `resume` is a batch to go
    on from. Raises BadCheckpoint, out of the pipeline's call, where that can't be gone on from.
    """

    def __init__(
        self,
        item_ids: Sequence[str],
        steps: int,
        on_event: OnEvent,
        should_stop: ShouldStop,
        *,
        generators: Sequence[torch.Generator] = (),
        write: WriteCheckpoint | None = None,
        resume: Snapshot | None = None,
        duty_cycle: DutyCycle | None = None,
    ) -> None:
        self._items = list(item_ids)
        self._steps = steps
        self._on_event = on_event
        self._should_stop = should_stop
        self._generators = list(generators)
        self._write = write
        self._resume = resume
        self._duty_cycle = duty_cycle or DutyCycle()
        self._skip = resume.calls if resume else 0  # model calls that are not made
        self._stopped: set[str] = set()
        self._scheduler: Any = None
        self._state: SchedulerState | None = None
        self._writer = CheckpointWriter(self._write_all) if write else None
        self._pace = Pace(time.monotonic())
        self._calls = steps  # model calls that the pipeline will make
        self._behind = 0  # model calls that were made or skipped
        self._step = 0  # the last that was told
        self._next_word = 0.0
        self.decoded: list[str] = []  # whose pictures the pipeline returns, in their order

    @contextmanager
    def attached(self, pipe: Any) -> Iterator[Callable[..., dict[str, Any]]]:
        """Shadow the pipeline's methods; yields the callback for `callback_on_step_end`."""
        self._scheduler = pipe.scheduler
        self.decoded = list(self._items)
        with ExitStack() as shadows:
            shadows.enter_context(_shadowed(pipe.scheduler, "set_timesteps", self._set_timesteps))
            if (vae := getattr(pipe, "vae", None)) is not None:
                shadows.enter_context(_shadowed(vae, "decode", self._decode))
            if self._skip:
                shadows.enter_context(_shadowed(pipe.scheduler, "step", self._scheduler_step))
                for network in (getattr(pipe, name, None) for name in _NETWORKS):
                    if network is not None:
                        forward = functools.partial(self._forward, network)
                        shadows.enter_context(_shadowed(network, "forward", forward))
            if self._writer is not None:
                shadows.callback(self._writer.close)
            try:
                yield self._after_call
            except (EngineError, Stopped, torch.OutOfMemoryError, MemoryError):
                raise
            except Exception as error:
                # Numbers from elsewhere that fit by shape may still not fit together: an index
                # beyond the schedule. What fails in the first call after them fails by them.
                if self._skip and self._behind <= self._skip:
                    raise BadCheckpoint(f"going on failed ({type(error).__name__})") from error
                raise

    def stage(self, name: str) -> None:
        """Announce a stage, after looking whether anybody still wants the pictures."""
        self._look_for_stops()
        self._on_event(EngineEvent(stage=EngineStage(stage=name)))

    def _set_timesteps(self, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        result = original(*args, **kwargs)
        self._calls = len(self._scheduler.timesteps)
        self._state = SchedulerState(self._scheduler)
        self.stage("sampling")
        self._pace = Pace(time.monotonic())
        return result

    def _forward(
        self, network: Any, original: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> Any:
        """The network; below the checkpoint something of the right shape that nobody will use."""
        if self._behind >= self._skip:
            return original(*args, **kwargs)
        given: torch.Tensor = args[0] if args else kwargs.get("sample", kwargs.get("hidden_states"))
        if given.ndim == 4:  # an inpainting network takes more channels than it gives
            given = given[:, : network.config.out_channels]
        if kwargs.get("return_dict", True):
            return Transformer2DModelOutput(sample=given)
        return (given,)

    def _scheduler_step(
        self,
        original: Callable[..., Any],
        model_output: torch.Tensor,
        timestep: Any,
        sample: torch.Tensor,
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        if self._behind >= self._skip:
            return original(model_output, timestep, sample, *args, **kwargs)
        if kwargs.get("return_dict", True):
            return SchedulerOutput(prev_sample=sample)
        return (sample, sample)  # LCM and TCD give two

    def _after_call(
        self, pipe: Any, call: int, timestep: Any, tensors: dict[str, Any]
    ) -> dict[str, Any]:
        """Called by the pipeline after each model call, `call` counting from 0."""
        self._behind = call + 1
        self._calls = getattr(pipe, "num_timesteps", None) or self._calls
        if self._behind < self._skip:
            self._look_for_stops()
            return {}
        latents = tensors.get("latents")
        changed: dict[str, Any] = {}
        if self._resume is not None and self._behind == self._skip:
            changed["latents"] = self._put_back(self._resume, latents)
        if latents is not None and latents.is_cuda:
            # Launches run ahead of the card: unsynchronised, the last step is "finished" while the
            # card is at the third, and a stop waits for all that was launched.
            torch.cuda.current_stream(latents.device).synchronize()
        # Exact for 2N-1 calls (the last one ends the last step) as for N and N+1.
        step = min(self._steps, self._behind * self._steps // self._calls)
        now = time.monotonic()
        if step > self._step and (now >= self._next_word or step == self._steps):
            self._step, self._next_word = step, now + _PROGRESS_SECONDS
            self._on_event(EngineEvent(step=EngineStep(step=step, steps=self._steps)))
        if latents is not None and self._skip < self._behind < self._calls and self._pace.due(now):
            self._checkpoint(latents, now)
        self._look_for_stops()
        self._duty_cycle.rest(self._look_for_stops, self._resting)
        return changed

    def _checkpoint(self, latents: torch.Tensor, now: float) -> None:
        if self._writer is None or self._state is None:
            return
        begun = time.thread_time()
        try:
            state = self._state.changes()
        except NotAState as error:
            log.warning("this scheduler can't be checkpointed: %s", error)
            self._writer = None
            return
        snapshot = Snapshot(
            self._behind,
            _copied(latents),
            [generator.get_state() for generator in self._generators],
            {name: mapped(value, _copied) for name, value in state.items()},
        )
        if latents.is_cuda:
            torch.cuda.current_stream(latents.device).synchronize()
        self._writer.put(snapshot)
        self._pace.taken(now)
        self._pace.cost(time.thread_time() - begun + self._writer.seconds)

    def _write_all(self, snapshot: Snapshot) -> None:
        """On the writer's thread."""
        assert self._write is not None
        for index, item_id in enumerate(self._items):
            if item_id in self._stopped:
                continue
            data = self._write(index, snapshot.of_image(index))
            checkpoint = EngineCheckpoint(item_id=item_id, step=snapshot.calls, data=data)
            self._on_event(EngineEvent(checkpoint=checkpoint))

    def _put_back(self, snapshot: Snapshot, latents: torch.Tensor | None) -> torch.Tensor:
        """Make everything what it was after the checkpoint's last call; returns the latents."""
        if self._behind >= self._calls:
            raise BadCheckpoint(f"it is of call {self._behind} of {self._calls}")
        if latents is None or self._state is None or latents.shape != snapshot.latents.shape:
            raise BadCheckpoint(f"latents of {tuple(snapshot.latents.shape)} don't fit")

        def fitted(tensor: torch.Tensor) -> torch.Tensor:
            # A card that computes in another precision goes on in its own. What is not per image
            # (numbers, tables) the schedulers keep on the CPU or move when they need it.
            if tensor.shape != latents.shape:
                return tensor
            own = tensor.dtype == snapshot.latents.dtype
            return tensor.to(latents.device, latents.dtype if own else tensor.dtype)

        try:
            state = {name: mapped(value, fitted) for name, value in snapshot.state.items()}
            self._state.put_back(state, latents.shape)
            for generator, saved in zip(self._generators, snapshot.generators, strict=True):
                generator.set_state(saved)
        except (NotAState, RuntimeError) as error:
            raise BadCheckpoint(str(error)[:200]) from error
        return fitted(snapshot.latents)

    def _resting(self) -> None:
        self._on_event(EngineEvent(stage=EngineStage(stage="resting")))

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


def _copied(tensor: torch.Tensor) -> torch.Tensor:
    """A copy on the CPU; from a card only once its stream has been waited for."""
    if tensor.device.type == "cpu":
        return tensor.detach().clone()
    return tensor.detach().to("cpu", non_blocking=True, copy=True)


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
