"""Networks laid over their files: built without weights, then pointed at the mapped bytes.

`from_pretrained` makes a network's tensors, fills them from a copy of the file and converts that.
Here a file is mapped once and its tensors are views of the mapping: a network that waits in RAM
costs page cache, which the system takes back when a program of the owner's needs it, and one that
goes to a device is read and converted in one pass, without a second copy in between. What cannot be
laid over its files exactly (old names of weights, quantised files, parts that compute buffers of
their own) is left to its library: `map_network` answers None.

Traps:
- Building under accelerate's `init_empty_weights` changes torch.nn for the whole process: a batch
  that is drawn on another thread would get meta tensors. A torch function mode is a thread's own.
- A mapped page that is no longer in its file ends the process with SIGBUS. `Files.check` looks
  before pages are touched again; for the moment in between the agent knows the signal
  (engine_errors.EngineDied.file_changed).
- A mapping shows what is written into the file later: a file that changed is never gone on with.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch.overrides import TorchFunctionMode

_WEIGHTS = ("diffusion_pytorch_model", "model")  # of diffusers, of transformers
# How names in files differ from those of the networks; the first that fits all of them counts.
_RENAMED = (("", ""), ("text_model.", ""))
# Made by the network itself since; older files still hold it.
_OBSOLETE = ("position_ids",)
_TOUCH_BYTES = 16 * 1024 * 1024


class FileChanged(OSError):
    """A model's file is not what it was when it was mapped."""

    def __init__(self, path: Path, how: str) -> None:
        self.path, self.how = path, how
        super().__init__(
            f"{path.parent.name}/{path.name} {how} while it was in use: put the whole file back, "
            "then start the agent again so that it reads it anew"
        )


class Unreadable(ValueError):
    """A weights file that is cut short, or is none; the text names it and says what to do."""

    def __init__(self, path: Path, why: str) -> None:
        self.path, self.why = path, why
        super().__init__(
            f"{path.parent.name}/{path.name} is cut short or damaged ({why}): download it again"
        )


@dataclass(frozen=True)
class Stamp:
    """What a file was when it was mapped."""

    path: Path
    size: int
    mtime_ns: int
    inode: int

    @classmethod
    def of(cls, path: Path) -> Stamp:
        status = path.stat()
        return cls(path, status.st_size, status.st_mtime_ns, status.st_ino)


@dataclass(frozen=True)
class Files:
    """The files that a network's weights are views of."""

    stamps: tuple[Stamp, ...] = ()

    def check(self) -> None:
        """Raises FileChanged where one is not what it was."""
        for stamp in self.stamps:
            try:
                now = Stamp.of(stamp.path)
            except OSError:
                raise FileChanged(stamp.path, "disappeared") from None
            if now.size < stamp.size:
                raise FileChanged(stamp.path, "was cut short")
            if now != stamp:
                raise FileChanged(stamp.path, "was changed or replaced")

    def touch(self) -> None:
        """Read them into the page cache. Through the file, not through the mapping: a file that is
        cut short meanwhile then ends in a short read. Raises OSError."""
        for stamp in self.stamps:
            touch(stamp.path)


def touch(file: Path) -> None:
    """Read a file and keep nothing of it: the system does. Raises OSError."""
    with file.open("rb", buffering=0) as stream:
        room = bytearray(_TOUCH_BYTES)
        while stream.readinto(room):
            pass


@dataclass
class MappedNetwork:
    """A network whose weights are views of its files, in the files' own precision."""

    module: Any
    weights: Mapping[str, torch.Tensor]  # by name in the network, as they lie in the files
    files: Files
    # Parts of names that stay float32, by the half precision that the rest is in.
    keep: Mapping[torch.dtype, frozenset[str]] = field(default_factory=dict)

    @property
    def bytes(self) -> int:
        return sum(t.numel() * t.element_size() for t in self.weights.values())

    def to(self, device: torch.device, dtype: torch.dtype) -> None:
        """Read the weights onto the device, in this precision. Raises FileChanged and torch's own
        errors; after them the network lies over its files again."""
        self.files.check()
        try:
            for name, weight in self.weights.items():
                _put(
                    self.module, name, _converted(weight, device, self._dtype(name, weight, dtype))
                )
            for name, buffer in list(self.module.named_buffers()):
                if name not in self.weights:
                    _put(self.module, name, buffer.to(device))
        except BaseException:
            self.release()
            raise
        self._tie()
        _say_dtype(self.module, dtype)

    def release(self) -> None:
        """Lie over the files again: what was on the device is free."""
        for name, weight in self.weights.items():
            _put(self.module, name, weight)
        for name, buffer in list(self.module.named_buffers()):
            if name not in self.weights:
                _put(self.module, name, buffer.to("cpu"))
        self._tie()

    def _dtype(self, name: str, weight: torch.Tensor, dtype: torch.dtype) -> torch.dtype:
        if not weight.is_floating_point():
            return weight.dtype
        if self.keep.get(dtype, frozenset()).intersection(name.split(".")):
            return torch.float32
        return dtype

    def _tie(self) -> None:
        if hasattr(self.module, "tie_weights"):
            self.module.tie_weights()


