"""What a plugin may import: the three contracts and what is needed to fulfil them."""

from meta_opt.configurable import API_VERSION
from meta_opt.errors import MetaOptError, OptimizeeError
from meta_opt.inner_loop.unroll import Position, Trajectory, begin, unroll, unroll_lengths
from meta_opt.meta_training.estimators.contract import Episode, Estimator, MetaGradient
from meta_opt.meta_training.estimators.first_order import FirstOrder
from meta_opt.meta_training.estimators.second_order import SecondOrder
from meta_opt.optimizees.contract import SPLITS, Optimizee, OptimizeeFamily, Split, TensorDict
from meta_opt.optimizees.general_settings import GENERAL_SETTINGS
from meta_opt.optimizees.layout import Layout, Segment
from meta_opt.optimizees.module import ModuleOptimizee
from meta_opt.optimizees.problems import Evaluation
from meta_opt.optimizers.contract import InnerOptimizer, OptimizerNetwork, Rollout, Step
from meta_opt.optimizers.policies import Decision, Gaussian, Policy
from meta_opt.optimizers.sharing import SharedNetworks
from meta_opt.optimizers.state import axis

__all__ = [
    "API_VERSION",
    "GENERAL_SETTINGS",
    "SPLITS",
    "Decision",
    "Episode",
    "Estimator",
    "Evaluation",
    "FirstOrder",
    "Gaussian",
    "InnerOptimizer",
    "Layout",
    "MetaGradient",
    "MetaOptError",
    "ModuleOptimizee",
    "Optimizee",
    "OptimizeeError",
    "OptimizeeFamily",
    "OptimizerNetwork",
    "Policy",
    "Position",
    "Rollout",
    "SecondOrder",
    "Segment",
    "SharedNetworks",
    "Split",
    "Step",
    "TensorDict",
    "Trajectory",
    "axis",
    "begin",
    "unroll",
    "unroll_lengths",
]
