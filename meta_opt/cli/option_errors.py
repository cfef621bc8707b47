"""What options cannot be."""

from __future__ import annotations

import os
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, get_args, get_type_hints

from meta_opt import registry
from meta_opt.cli.parser import joined
from meta_opt.configurable import Configurable
from meta_opt.errors import MetaOptError, shown
from meta_opt.memory import LESS_MEMORY, shortage
from meta_opt.messages import clipped

_MAX_DEVICES = max(64, os.cpu_count() or 1)  # processes on one machine


@contextmanager
def errors_of_the_parser() -> Iterator[None]:
    """One line where the parser itself stumbles over a value, or a size asks for more memory than there is."""
    try:
        yield
    except MetaOptError:
        raise
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__)
        if short := shortage(error):
            raise MetaOptError(f"{short}; {LESS_MEMORY}") from error
        if frames and "jsonargparse" in Path(frames[-1].filename).parts:
            raise MetaOptError(f"an option has a value that cannot be: {clipped(joined(str(error)), 240)}") from error
        raise


def check_nulls(option: str, made: type[Any], values: Any) -> None:
    """See that null is where it may be: the parser takes it anywhere.

    Raises:
        MetaOptError: If it is not.
    """
    try:
        hints = get_type_hints(made.__init__)
    except (NameError, TypeError):  # annotations may be anything
        return
    for name, hint in hints.items():
        kinds = (hint, *get_args(hint))
        if name in values and values[name] is None and all(kind in (int, float, bool, str) for kind in kinds):
            raise MetaOptError(f"--{option}.{name} must be {' or '.join(kind.__name__ for kind in kinds)}, not null")


def check_plain(option: str, made: Configurable) -> None:
    """See that a checkpoint can say how something was made, or no run could go on.

    Raises:
        MetaOptError: If it cannot.
    """
    if odd := made.odd_argument():
        raise MetaOptError(
            f"--{option} {registry.reference(type(made))} has an argument that is no number, text, list, mapping or "
            f"path, {odd}, so that no checkpoint could say how to make it again"
        )


def check_seed(seed: int) -> None:
    """See that a seed is one that all generators take.

    Raises:
        MetaOptError: If it is not.
    """
    if not 0 <= seed < 1 << 32:
        raise MetaOptError(f"--seed_everything must be from 0 to {(1 << 32) - 1}, not {shown(seed)}")


def check_trainer_options(config: dict[str, Any], command: str) -> None:
    """Refuse what cannot be, or what has another name here.

    Raises:
        MetaOptError: If there is such an option.
    """
    devices = str(config.get("devices"))  # "8" is eight of them, too
    if devices.isdecimal() and int(devices) > _MAX_DEVICES:
        raise MetaOptError(f"trainer.devices must be at most {_MAX_DEVICES} here, not {shown(int(devices))}")
    if config.get("barebones"):
        raise MetaOptError("trainer.barebones keeps neither checkpoints nor a log: set trainer.fast_dev_run for a try")
    for name in ("val_check_interval", "check_val_every_n_epoch"):
        if config.get(name) == 0:
            raise MetaOptError(f"trainer.{name} must be more than 0; trainer.limit_val_batches 0 is no validation")
    for name in ("max_epochs", "max_steps", "limit_train_batches"):
        if config.get(name) == 0:
            raise MetaOptError(f"trainer.{name} must not be 0: there would be nothing to train")
    for evaluation, name in (("validate", "limit_val_batches"), ("test", "limit_test_batches")):
        if command == evaluation and config.get(name) == 0:
            raise MetaOptError(f"trainer.{name} must not be 0: there would be nothing to {command}")
    if config.get("gradient_clip_val"):
        raise MetaOptError("trainer.gradient_clip_val clips no meta-gradient: set model.clip_norm")
    if (config.get("accumulate_grad_batches") or 1) > 1:
        raise MetaOptError("trainer.accumulate_grad_batches accumulates no meta-gradient: set model.num_problems")
