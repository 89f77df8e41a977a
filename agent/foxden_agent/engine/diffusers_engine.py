"""Draws batches with diffusers: several models kept warm, one batch at a time, on one device."""

from __future__ import annotations

import importlib.util
import inspect
import io
import platform
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import diffusers
import psutil
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from foxden_agent.engine import checkpoints, heap, placing
from foxden_agent.engine.checkpoints import Identity, Snapshot
from foxden_agent.engine.duty_cycle import DutyCycle, Share, always_working
from foxden_agent.engine.errors import BadCheckpoint, BadRequest, OutOfMemory
from foxden_agent.engine.infotext import infotext
from foxden_agent.engine.sampler_driver import OnEvent, SamplerDriver, ShouldStop
from foxden_agent.engine.samplers import (
    NoSuchCombination,
    offered,
    scheduler_options,
)
from foxden_agent.engine.warm_models import WarmModels
from foxden_proto.batches import batch_key
from foxden_proto.v1.engine_pb2 import (
    Batch,
    Device,
    EngineDescription,
    EngineEvent,
    EngineMeasured,
    EnginePicture,
    EngineStage,
    LoadResponse,
    ModelSource,
    Placement,
    UnloadResponse,
)
from foxden_proto.v1.generation_pb2 import ImageRequest
from foxden_proto.v1.pool_pb2 import TIER_DISK, Sampler, Tier

PNG_LEVEL = 4
_COMPLETE = frozenset({"steps", "sampler", "guidance_scale", "width", "height", "seed"})


