"""Draws of an optimizee, and whether they are what the contract asks for: named tensors, alike in every draw."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Generator, Tensor, strided

from meta_opt import memory
from meta_opt.errors import OptimizeeError
from meta_opt.messages import clipped
from meta_opt.optimizees.contract import Split, TensorDict
from meta_opt.optimizees.watching import Watched

_COPIES = 6  # of θ_0, that are made to check an optimizee


@dataclass(frozen=True)
class Draw:
    """What a problem consists of, and mini-batches of two steps."""

    init_params: TensorDict
    sample_problem: TensorDict
    sample_batch: TensorDict
    next_batch: TensorDict


def draw_problem(watched: Watched, split: Split, seed: int) -> Draw:
    """The problem of this seed.

    Raises:
        OptimizeeError: If a method fails, or returns what it must not.
    """
    generator = Generator().manual_seed(seed)
    problem = _named(watched, "sample_problem", split, generator)
    params = _named(watched, "init_params", generator)
    if not any(value.numel() for value in params.values()):
        found = "parameters without a number" if params else "none"
        raise OptimizeeError(f"{watched.name}.init_params must return at least one parameter, found {found}")
    for key, value in params.items():
        if not value.is_floating_point():
            raise OptimizeeError(
                f"{watched.name}.init_params must return floating-point tensors, but {clipped(key)!r} is {value.dtype}"
            )
        if not value.isfinite().all():
            raise OptimizeeError(f"{watched.name}.init_params must be finite, but {clipped(key)!r} is not")
    size = sum(value.numel() * value.element_size() for value in params.values())
    memory.check(_COPIES * size, f"problems of {sum(map(Tensor.numel, params.values()))} parameters")
    batch, following = (_named(watched, "sample_batch", split, generator) for _ in range(2))
    return Draw(params, problem, batch, following)


def _named(watched: Watched, method: str, *arguments: object) -> TensorDict:
    drawn = watched.call(method, *arguments)
    check_named(watched.name, method, drawn, "tensors")
    # Copies: an optimizee may hand out tensors of its own, and what is done to them later must not be missed.
    return {key: value.detach().clone() for key, value in drawn.items()}


def check_named(name: str, method: str, found: object, what: str) -> None:
    """Raise :class:`OptimizeeError` if ``found``, which a method returned, is no dict of named dense tensors."""
    must = f"{name}.{method} must return named {what}, a dict"
    if not isinstance(found, dict):
        raise OptimizeeError(f"{must}, found {type_name(found)}")
    for key, value in found.items():
        if not isinstance(key, str):
            raise OptimizeeError(f"{must} with names as keys, found the key {clipped(repr(key))}")
        if not isinstance(value, Tensor):
            raise OptimizeeError(f"{must}, but {clipped(key)!r} is {type_name(value)}")
        if value.layout != strided or value.is_nested or value.is_meta:
            found_instead = "on the meta device" if value.is_meta else value.layout
            raise OptimizeeError(f"{must} of dense tensors, but {clipped(key)!r} is {found_instead}")


def check_alike(name: str, method: str, one: TensorDict, other: TensorDict) -> None:
    """Draws of several problems are stacked."""
    if one.keys() != other.keys():
        names = [clipped(", ".join(each) or "nothing") for each in (one, other)]
        raise OptimizeeError(f"{name}.{method} must return the same names every time, found {' and '.join(names)}")
    for key, value in one.items():
        found = other[key]
        if value.shape != found.shape:
            raise OptimizeeError(
                f"{name}.{method} must return the same shapes every time, but {clipped(key)!r} has shape "
                f"{list(value.shape)} once and {list(found.shape)} another time; if problems differ in shape, make a "
                "family (OptimizeeFamily)"
            )
        if value.dtype != found.dtype:
            raise OptimizeeError(
                f"{name}.{method} must return the same types every time, but {clipped(key)!r} is {value.dtype} once "
                f"and {found.dtype} another time"
            )


def type_name(value: object) -> str:
    """What a value is, for messages."""
    return "None" if value is None else type(value).__name__
