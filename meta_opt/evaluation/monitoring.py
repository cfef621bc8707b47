"""What TensorBoard shows beside the scalars: figures of every validation, and the hyperparameters, over episodes."""

from __future__ import annotations

import errno
import inspect
import warnings
from collections.abc import Mapping
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities.rank_zero import rank_zero_only
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from meta_opt import registry
from meta_opt.evaluation.figures import loss_figure
from meta_opt.evaluation.landscapes import Panel, landscape_figure, panel_of
from meta_opt.evaluation.reference import Reference
from meta_opt.inner_loop.episodes import Curves
from meta_opt.meta_training.meta_learner import MetaLearner
from meta_opt.optimizees.problems import layout_of
from meta_opt.optimizers.baseline_names import adam
from meta_opt.optimizers.contract import InnerOptimizer

_VARIED = ("lr", "num_steps", "unroll_length", "num_problems", "meta_loss", "seed")  # of meta-training
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)


class ValidationCurves(Callback):
    """Draws the curves of all validations of a :class:`MetaLearner`, beside Adam's, at each of them.

    Beside it a histogram of the final losses of the problems, paths where θ can be drawn, and the hyperparameters.
    """

    def __init__(self, reference: Reference) -> None:
        """Remember whose curves to draw beside.

        Args:
            reference: A callback of the same trainer.
        """
        self._reference = reference
        self._means: dict[int, Tensor] = {}  # mean losses of the validation after so many episodes
        self._hyperparameters_logged = False
        self._failed = False

    def state_dict(self) -> dict[str, Any]:
        """The curves so far."""
        return {"means": {episode: means.tolist() for episode, means in self._means.items()}}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from them."""
        self._means = {episode: torch.tensor([*map(float, means)]) for episode, means in state_dict["means"].items()}

    @rank_zero_only
    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw the curves of the validation that has just ended."""
        if trainer.sanity_checking or trainer.state.fn != "fit" or not isinstance(pl_module, MetaLearner):
            return
        curves = pl_module.validation_curves
        if curves is None:
            return
        self._means[pl_module.episode] = curves.losses.mean(1).cpu()
        if not isinstance(trainer.logger, TensorBoardLogger):
            return
        try:
            self._draw(trainer.logger, pl_module, curves)
        except Exception as error:  # whatever a drawing library raises: a figure never ends training
            if isinstance(error, OSError) and error.errno in _FULL:
                raise  # the log is not the figure's, and checkpoints will not be written, either
            if not self._failed:
                warnings.warn(f"the validation figure cannot be drawn: {type(error).__name__}: {error}", stacklevel=1)
            self._failed = True

    def _draw(self, logger: TensorBoardLogger, module: MetaLearner, curves: Curves) -> None:
        writer: SummaryWriter = logger.experiment
        episode, step = module.episode, module.episode - 1  # that of the last episode, as of all that is logged
        name = registry.name_of(type(module.optimizee)).rpartition(".")[2]
        title, reference = f"{name} after {episode} episodes", self._reference
        label = "" if reference.lr is None else f"Adam, learning rate {reference.lr:.2g}"
        writer.add_figure("validation", loss_figure(self._means, reference.curves, title, label), step)
        if (finals := curves.final[curves.final.isfinite()]).numel():
            writer.add_histogram("validation/final_loss", finals.cpu(), step)
        if layout_of(module.optimizee).num_coordinates == 2:
            optimizers: dict[str, InnerOptimizer] = {"learned optimizer": module.trained}
            if reference.lr is not None:
                optimizers[label] = adam(reference.lr)
            writer.add_figure("paths", landscape_figure(_panels(module, optimizers), caption=title), step)
        final = {"val/hp_final_loss": float(curves.final.mean())}
        if self._hyperparameters_logged:
            logger.log_metrics(final, step)
        else:
            logger.log_hyperparams(_varied(module), final, step)
            self._hyperparameters_logged = True


def _panels(module: MetaLearner, optimizers: Mapping[str, InnerOptimizer]) -> list[Panel]:
    """The same validation problems every time, one of each kind."""
    kinds = module.optimizee.panels().items()
    return [
        panel_of(
            title,
            kind.to(module.device),
            optimizers,
            module.num_validation_steps,
            index=index,
            split="validation",
            seed=module.seed,
            device=module.device,
            dtype=next(module.optimizer.parameters()).dtype,
        )
        for index, (title, kind) in enumerate(kinds)
    ]


def _varied(module: MetaLearner) -> dict[str, Any]:
    """What people vary: what is trained on what, options of these that are not the defaults, a few of meta-training."""
    recipe = module.recipe()
    varied: dict[str, Any] = {}
    for kind, made in (
        ("optimizee", module.optimizee),
        ("optimizer", module.optimizer),
        ("estimator", module.estimator),
    ):
        varied[kind] = registry.name_of(type(made)).rpartition(".")[2]
        parameters = inspect.signature(type(made).__init__).parameters
        for name, value in recipe[kind]["init_args"].items():
            if name not in parameters or value != parameters[name].default:
                varied[f"{kind}.{name}"] = value
    return varied | {f"model.{name}": recipe["model"][name] for name in _VARIED}