def map_network(kind: Any, folder: Path) -> MappedNetwork | None:
    """A part of a pipeline laid over the files in its folder; None where only its library can.

    `kind` is its class in diffusers or transformers. Raises Unreadable, and OSError or ValueError
    for a configuration that cannot be read.
    """
    files = _weight_files(folder)
    if not files or _quantised(folder):
        return None
    stamps = Files(tuple(Stamp.of(file) for file in files))
    held: dict[str, torch.Tensor] = {}
    for file in files:
        held |= _mapped(file)
    module = _built(kind, folder)
    if module is None or _computes_buffers(module):
        return None
    weights = _named_as_in(module, held)
    if weights is None:
        return None
    # Of the stamps taken before: what changed in between is seen at the next look.
    network = MappedNetwork(module, weights, stamps, _kept_in_float32(kind, module))
    network.release()
    if any(t.is_meta for t in (*module.parameters(), *module.buffers())):
        return None
    module.eval()
    return network


class _WithoutWeights(TorchFunctionMode):  # type: ignore[misc] # torch has no types for it
    """Uninitialised tensors have no memory, and nothing is done to initialise them. What is
    computed (position ids and the like) stays real. Holds for the thread that enters it."""

    def __torch_function__(
        self,
        func: Any,
        types: Iterable[Any],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        if func in _EMPTY:
            return func(*args, **(kwargs | {"device": "meta"}))
        if func in _RANDOM:  # of a parameter that a file fills in
            kwargs = {key: value for key, value in kwargs.items() if key != "generator"}
            return func(*args, **(kwargs | {"device": "meta"}))
        first = args[0] if args else kwargs.get("tensor")
        filling = name in _FILLING or getattr(func, "__module__", "") == "torch.nn.init"
        if filling and isinstance(first, torch.Tensor) and first.is_meta:
            return first
        return func(*args, **kwargs)


_EMPTY = (torch.empty,)
_RANDOM = (torch.randn, torch.rand)
_FILLING = frozenset({"uniform_", "normal_", "zero_", "fill_", "trunc_normal_", "mul_", "copy_"})


def _built(kind: Any, folder: Path) -> Any:
    """The network with its parameters on the meta device; None where nobody says how."""
    if hasattr(kind, "load_config"):  # diffusers
        config = kind.load_config(str(folder), local_files_only=True)
        with _WithoutWeights():
            return kind.from_config(config)
    if hasattr(kind, "_from_config"):  # transformers
        config = kind.config_class.from_pretrained(str(folder), local_files_only=True)
        with _WithoutWeights():
            return kind._from_config(config)
    return None


def _weight_files(folder: Path) -> list[Path]:
    for name in _WEIGHTS:
        single, index = folder / f"{name}.safetensors", folder / f"{name}.safetensors.index.json"
        if single.is_file():
            return [single]
        if index.is_file():
            shards = json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()
            # A name with a path in it could reach out of the model's folder.
            return [folder / Path(shard).name for shard in sorted(set(shards))]
    return []


def _quantised(folder: Path) -> bool:
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return not isinstance(config, dict) or "quantization_config" in config


def _mapped(file: Path) -> dict[str, torch.Tensor]:
    try:
        # The library maps the file and checks that its header and its length agree.
        with safe_open(file, framework="pt", device="cpu") as opened:
            return {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    except FileNotFoundError:
        raise Unreadable(file, "it is not there") from None
    except SafetensorError as error:
        raise Unreadable(file, str(error).splitlines()[0][:100]) from error


def _computes_buffers(module: Any) -> bool:
    """Whether it has numbers that no file holds, whose precision only its library knows."""
    held = module.state_dict().keys()
    buffers = module.named_buffers()
    return any(name not in held and buffer.is_floating_point() for name, buffer in buffers)


def _named_as_in(module: Any, held: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor] | None:
    """The weights by the network's own names; None where not each has its place."""
    wanted = {name: tensor.shape for name, tensor in module.state_dict().items()}
    tied = set(getattr(module, "_tied_weights_keys", None) or ())
    for old, new in _RENAMED:
        weights = {
            new + name.removeprefix(old) if old and name.startswith(old) else name: tensor
            for name, tensor in held.items()
        }
        known = {name: t for name, t in weights.items() if name in wanted}
        unknown = [name for name in weights if name not in wanted]
        missing = wanted.keys() - known.keys()
        if missing <= tied and all(name.endswith(_OBSOLETE) for name in unknown):
            return known if all(t.shape == wanted[n] for n, t in known.items()) else None
    return None


def _kept_in_float32(kind: Any, module: Any) -> dict[torch.dtype, frozenset[str]]:
    """diffusers keeps its few in either half precision, transformers most beside float16 alone."""

    def named(*lists: str) -> frozenset[str]:
        owners = ((owner, what) for owner in (kind, module) for what in lists)
        return frozenset(
            part for owner, what in owners for part in getattr(owner, what, None) or ()
        )

    usual, strict = "_keep_in_fp32_modules", "_keep_in_fp32_modules_strict"
    always = named(usual, strict) if hasattr(kind, "load_config") else named(strict)
    return {torch.float16: named(usual, strict), torch.bfloat16: always}


def _converted(weight: torch.Tensor, device: torch.device, dtype: torch.dtype) -> torch.Tensor:
    if device.type == "cpu" or weight.dtype == dtype:
        return weight.to(device, dtype)
    # Half the bytes over the bus, or a conversion where it is quick.
    return weight.to(device).to(dtype)


def _put(module: Any, name: str, tensor: torch.Tensor) -> None:
    path, _, own = name.rpartition(".")
    owner = module.get_submodule(path)
    if own in owner._buffers:
        owner._buffers[own] = tensor
    else:
        owner._parameters[own] = torch.nn.Parameter(tensor, requires_grad=False)


def _say_dtype(module: Any, dtype: torch.dtype) -> None:
    """transformers keeps the precision in the configuration as well."""
    if hasattr(module, "tie_weights") and hasattr(getattr(module, "config", None), "dtype"):
        module.config.dtype = dtype
