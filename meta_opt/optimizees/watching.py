"""Calls of an optimizee's methods under watch: what they change, where they take randomness from, how they fail."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from meta_opt.errors import MetaOptError, OptimizeeError
from meta_opt.importing import interrupts
from meta_opt.messages import clipped, described
from meta_opt.optimizees.contract import Optimizee, TensorDict

NO_STATE = "it must keep no state (batch normalization: track_running_stats=False)"
_ARGUMENTS = ("params", "problem", "batch")


class Watched:
    """An optimizee whose methods are called under watch.

    Attributes:
        optimizee: The optimizee.
        name: The name of its class.
    """

    def __init__(self, optimizee: Optimizee) -> None:
        self.optimizee = optimizee
        self.name = type(optimizee).__name__

    def call(self, method: str, *arguments: Any) -> Any:
        """What the method returns.

        Raises:
            OptimizeeError: If it fails, changes a dict of tensors among its arguments or, as loss or metrics, a tensor
                of the optimizee's own, or uses global randomness.
        """
        before = [_noted(argument) for argument in arguments]
        own = written(self.optimizee)
        with self.watching(method):
            result = getattr(self.optimizee, method)(*arguments)
        for what, argument, noted in zip(_ARGUMENTS, arguments, before, strict=False):
            if noted is not None and (changed := _changed(argument, noted)):
                raise OptimizeeError(
                    f"{self.name}.{method} changes its argument {what} in place, in {clipped(changed)!r}: "
                    "it must leave its arguments as they are"
                )
        if method in ("loss", "metrics") and (changed := changed_since(self.optimizee, own)):
            raise OptimizeeError(f"{self.name}.{method} changes {clipped(changed)} in place: {NO_STATE}")
        return result

    @contextmanager
    def watching(self, method: str, fails: str = "fails with") -> Iterator[None]:
        """Whatever fails in the block is said to be the method's failure; global random states stay what they are.

        Args:
            method: What is called.
            fails: What to say between its name and the error.

        Raises:
            OptimizeeError: If the block fails, or uses global randomness.
        """
        before = _global_states()
        try:
            with interrupts() as signals:
                yield
            moved = [name for name, state in _global_states().items() if not _same_state(state, before[name])]
        except MetaOptError:
            raise
        except (Exception, SystemExit, KeyboardInterrupt) as error:
            if isinstance(error, KeyboardInterrupt) and signals:
                raise
            modules = [cls.__module__ for cls in type(self.optimizee).__mro__]
            raise OptimizeeError(f"{self.name}.{method} {fails} {described(error, modules)}") from error
        finally:
            _restore(before)
        if moved:
            raise OptimizeeError(
                f"{self.name}.{method} uses the global random state of {moved[0]}: "
                "take all randomness from the generator that is handed in"
            )


def written(optimizee: Optimizee) -> dict[str, tuple[Tensor, int]]:
    """Each tensor that an optimizee keeps, and how often it has been written to, by the name of its attribute."""
    return {
        name: (value, value._version)
        for attribute, kept in vars(optimizee).items()
        for name, value in _tensors_in(attribute, kept)
        if not value.is_inference()
    }


def changed_since(optimizee: Optimizee, before: dict[str, tuple[Tensor, int]]) -> str | None:
    """The name of a tensor of an optimizee's that has been written to, if there is one."""
    now = written(optimizee)
    for name, (value, version) in before.items():
        if name in now and now[name][0] is value and now[name][1] != version:
            return name
    return None


def _tensors_in(name: str, kept: Any) -> Iterator[tuple[str, Tensor]]:
    if isinstance(kept, Tensor):
        yield name, kept
    elif isinstance(kept, nn.Module):
        for part, value in (*kept.named_parameters(), *kept.named_buffers()):
            yield f"{name}.{part}", value
    elif isinstance(kept, dict | list | tuple):
        for key, each in kept.items() if isinstance(kept, dict) else enumerate(kept):
            if isinstance(each, Tensor | nn.Module):
                yield from _tensors_in(f"{name}[{key!r}]", each)


def same(one: TensorDict, other: TensorDict) -> bool:
    """Whether named tensors are equal, where they are nan also."""
    return one.keys() == other.keys() and all(_equal(value, other[key]) for key, value in one.items())


def _equal(one: Tensor, other: Tensor) -> bool:
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    if one.is_floating_point() or one.is_complex():
        return bool(((one == other) | (one.isnan() & other.isnan())).all())
    return torch.equal(one, other)


def _noted(argument: Any) -> dict[str, tuple[Tensor, Tensor, int]] | None:
    """Each tensor, a copy of it, and how often it has been written to; None of anything but tensors."""
    if not isinstance(argument, dict):
        return None
    return {key: (value, value.detach().clone(), value._version) for key, value in argument.items()}


def _changed(argument: TensorDict, noted: dict[str, tuple[Tensor, Tensor, int]]) -> str | None:
    """The name of a tensor that is not what it was, if there is one."""
    for key in {**noted, **argument}:
        if key not in noted or argument.get(key) is not noted[key][0]:
            return key
        value, copy, version = noted[key]
        if value._version != version or not _equal(value.detach(), copy):
            return key
    return None


def _global_states() -> dict[str, Any]:
    return {"torch": torch.get_rng_state(), "numpy": np.random.get_state(), "Python": random.getstate()}


def _same_state(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor):
        return torch.equal(one, other)
    return all(np.array_equal(part, before) for part, before in zip(one, other, strict=True))


def _restore(states: dict[str, Any]) -> None:
    torch.set_rng_state(states["torch"])
    np.random.set_state(states["numpy"])
    random.setstate(states["Python"])
