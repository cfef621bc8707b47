"""What a trainer can do for other modules, and not for meta-training."""

from __future__ import annotations

import inspect

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import (
    GradientAccumulationScheduler,
    LearningRateFinder,
    ModelPruning,
    StochasticWeightAveraging,
    WeightAveraging,
)
from lightning.pytorch.strategies import DeepSpeedStrategy, FSDPStrategy, ModelParallelStrategy

from meta_opt.errors import MetaOptError

_INSTEAD: dict[type[Callback], str] = {
    StochasticWeightAveraging: "averages no φ and sets no learning rate of meta-training: set model.average_decay",
    LearningRateFinder: "finds no learning rate of meta-training: try some values of model.lr",
    GradientAccumulationScheduler: "accumulates no meta-gradient: set model.num_problems",
    ModelPruning: "prunes no φ",
}


def check_trainer(trainer: Trainer, module: LightningModule, *, cosine: bool) -> None:
    """Refuse what would do nothing, or something else than it says.

    Args:
        trainer: About to fit.
        module: What it is about to fit.
        cosine: Whether the learning rate falls to zero until the end of the fit.

    Raises:
        MetaOptError: If there is such an option or callback.
    """
    if isinstance(trainer.strategy, FSDPStrategy | DeepSpeedStrategy | ModelParallelStrategy):
        raise MetaOptError(
            f"{type(trainer.strategy).__name__} divides φ, which is small, and then no episode can step: set "
            "trainer.strategy ddp"
        )
    if getattr(module, "_compiler_ctx", None) is not None:
        raise MetaOptError("a compiled MetaLearner cannot be trained: give the trainer the MetaLearner itself")
    if getattr(trainer, "overfit_batches", 0):  # an attribute that Lightning declares nowhere
        raise MetaOptError(
            "trainer.overfit_batches repeats no episode, as each has problems of its own: "
            "set trainer.limit_train_batches for short epochs"
        )
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        for kind, problem in _INSTEAD.items():
            if isinstance(callback, kind):
                raise MetaOptError(f"the callback {kind.__name__} {problem}")
    if cosine and (trainer.max_epochs or 0) < 0 and trainer.max_steps < 0:
        raise MetaOptError("model.lr_schedule cosine needs a length: set trainer.max_epochs")


def check_device(trainer: Trainer) -> None:
    """Refuse Apple's GPUs: norms of meta-gradients, among others, are computed in float64, which they do not have.

    Raises:
        MetaOptError: If the trainer has one.
    """
    if trainer.strategy.root_device.type == "mps":
        raise MetaOptError(
            "learned optimizers need float64, which Apple's GPUs do not have: set trainer.accelerator cpu"
        )


def check_meta_optimizer(optimizer: torch.optim.Optimizer) -> None:
    """Refuse what evaluates the meta-loss itself, as L-BFGS does: an episode gives each meta-gradient once.

    Raises:
        MetaOptError: If its ``step`` cannot do without a closure.
    """
    closure = inspect.signature(type(optimizer).step).parameters.get("closure")
    if closure is not None and closure.default is inspect.Parameter.empty:
        raise MetaOptError(
            f"{type(optimizer).__name__} cannot be the meta-optimizer: it evaluates the meta-loss itself, through a "
            "closure"
        )


def check_averaging(trainer: Trainer) -> None:
    """See that a run whose weights a callback averaged goes on with one.

    Raises:
        MetaOptError: If it does not.
    """
    if not any(isinstance(callback, WeightAveraging) for callback in trainer.callbacks):  # type: ignore[attr-defined]
        raise MetaOptError(
            "the checkpoint is that of a run with a callback that averages weights: go on with the same "
            "trainer.callbacks"
        )
