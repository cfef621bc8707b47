"""Which numbers the options of meta-training may be, and that what they ask for fits into memory."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from meta_opt import memory
from meta_opt.errors import MetaOptError, shown

_FLOAT = 4  # bytes of a number, at least
_GENERATOR = 2500  # bytes of a generator


class Range(NamedTuple):
    """From ``least`` on, and below ``limit``."""

    least: float
    limit: float = math.inf


_MANY = 1e12  # what is counted, nobody lives to see so many of
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
    "lr": Range(0.0),
    "reference_lr": Range(0.0),
    "pretraining": Range(0),
    "pretraining_rate": Range(0.0),
    "average_decay": Range(0.0, 1.0),
}


def check_ranges(options: Mapping[str, Any]) -> None:
    """See that every option is in its range; null is where it is allowed at all.

    Raises:
        MetaOptError: If one is not.
    """
    for name, (least, limit) in RANGES.items():
        value = options[name]
        if value is None or least <= value < limit:
            continue
        both = limit != math.inf and (limit != _MANY or value >= limit)
        wanted = f"at least {least:g} and less than {limit:g}" if both else f"at least {least:g}"
        raise MetaOptError(f"model.{name} must be {wanted}, not {shown(value)}")


def check_memory(options: Mapping[str, Any], num_coordinates: int) -> None:
    """See that the problems of an episode, and the losses of all steps, can be held at all.

    Args:
        options: Those of meta-training.
        num_coordinates: N, parameters of a problem.

    Raises:
        MetaOptError: If they need more memory than there is.
    """
    steps = options["max_num_steps"] or options["num_steps"]
    memory.check(
        options["num_problems"] * (2 * _FLOAT * num_coordinates + _GENERATOR + _FLOAT * steps),
        f"model.num_problems {options['num_problems']} of {num_coordinates} parameters, over model.num_steps {steps}",
    )
    steps = options["num_validation_steps"] or options["num_steps"]
    for name in ("num_validation_problems", "num_test_problems"):
        memory.check(_FLOAT * options[name] * steps, f"the losses of model.{name} {options[name]} over {steps} steps")
