"""What a plugin may import: the two contracts and what is needed to fulfil them."""

from meta_opt.configurable import API_VERSION
from meta_opt.errors import MetaOptError, OptimizeeError
from meta_opt.optimizees.contract import Optimizee, OptimizeeFamily, Split, TensorDict
from meta_opt.optimizees.layout import Layout, Segment
from meta_opt.optimizees.module import ModuleOptimizee
from meta_opt.optimizees.problems import Evaluation
from meta_opt.optimizers.contract import LearnedOptimizer, Rollout

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