class DiffusersEngine:
    """One device and the models on it. One thread makes all calls but `prefetch`."""

    def __init__(self, device: str, version: str) -> None:
        """`device` is "auto" (the first CUDA device, else the CPU), "cpu" or "cuda:N"."""
        if device == "auto":
            device = "cuda:0" if torch.cuda.is_available() else "cpu"
        self._device = torch.device(device)
        self._version = version
        self._models = WarmModels(self._device, self._memory)
        self._pipe: Any = None  # of the models, the one in hand
        self._loaded: tuple[str, str] | None = None  # path and sha256 of the model in memory
        self._placed = Placement()  # how it lies there

    def describe(self) -> EngineDescription:
        devices = [_describe_device(torch.device("cpu"))] + [
            _describe_device(torch.device("cuda", n)) for n in range(torch.cuda.device_count())
        ]
        return EngineDescription(
            device=_describe_device(self._device, in_use=True),
            devices=devices,
            samplers=[
                Sampler(name=name, schedules=names) for name, names in offered(_missing()).items()
            ],
            versions=f"torch {torch.__version__.partition('+')[0]}, "
            f"diffusers {diffusers.__version__}",
            compute_capability=placing.compute_capability(self._device),
        )

    def load(self, model: ModelSource, placement: Placement | None = None) -> LoadResponse:
        """Bring the model where `placement` says; others stay where they are, as memory allows.

        Raises BadModel or OutOfMemory; afterwards this model is in no tier.
        """
        placement = placement or Placement()
        self._pipe = self._loaded = None
        placing.limit_memory(placement, self._device)
        try:
            brought = self._models.bring(model, placement)
        finally:
            heap.give_back()  # what other models left, and this one did not take
        key = (model.path, model.sha256)
        self._models.check(key)
        opened = brought.warm.opened
        self._pipe, self._loaded, self._placed = opened.pipe, key, placement
        return LoadResponse(
            seconds=brought.seconds,
            memory=opened.bytes,
            came_from=brought.came_from,
            memory_used=self._memory_used(),
        )

    def prefetch(self, model: ModelSource) -> LoadResponse:
        """Bring the model into RAM. May be called on another thread while a batch is drawn.

        Raises BadModel.
        """
        brought = self._models.prefetch(model)
        if brought is None:  # its files are at hand now, and that is all that could be done
            return LoadResponse(came_from=TIER_DISK, memory_used=self._memory_used())
        return LoadResponse(
            seconds=brought.seconds,
            memory=brought.warm.opened.bytes,
            came_from=brought.came_from,
            memory_used=self._memory_used(),
        )

    def unload(self, sha256s: Iterable[str], to: Tier.ValueType) -> UnloadResponse:
        """Put models out: to TIER_RAM they stay warm there, else they are gone."""
        wanted = set(sha256s)
        if self._loaded is not None and self._loaded[1] in wanted:
            self._evict()
        self._models.put_out(wanted, to)
        return UnloadResponse(memory_used=self._memory_used())

    def generate(
        self,
        batch: Batch,
        on_event: OnEvent,
        should_stop: ShouldStop,
        share: Share = always_working,
    ) -> None:
        """Draw the batch; each picture, stage and finished step goes to `on_event`.

        So does each checkpoint that was asked for, from another thread. Items with a checkpoint go
        on from it. `share` is asked again and again: the part of the time that is worked.
        Image i of the batch depends on its own request alone (its seed makes its noise, on the
        CPU), up to rounding: bit-identical for equal batch size, threads, placement and versions.
        Raises EngineError, or Stopped once every item was stopped.
        """
        shared = _shared_request(batch)
        memory = placing.MemoryWatch(placing.device_of(batch.placement, self._device))
        loaded = LoadResponse()
        if self._loaded != (
            batch.model.path,
            batch.model.sha256,
        ) or placing.needs_reload(self._placed, batch.placement):
            on_event(EngineEvent(stage=EngineStage(stage="loading")))
            loaded = self.load(batch.model, batch.placement)
        self._placed = batch.placement
        placing.limit_memory(batch.placement, self._device)
        placing.adjust(self._pipe, batch.placement)
        requests = [item.request for item in batch.items]
        started = time.perf_counter()
        own_scheduler = self._pipe.scheduler
        try:
            self._pipe.scheduler = self._build_scheduler(shared, [r.seed for r in requests])
            identities = [self._identity(batch.model, request) for request in requests]
            generators = [torch.Generator("cpu").manual_seed(r.seed) for r in requests]
            placed = placing.describe(self._placed, self._device, self._pipe.dtype)
            drawn_with = f"{placed}, batch of {len(requests)}, torch {torch.__version__}"

            def write(index: int, snapshot: Snapshot) -> bytes:
                return checkpoints.write(snapshot, identities[index], requests[index], drawn_with)

            driver = SamplerDriver(
                [item.item_id for item in batch.items],
                shared.steps,
                on_event,
                should_stop,
                generators=generators,
                write=write if batch.checkpoints else None,
                resume=_resume(batch, identities),
                duty_cycle=DutyCycle(share),
            )
            with (
                self._memory(f"drawing {len(requests)} x {shared.width}x{shared.height}"),
                driver.attached(self._pipe) as after_call,
            ):
                driver.stage("encoding")
                images = self._pipe(
                    **self._arguments(shared, requests),
                    generator=generators,
                    callback_on_step_end=after_call,
                ).images
        finally:
            # The next scheduler is made from the model's own configuration, not from this one's.
            self._pipe.scheduler = own_scheduler
            heap.give_back()
        by_id = {item.item_id: item.request for item in batch.items}
        for item_id, image in zip(driver.decoded, images, strict=True):
            png = encode_png(image, by_id[item_id], self._version)
            on_event(
                EngineEvent(
                    picture=EnginePicture(
                        item_id=item_id,
                        png=png,
                        width=image.width,
                        height=image.height,
                        seconds=time.perf_counter() - started,
                        batch_size=len(requests),
                        placement=placed,
                    )
                )
            )
        on_event(
            EngineEvent(
                measured=EngineMeasured(
                    peak_memory=memory.peak(),
                    memory_used=memory.used(),
                    load_seconds=loaded.seconds,
                    came_from=loaded.came_from,
                    spilled=memory.spilled(),
                )
            )
        )

    def _arguments(self, shared: ImageRequest, requests: list[ImageRequest]) -> dict[str, Any]:
        arguments: dict[str, Any] = {
            "prompt": [request.prompt for request in requests],
            "num_inference_steps": shared.steps,
            "width": shared.width,
            "height": shared.height,
            "output_type": "pil",
            "guidance_scale": shared.guidance_scale,
        }
        known = inspect.signature(self._pipe.__call__).parameters
        if "negative_prompt" in known:
            arguments["negative_prompt"] = [request.negative_prompt for request in requests]
        elif any(request.negative_prompt for request in requests):
            raise BadRequest("this model takes no negative prompt: leave it empty")
        return arguments

    def _identity(self, model: ModelSource, request: ImageRequest) -> Identity:
        """What this image's checkpoint belongs to. The scheduler must be built already."""
        return Identity(
            diffusers=diffusers.__version__,
            pipeline=type(self._pipe).__name__,
            scheduler=type(self._pipe.scheduler).__name__,
            model=model.sha256,
            sampler=request.sampler,
            schedule=request.schedule or "automatic",
            steps=request.steps,
            guidance_scale=request.guidance_scale,
            width=request.width,
            height=request.height,
            seed=request.seed,
        )

    def _build_scheduler(self, shared: ImageRequest, seeds: list[int]) -> Any:
        """A fresh scheduler: it keeps state, and a second batch must not start from the first's."""
        config = self._pipe.scheduler.config
        schedule = shared.schedule or "automatic"
        own = type(self._pipe.scheduler)
        if own.__name__.startswith("FlowMatch"):
            # Flow-matching models have no noise levels in the sense of the table.
            if (shared.sampler, schedule) != ("Euler", "automatic"):
                raise BadRequest("this model draws with sampler 'Euler', schedule 'automatic' only")
            return own.from_config(config)
        try:
            name, options = scheduler_options(
                shared.sampler, schedule, config.get("timestep_spacing", "leading")
            )
        except NoSuchCombination as error:
            raise BadRequest(str(error)) from error
        more: dict[str, Any] = dict(options)
        if name == "DPMSolverSDEScheduler":
            # Its noise comes from a Brownian tree and not from the generators. With one seed per
            # image each has a tree of its own, else an image would depend on its neighbours.
            more["noise_sampler_seed"] = seeds
        elif name in ("LCMScheduler", "TCDScheduler"):
            # They pick their steps out of this many, and refuse more steps than that.
            more["original_inference_steps"] = max(50, shared.steps)
        return getattr(diffusers, name).from_config(config, **more)

    @contextmanager
    def _memory(self, doing: str) -> Iterator[None]:
        """Turn torch's out-of-memory errors into ours, and hand cached blocks back."""
        try:
            yield
        except (torch.OutOfMemoryError, MemoryError) as error:
            self._release_cache()
            raise OutOfMemory(str(self._device), doing) from error
        except RuntimeError as error:
            # The CPU allocator has no type of its own for it.
            if "not enough memory" in str(error) or "can't allocate memory" in str(error):
                raise OutOfMemory(str(self._device), doing) from error
            raise

    def _evict(self) -> None:
        """Draw with none of the models: the one in hand may be moved or forgotten."""
        self._pipe = self._loaded = None

    def _memory_used(self) -> int:
        """Bytes of the device that this process holds."""
        if self._device.type == "cuda":
            return int(torch.cuda.memory_reserved(self._device))
        memory = psutil.Process().memory_info()
        return int(memory.rss - getattr(memory, "shared", 0))

    def _release_cache(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.empty_cache()


def encode_png(image: Image.Image, request: ImageRequest, version: str) -> bytes:
    """The picture as PNG, with its infotext under "parameters" (iTXt where it isn't Latin-1)."""
    info = PngInfo()
    info.add_text(
        "parameters", infotext(request, width=image.width, height=image.height, version=version)
    )
    stream = io.BytesIO()
    image.save(stream, "PNG", pnginfo=info, compress_level=PNG_LEVEL)
    return stream.getvalue()


def _missing() -> set[str]:
    """Libraries that some samplers need and this installation lacks."""
    return {name for name in ("scipy", "torchsde") if importlib.util.find_spec(name) is None}


def _resume(batch: Batch, identities: list[Identity]) -> Snapshot | None:
    """What the batch goes on from; None where it begins. Raises BadCheckpoint."""
    if not any(item.checkpoint for item in batch.items):
        return None
    if not all(item.checkpoint for item in batch.items):
        raise BadCheckpoint("others of the batch have none")
    return checkpoints.join(
        [
            checkpoints.read(item.checkpoint, identity, item.request)
            for item, identity in zip(batch.items, identities, strict=True)
        ]
    )


def _shared_request(batch: Batch) -> ImageRequest:
    """The first item's request, once it is sure that the others may ride with it."""
    if not batch.items:
        raise BadRequest("the batch is empty")
    first = batch.items[0].request
    if len({item.item_id for item in batch.items}) < len(batch.items):
        raise BadRequest("two items of the batch have the same id")
    key = batch_key(first)
    for item in batch.items:
        for name, mine, other in zip(key._fields, key, batch_key(item.request), strict=True):
            if mine != other:
                raise BadRequest(f"the items of a batch must share {name}")
        missing = _COMPLETE - {field.name for field, _ in item.request.ListFields()}
        if missing:
            raise BadRequest(f"{min(missing)} is missing: a batch comes with all defaults set")
    return first


def _describe_device(device: torch.device, *, in_use: bool = False) -> Device:
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        # Asking makes a context on the device (100 to 300 MB of it): only for the one in use.
        free = torch.cuda.mem_get_info(device)[0] if in_use else 0
        return Device(
            device=str(device),
            name=properties.name,
            memory_total=properties.total_memory,
            memory_free=free,
            uuid=placing.uuid_of(properties),
            pci_bus_id=placing.pci_bus_id_of(properties),
        )
    memory = psutil.virtual_memory()
    return Device(
        device="cpu",
        name=_processor_name(),
        memory_total=memory.total,
        memory_free=memory.available,
    )


def _processor_name() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass  # not Linux
    return platform.processor() or platform.machine()
