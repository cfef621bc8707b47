"""The parts that a meta-learner is made of: of the right kind, and those with weights its own."""

from __future__ import annotations

from weakref import WeakSet

from torch import nn

from meta_opt import registry
from meta_opt.errors import MetaOptError
from meta_opt.meta_training.estimators.contract import Estimator
from meta_opt.optimizees.contract import Optimizee
from meta_opt.optimizers.contract import OptimizerNetwork

_IN_USE: WeakSet[nn.Module] = WeakSet()  # optimizers and estimators with weights, of any meta-learner


def checked_parts(
    optimizee: object, optimizer: object, estimator: object
) -> tuple[Optimizee, OptimizerNetwork, Estimator]:
    """The same, seen to be parts of a meta-learner, and of no other.

    Raises:
        MetaOptError: If one is of another kind, or belongs to another meta-learner.
    """
    for kind, part in (("optimizer", optimizer), ("estimator", estimator)):
        if isinstance(part, nn.Module) and part in _IN_USE:
            raise MetaOptError(
                f"this {type(part).__name__} is that of another MetaLearner: give each an {kind} of its own "
                "(model.warm_start begins with trained weights)"
            )
    if not isinstance(optimizee, Optimizee):
        raise of_another_kind("optimizee", type(optimizee))
    if not isinstance(optimizer, OptimizerNetwork):
        raise of_another_kind("optimizer", type(optimizer))
    if not isinstance(estimator, Estimator):
        raise of_another_kind("estimator", type(estimator))
    return optimizee, optimizer, estimator


def of_another_kind(kind: registry.Kind, cls: type) -> MetaOptError:
    """What there is to say to a part of this class."""
    return MetaOptError(f"{kind} must be an {registry.contract(kind).__name__}, or the name of one, not {cls.__name__}")


def claim(*parts: nn.Module) -> None:
    """Let parts with weights belong to a meta-learner."""
    _IN_USE.update(part for part in parts if next(part.parameters(), None) is not None)
