"""Which numbers the options of meta-training may be."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from meta_opt.errors import MetaOptError


class Range(NamedTuple):
    """From ``least`` on, and below ``limit``."""

    least: float
    limit: float = math.inf


RANGES: dict[str, Range] = {
    "num_steps": Range(1),
    "max_num_steps": Range(1),
    "num_validation_steps": Range(1),
    "unroll_length": Range(1),
    "num_problems": Range(1),
    "episodes_per_epoch": Range(1),
    "num_validation_problems": Range(1),
    "num_test_problems": Range(1),
    "max_skipped": Range(0),
    "lr": Range(0.0),
    "reference_lr": Range(0.0),
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
        wanted = f"at least {least:g}" if limit == math.inf else f"at least {least:g} and less than {limit:g}"
        raise MetaOptError(f"model.{name} must be {wanted}, not {value}")
