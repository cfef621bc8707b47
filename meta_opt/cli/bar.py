"""The progress of what is no meta-training."""

from __future__ import annotations

import sys
from typing import Any

from tqdm import tqdm

from meta_opt.evaluation.setting import Progress


class Bar(Progress):
    """A progress bar on standard error, if that is a terminal."""

    def __init__(self) -> None:
        self._bar: tqdm[Any] = tqdm(
            total=0, disable=not sys.stderr.isatty(), leave=False, unit="step", unit_scale=True, dynamic_ncols=True
        )

    def __enter__(self) -> Bar:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def expect(self, steps: int) -> None:
        """Make the bar longer."""
        self._bar.total += steps

    def begin(self, what: str) -> None:
        """Say it before the bar."""
        self._bar.set_description(what)

    def advance(self, steps: int) -> None:
        """Fill the bar."""
        self._bar.update(steps)
