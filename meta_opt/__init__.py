"""Meta-train learned optimizers: networks that read gradients and write updates.

Importing this package imports no torch; each name below is imported when it is first used. The name of an installed
optimizee or optimizer is the class itself (``meta_opt.mnist_mlp``), which is how the command line finds plugins.
"""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING, Any

from meta_opt import registry
from meta_opt.errors import CheckpointError, DivergedError, MetaOptError, OptimizeeError, RegistryError

if TYPE_CHECKING:
    from meta_opt.drop_in.torch_optimizer import LearnedOptimizer
    from meta_opt.evaluation.in_python import Compared, compare
    from meta_opt.meta_training.meta_learner import MetaLearner
    from meta_opt.optimizees.contract import Optimizee
    from meta_opt.optimizees.layout import Layout
    from meta_opt.optimizees.module import ModuleOptimizee
    from meta_opt.optimizees.problems import Evaluation, Problems

if os.name != "posix":
    raise ImportError("meta-opt runs on Linux and macOS; on Windows, in its subsystem for Linux (WSL)")

__version__ = "0.1.0"

__all__ = [
    "CheckpointError",
    "Compared",
    "DivergedError",
    "Evaluation",
    "Layout",
    "LearnedOptimizer",
    "MetaLearner",
    "MetaOptError",
    "ModuleOptimizee",
    "Optimizee",
    "OptimizeeError",
    "Problems",
    "RegistryError",
    "compare",
]

_LAZY = {
    "Compared": "meta_opt.evaluation.in_python",
    "Evaluation": "meta_opt.optimizees.problems",
    "Layout": "meta_opt.optimizees.layout",
    "LearnedOptimizer": "meta_opt.drop_in.torch_optimizer",
    "MetaLearner": "meta_opt.meta_training.meta_learner",
    "ModuleOptimizee": "meta_opt.optimizees.module",
    "Optimizee": "meta_opt.optimizees.contract",
    "Problems": "meta_opt.optimizees.problems",
    "compare": "meta_opt.evaluation.in_python",
}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    if not name.startswith("_"):  # names of modules are not among those that can be used
        for kind in registry.KINDS:
            if name in registry.names(kind):
                return registry.load(kind, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
