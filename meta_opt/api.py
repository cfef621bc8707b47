"""What a plugin may import: the two contracts and what is needed to fulfil them."""

from meta_opt.configurable import API_VERSION
from meta_opt.errors import MetaOptError, OptimizeeError
from meta_opt.module_optimizee import ModuleOptimizee
from meta_opt.optimizee import Optimizee, OptimizeeFamily, Split, TensorDict
from meta_opt.optimizers.base import LearnedOptimizer, Rollout
from meta_opt.params import Layout, Segment
from meta_opt.problems import Evaluation

__all__ = [
    "API_VERSION",
    "Evaluation",
    "Layout",
    "LearnedOptimizer",
    "MetaOptError",
    "ModuleOptimizee",
    "Optimizee",
    "OptimizeeError",
    "OptimizeeFamily",
    "Rollout",
    "Segment",
    "Split",
    "TensorDict",
]
