"""What TensorBoard shows beside the scalars: a figure and a loss curve at every validation, and the hyperparameters."""

from __future__ import annotations

import errno
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities.rank_zero import rank_zero_only
from torch.utils.tensorboard import SummaryWriter

from meta_opt import registry
from meta_opt.evaluation.figures import loss_figure
from meta_opt.evaluation.landscapes import Panel, landscape_figure, panel_of
from meta_opt.inner_loop.episodes import Curves
from meta_opt.meta_training.meta_learner import MetaLearner
from meta_opt.optimizees.problems import layout_of
from meta_opt.optimizers.baseline_names import adam
from meta_opt.optimizers.contract import InnerOptimizer

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)


class ValidationCurves(Callback):
    """Draws the validation curves of a :class:`MetaLearner` beside Adam's.

    Every validation adds a figure, and a run of its own (``curves/episode_NNNNN``) with the mean loss over optimizee
    steps, so that TensorBoard lays the curves of all validations over each other.
    """

    def __init__(self) -> None:
        """The reference is run once, when it is first needed."""
        self._reference: Curves | None = None
        self._hyperparameters_logged = False
        self._failed = False

    @rank_zero_only
    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw the curves of the validation that has just ended."""
        if trainer.sanity_checking or trainer.state.fn != "fit" or not isinstance(pl_module, MetaLearner):
            return
        curves = pl_module.validation_curves
        if curves is None or not isinstance(trainer.logger, TensorBoardLogger):
            return
        try:
            self._draw(trainer, pl_module, curves)
        except Exception as error:  # whatever a drawing library raises: a figure never ends training
            if isinstance(error, OSError) and error.errno in _FULL:
                raise  # the log is not the figure's, and checkpoints will not be written, either
            if not self._failed:
                warnings.warn(f"the validation figure cannot be drawn: {type(error).__name__}: {error}", stacklevel=1)
            self._failed = True

    def _draw(self, trainer: Trainer, pl_module: MetaLearner, curves: Curves) -> None:
        assert isinstance(trainer.logger, TensorBoardLogger)
        writer: SummaryWriter = trainer.logger.experiment
        folder = Path(trainer.logger.log_dir) / "curves"
        name = registry.name_of(type(pl_module.optimizee)).rpartition(".")[2]
        episode = pl_module.episode
        reference_label = f"Adam, learning rate {pl_module.reference_lr:g}"
        if self._reference is None:
            self._reference = pl_module.reference_curves()
            _write_curve(folder / "adam", self._reference)
        title = f"{name} after {episode} episodes"
        writer.add_figure(
            "validation",
            loss_figure(curves, self._reference, title=title, reference_label=reference_label),
            trainer.global_step,
        )
        _write_curve(folder / f"episode_{episode:05d}", curves)
        if layout_of(pl_module.optimizee).num_coordinates == 2:
            optimizers = {"learned optimizer": pl_module.trained, reference_label: adam(pl_module.reference_lr)}
            figure = landscape_figure(_panels(pl_module, optimizers), caption=title)
            writer.add_figure("paths", figure, trainer.global_step)
        self._log_hyperparameters(trainer.logger, pl_module, curves, trainer.global_step)

    def _log_hyperparameters(self, logger: TensorBoardLogger, module: MetaLearner, curves: Curves, step: int) -> None:
        final = {"hp/final_loss": float(curves.final.mean())}
        if self._hyperparameters_logged:
            logger.log_metrics(final, step)
        else:
            logger.log_hyperparams(_flat(module.recipe()), final, step)
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


def _write_curve(folder: Path, curves: Curves) -> None:
    with SummaryWriter(str(folder)) as writer:
        for step, loss in enumerate(curves.losses.mean(1).tolist()):
            writer.add_scalar("validation/loss", loss, step)


def _flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    leaves: dict[str, Any] = {}
    for name, value in tree.items():
        if isinstance(value, dict):
            leaves |= _flat(value, f"{prefix}{name}.")
        else:
            leaves[prefix + name] = value
    return leaves
