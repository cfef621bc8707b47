"""Native code for the CPU, built on first use; where it cannot be, PyTorch does the same work more slowly."""

from __future__ import annotations

import functools
import warnings

from meta_opt.optimizers.lstm.native.build import BuildError, library
from meta_opt.optimizers.lstm.native.kernel import Kernel
from meta_opt.optimizers.lstm.native.steps import NativeSteps
from meta_opt.optimizers.lstm.native.weights import Weights

__all__ = ["Kernel", "NativeSteps", "Weights", "available", "load"]


@functools.cache
def load() -> Kernel | None:
    """The native kernel, built by the first process that asks, or None (and one warning, saying why)."""
    try:
        return Kernel(library())
    except BuildError as error:
        warnings.warn(f"no native kernel, learned optimizers run in PyTorch: {error}", RuntimeWarning, stacklevel=2)
        return None


def available() -> bool:
    """Whether there is a native kernel; builds it if need be."""
    return load() is not None
