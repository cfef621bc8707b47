"""Which numbers the options of meta-training may be, and that what they ask for fits into memory."""

from __future__ import annotations

from collections.abc import Mapping
from numbers import Integral, Real
from typing import Any, NamedTuple

from torch import Tensor

from meta_opt import memory
from meta_opt.errors import MetaOptError, shown
from meta_opt.optimizees.contract import Optimizee
from meta_opt.optimizees.problems import Problems
from meta_opt.optimizers.contract import OptimizerNetwork
from meta_opt.optimizers.state import named_tensors

_FLOAT = 4  # bytes of a number, at least
_GENERATOR = 2500  # bytes of a generator


class Range(NamedTuple):
    """From ``least`` on, and below ``limit``; whole numbers where ``least`` is an ``int``."""

    least: float
    limit: float


_MAY_BE_NULL = ("max_num_steps", "num_validation_steps", "warm_start")
_TEXTS = ("step_weights", "warm_start")
_MANY = 1e12  # what is counted, nobody lives to see so many of
_FAST = 1e10  # a rate beyond use; steps of much larger ones are no floats
_NUM_SEEDS = 1 << 32  # that all generators take
RANGES: dict[str, Range] = {
    "num_steps": Range(1, _MANY),
    "max_num_steps": Range(1, _MANY),
    "num_validation_steps": Range(1, _MANY),
    "unroll_length": Range(1, _MANY),
    "num_problems": Range(1, _MANY),
    "episodes_per_epoch": Range(1, _MANY),
    "num_validation_problems": Range(1, _MANY),
    "num_test_problems": Range(1, _MANY),
    "max_skipped": Range(0, _MANY),
    "lr": Range(0.0, _FAST),
    "reference_lr": Range(0.0, _FAST),
    "pretraining": Range(0, _MANY),
    "pretraining_rate": Range(0.0, _FAST),
    "average_decay": Range(0.0, 1.0),
    "seed": Range(0, _NUM_SEEDS),
}


def check_ranges(options: Mapping[str, Any]) -> None:
    """See that every option is a plain value, and in its range; null is where it is allowed at all.

    A checkpoint holds plain values alone, so that numbers of NumPy and tensors are none.

    Raises:
        MetaOptError: If one is not.
    """
    for name, value in options.items():
        if type(value) not in (bool, int, float, str, type(None)):
            hint = ", which int() or float() make of it" if isinstance(value, Real | Tensor) else ""
            raise MetaOptError(f"model.{name} must be a plain value{hint}, not {shown(value)}")
    for name, (least, limit) in RANGES.items():
        value = options[name]
        kind, word = (Integral, "whole number") if isinstance(least, int) else (Real, "number")
        is_one = isinstance(value, kind) and not isinstance(value, bool)
        is_one = is_one or (value is None and name in _MAY_BE_NULL)
        if not is_one:
            raise MetaOptError(f"model.{name} must be a {word}, not {shown(value)}")
        if value is None or least <= value < limit:
            continue
        both = limit < _FAST or value >= limit
        wanted = f"at least {least:g} and less than {limit:.10g}" if both else f"at least {least:g}"
        raise MetaOptError(f"model.{name} must be {wanted}, not {shown(value)}")
    for name in _TEXTS:
        value = options[name]
        if not isinstance(value, str) and not (value is None and name in _MAY_BE_NULL):
            raise MetaOptError(f"model.{name} must be text, not {shown(value)}")


def check_memory(options: Mapping[str, Any], optimizee: Optimizee, optimizer: OptimizerNetwork) -> None:
    """See that the problems of an episode, and the losses of all steps, can be held at all.

    Args:
        options: Those of meta-training.
        optimizee: Where the problems come from.
        optimizer: A network that has been built for it.

    Raises:
        MetaOptError: If they need more memory than there is.
    """
    steps = options["max_num_steps"] or options["num_steps"]
    problem = Problems(optimizee, "train", [0], seed=options["seed"], held_back=options["held_back"])
    count = problem.layout.num_coordinates
    state = sum(_bytes(each.tensor) for each in named_tensors(optimizer.init_state(problem.layout, 1)))
    recorded = _FLOAT * count * min(steps, options["unroll_length"]) if "grad" in optimizer.reads else 0
    memory.check(
        options["num_problems"] * (problem.size + state + recorded + _GENERATOR + _FLOAT * steps),
        f"model.num_problems {options['num_problems']} of {count} parameters, over model.num_steps {steps}",
    )
    steps = options["num_validation_steps"] or options["num_steps"]
    for name in ("num_validation_problems", "num_test_problems"):
        memory.check(_FLOAT * options[name] * steps, f"the losses of model.{name} {options[name]} over {steps} steps")


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()
