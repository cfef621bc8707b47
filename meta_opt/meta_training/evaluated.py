"""Validation and test of a learned optimizer, for a LightningModule: it runs on fixed problems; what is logged."""

from __future__ import annotations

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.plugins.precision import MixedPrecision
from torch import Tensor
from torch.optim.swa_utils import AveragedModel

from meta_opt.inner_loop.episodes import Curves, mean_of_problems, run_episodes
from meta_opt.meta_training.meta_loss import MetaLoss
from meta_opt.optimizees.checking import LOGGED
from meta_opt.optimizees.contract import Optimizee, Split
from meta_opt.optimizers.baseline_names import adam
from meta_opt.optimizers.contract import InnerOptimizer, OptimizerNetwork


class EvaluatedLearner(LightningModule):
    """What a meta-learner does that changes no φ; its attributes are the meta-learner's."""

    optimizee: Optimizee
    optimizer: OptimizerNetwork
    average: AveragedModel
    num_validation_steps: int
    num_validation_problems: int
    num_test_problems: int
    held_back: bool
    seed: int
    validation_curves: Curves | None
    _meta_loss: MetaLoss

    @property
    def trained(self) -> OptimizerNetwork:
        """The learned optimizer as it is validated, saved for use and tested: with the average of φ."""
        return self.average.module  # type: ignore[return-value]

    def val_dataloader(self) -> range:
        """One batch: all validation problems."""
        return range(1)

    test_dataloader = val_dataloader

    def on_validation_start(self) -> None:
        """Bring the optimizee's data to the device."""
        self.optimizee.to(self.device)

    on_test_start = on_validation_start

    def validation_step(self, batch: int, batch_idx: int) -> None:
        """The learned optimizer on the validation problems, the same ones every time."""
        self.validation_curves = self.curves(self.trained, "validation", self.num_validation_problems)
        self._log_curves("val", self.validation_curves)

    def test_step(self, batch: int, batch_idx: int) -> None:
        """The learned optimizer on test problems."""
        self._log_curves("test", self.curves(self.trained, "test", self.num_test_problems))

    def curves(self, optimizer: InnerOptimizer, split: Split, num_problems: int) -> Curves:
        """Loss curves of ``optimizer`` over ``num_validation_steps`` steps, with the device and seed of this module."""
        with torch.inference_mode(False):
            return run_episodes(
                self.optimizee,
                optimizer,
                split,
                num_problems,
                self.num_validation_steps,
                seed=self.seed,
                device=self.device,
                dtype=self._float,
                autocast=self._autocast,
                held_back=self.held_back,
            )

    def reference_curves(self, lr: float) -> Curves:
        """Loss curves of Adam with this learning rate on the validation problems."""
        return self.curves(adam(lr), "validation", self.num_validation_problems)

    def objective(self, curves: Curves) -> Tensor:
        """What meta-training wants to be low, [], mean over problems."""
        return mean_of_problems(self._objectives(curves))

    def _objectives(self, curves: Curves) -> Tensor:
        return self._meta_loss.of_episodes(curves.losses[1:])

    def times(self, curves: Curves, reference: Curves) -> float:
        """How many times as high as those of a reference; see :meth:`MetaLoss.ratio`."""
        return float(self._meta_loss.ratio(curves.losses[1:], reference.losses[1:]))

    def _log_curves(self, stage: str, curves: Curves) -> None:
        values = [mean_of_problems(each) for each in (curves.final, curves.sum, self._objectives(curves))]
        figures: dict[str, Tensor | float] = dict(zip(LOGGED, [*values, float(curves.not_finite)], strict=True))
        figures |= {name: mean_of_problems(value) for name, value in curves.metrics.items()}
        for name, value in figures.items():
            self._log(f"{stage}/{name}", value, prog_bar=(stage, name) == ("val", "final_loss"))

    @property
    def dtypes(self) -> tuple[torch.dtype, torch.dtype | None]:
        """The type of θ, and that of autocast, as far as the trainer is known."""
        return self._float, self._autocast

    @property
    def _float(self) -> torch.dtype:
        """The type that φ has, and so θ."""
        return next(self.optimizer.parameters()).dtype

    @property
    def _autocast(self) -> torch.dtype | None:
        """The type of ``torch.autocast`` in mixed precision, for the optimizee."""
        plugin = None if self._trainer is None else self._trainer.precision_plugin
        if not isinstance(plugin, MixedPrecision):
            return None
        return torch.bfloat16 if plugin.precision == "bf16-mixed" else torch.float16

    def _log(self, name: str, value: Tensor | float, *, prog_bar: bool = False, sync_dist: bool = False) -> None:
        self.log(name, value, prog_bar=prog_bar, sync_dist=sync_dist, batch_size=1)
