"""What a diffusers scheduler remembers from one model call to the next: taken, and put back.

The state is whatever differs from the scheduler as `set_timesteps` left it, so no table of
attributes can miss one. Put back, everything is first as `set_timesteps` left it, then as it was:
the same steps, size and options give the same beginning on every machine.

Traps:
- Lists are changed in place (`ets`, `model_outputs`, `derivatives`): they are copied.
- A tensor that is changed in place keeps its identity: torch's version counter tells it.
- The Brownian tree of DPMSolverSDEScheduler is no value. It is left out: the next step grows it
  again from the images' seeds, and a tree answers the same whatever it was asked before.
- `alphas_cumprod` and others move to the device when they are first used: equal, yet other tensors.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeAlias, TypeGuard

import torch

Value: TypeAlias = "bool | int | float | str | torch.Tensor | list[Value] | None"

_REGROWN = frozenset({"noise_sampler"})
_LONGEST_LIST = 16  # LMS and PNDM keep four model outputs
_LARGEST_INT = 2**31


class NotAState(ValueError):
    """A value that can't be part of a scheduler's state; the text says which and why."""


class SchedulerState:
    """The state of one scheduler. Make it right after `set_timesteps`."""

    def __init__(self, scheduler: Any) -> None:
        self._scheduler = scheduler
        self._base: dict[str, object] = {}
        self._versions: dict[str, int] = {}  # of the tensors
        for name, value in vars(scheduler).items():
            if _is_method(value):
                continue
            self._base[name] = list(value) if isinstance(value, list) else value
            if isinstance(value, torch.Tensor):
                self._versions[name] = value._version

    def changes(self) -> dict[str, Value]:
        """What differs from the beginning, by attribute. Tensors are the scheduler's own, uncopied.

        Raises NotAState for a value of another kind than Value.
        """
        changed: dict[str, Value] = {}
        for name, value in vars(self._scheduler).items():
            if name in _REGROWN or _is_method(value) or self._is_as_it_was(name, value):
                continue
            changed[name] = _checked(name, value)
        return changed

    def put_back(self, changes: Mapping[str, Value], latents_shape: torch.Size) -> None:
        """Make the scheduler what it was when `changes` was taken.

        Tensors are of the shape of the latents, or single numbers, or of the shape and dtype of
        what the scheduler has under that name. Raises NotAState for anything else; the scheduler is
        unusable then.
        """
        for name in [n for n, v in vars(self._scheduler).items() if not _is_method(v)]:
            if name not in self._base:
                delattr(self._scheduler, name)
        for name, value in self._base.items():
            setattr(self._scheduler, name, list(value) if isinstance(value, list) else value)
        for name, value in changes.items():
            self._require_attribute(name)
            for tensor in tensors_in(_checked(name, value)):
                self._require_shape(name, tensor, latents_shape)
            setattr(self._scheduler, name, list(value) if isinstance(value, list) else value)

    def _is_as_it_was(self, name: str, value: Any) -> bool:
        if name not in self._base:
            return False
        base: Any = self._base[name]
        if isinstance(value, torch.Tensor):
            return value is base and value._version == self._versions.get(name)
        if isinstance(value, list):
            return isinstance(base, list) and _same_items(value, base)
        return value is base or (_is_plain(value) and type(value) is type(base) and value == base)

    def _require_attribute(self, name: str) -> None:
        """No name of the scheduler's class (`step`, `config`, `__class__`), and no part of it that
        isn't state."""
        base = self._base.get(name)
        if not name.isidentifier() or hasattr(type(self._scheduler), name) or name in _REGROWN:
            raise NotAState(f"{name[:40]!r} is no state of a scheduler")
        if not (base is None or _is_plain(base) or isinstance(base, (torch.Tensor, list))):
            raise NotAState(f"{name[:40]!r} is no state of a scheduler")

    def _require_shape(self, name: str, tensor: torch.Tensor, latents_shape: torch.Size) -> None:
        base = self._base.get(name)
        like_base = (
            isinstance(base, torch.Tensor)
            and base.shape == tensor.shape
            and base.dtype == tensor.dtype
        )
        if tensor.shape != latents_shape and tensor.ndim > 0 and not like_base:
            raise NotAState(f"{name[:40]!r} has the shape {tuple(tensor.shape)}")


def tensors_in(value: Value) -> Iterable[torch.Tensor]:
    """The tensors of a value, in order."""
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, list):
        for item in value:
            yield from tensors_in(item)


def mapped(value: Value, change: Callable[[torch.Tensor], torch.Tensor]) -> Value:
    """The value with each of its tensors changed."""
    if isinstance(value, torch.Tensor):
        return change(value)
    if isinstance(value, list):
        return [mapped(item, change) for item in value]
    return value


def _checked(name: str, value: object, depth: int = 0) -> Value:
    if isinstance(value, torch.Tensor):
        return value
    if isinstance(value, list) and depth == 0 and len(value) <= _LONGEST_LIST:
        return [_checked(name, item, depth + 1) for item in value]
    if _is_plain(value):
        if isinstance(value, float) and not math.isfinite(value):
            raise NotAState(f"{name[:40]!r} is {value}")
        if isinstance(value, int) and abs(value) >= _LARGEST_INT:
            raise NotAState(f"{name[:40]!r} is too large")
        return value
    raise NotAState(f"{name[:40]!r} is a {type(value).__name__}")


def _is_plain(value: object) -> TypeGuard[bool | int | float | str | None]:
    return value is None or type(value) in (bool, int, float, str)


def _is_method(value: object) -> bool:
    """True for what the driver has put before a method of this instance."""
    return callable(value) and hasattr(value, "__wrapped__")


def _same_items(one: list[object], other: list[object]) -> bool:
    return len(one) == len(other) and all(
        a is b or (_is_plain(a) and type(a) is type(b) and a == b)
        for a, b in zip(one, other, strict=True)
    )
