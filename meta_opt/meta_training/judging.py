"""What follows from validation: which checkpoint is the best, and when to stop; and the checkpoint of a run's end."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from lightning.pytorch.callbacks.early_stopping import EarlyStoppingReason

from meta_opt.errors import MetaOptError

_OF_VALIDATION = ("num_validation_problems", "held_back", "seed")


class Judging(Callback):
    """What remembers a best validation, and forgets it when a run goes on that is validated on something else.

    Attributes:
        by_monitor: Whether another figure of validation (``model.monitor``) counts as something else, too.
        anew: Whether the checkpoint that a run goes on from was validated on something else.
    """

    by_monitor = True
    anew = False

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Compare what was validated on then and now; called before the state is loaded."""
        then, now = checkpoint["meta_opt"], pl_module.recipe()  # type: ignore[operator]
        figures = [recipe["model"].get("monitor", "objective") for recipe in (then, now)]
        self.anew = _validated_on(then) != _validated_on(now) or (self.by_monitor and len({*figures}) > 1)


def _validated_on(recipe: Mapping[str, Any]) -> tuple[Any, ...]:
    model = recipe["model"]
    steps = model.get("num_validation_steps") or model.get("num_steps")
    meta_loss = model.get("meta_loss", "")
    figure = "log" if meta_loss.startswith("log_") else meta_loss  # what is low of whole episodes; it has no weights
    return recipe["optimizee"], steps, figure, *(model.get(name) for name in _OF_VALIDATION)


class StopWhenStale(Judging, EarlyStopping):
    """Stops meta-training when what chooses the best checkpoint (``model.monitor``) no longer falls.

    Without validation it does nothing.
    """

    def __init__(
        self,
        patience: int = 20,
        min_delta: float = 0.0,
        stopping_threshold: float | None = None,
        divergence_threshold: float | None = None,
    ) -> None:
        """Watch what ``model.monitor`` names.

        Args:
            patience: Stop after this many validations without improvement.
            min_delta: What counts as improvement.
            stopping_threshold: Stop once it is lower than this.
            divergence_threshold: Stop once it is higher than this.

        Raises:
            MetaOptError: If a value is out of range.
        """
        if patience < 1:
            raise MetaOptError(f"early_stopping.patience must be at least 1, not {patience}")
        if not 0.0 <= min_delta < math.inf:
            raise MetaOptError(f"early_stopping.min_delta must be a number of 0 or more, not {min_delta}")
        super().__init__(
            "val/objective",
            strict=False,
            min_delta=min_delta,
            patience=patience,
            check_finite=False,
            check_on_train_epoch_end=False,
            stopping_threshold=stopping_threshold,
            divergence_threshold=divergence_threshold,
        )

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on counting; patience is what was asked for now, not what was asked for then."""
        if not self.anew:
            super().load_state_dict({**state_dict, "patience": self.patience})

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Do not train on when the checkpoint is that of a run which is stale by the patience of now."""
        stale = self.wait_count >= self.patience
        self.stopping_reason = EarlyStoppingReason.PATIENCE_EXHAUSTED if stale else EarlyStoppingReason.NOT_STOPPED
        trainer.should_stop = trainer.should_stop or stale


class RunCheckpoint(Judging, ModelCheckpoint):
    """``best.ckpt`` or ``last.ckpt`` in the folder of the run."""

    def __init__(self, filename: str, monitor: str | None = None) -> None:
        """Name the file; the folder is set when the run has one.

        Args:
            filename: Name of the file, without suffix.
            monitor: Save when this is lower than ever; otherwise at the end of every epoch, and of training.
        """
        super().__init__(
            filename=filename,
            monitor=monitor,
            save_on_train_epoch_end=not monitor,
            enable_version_counter=False,
        )
        self._unfinished = False  # whether the epoch was left in the middle, and what it did is saved

    @property
    def path(self) -> Path:
        """The file."""
        return Path(self.dirpath or ".") / f"{self.filename}{self.FILE_EXTENSION}"

    @property
    def never_finite(self) -> bool:
        """Whether a best checkpoint was saved for a figure that was never finite."""
        return self.best_model_score is not None and not bool(self.best_model_score.isfinite())

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Say that a best is forgotten."""
        super().on_load_checkpoint(trainer, pl_module, checkpoint)
        if self.anew and self.monitor is not None and trainer.is_global_zero:
            print(
                "validation is on other problems or steps than before, or by another figure: best.ckpt is chosen anew"
            )

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Count epochs by those that are completed; of a resumed run, Lightning miscounts those that are not.

        Where ``max_steps`` is set it counts one too many as processed, and after a checkpoint that was saved with the
        last episode of an epoch one too few as begun.
        """
        self._unfinished = False
        progress = trainer.fit_loop.epoch_progress
        trackers: tuple[Any, ...] = (progress.total, progress.current)
        for tracker in trackers:
            tracker.processed = tracker.completed
            tracker.ready = tracker.started = tracker.completed + 1

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save where training ends in the middle of an epoch: after it, Lightning counts the epoch as done."""
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
        if self.monitor is None and batch_idx + 1 < trainer.num_training_batches and _ends(trainer):
            self.save_in_epoch(trainer)

    def save_in_epoch(self, trainer: Trainer) -> None:
        """Save in the middle of an epoch, after which training ends; again after validation, if that follows."""
        trainer.save_checkpoint(self.path)
        self._unfinished = True

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save the best, or what is known after a last validation in the middle of an epoch."""
        super().on_validation_end(trainer, pl_module)
        if self._unfinished and not trainer.sanity_checking:
            trainer.save_checkpoint(self.path)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save, unless the epoch was left in the middle."""
        if not self._unfinished:
            super().on_train_epoch_end(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keep what was done since the last epoch was saved."""
        if self.monitor is None and not self._unfinished and trainer.global_step > self._last_global_step_saved:
            trainer.save_checkpoint(self.path)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Remember the best so far, wherever its folder is now; the best of another run does not count."""
        if self.path.exists() and not (self.anew and self.monitor is not None):
            path = str(self.path)
            here: dict[str, Any] = {
                name: path if state_dict[name] else "" for name in ("best_model_path", "kth_best_model_path")
            }
            here["best_k_models"] = dict.fromkeys([path][: len(state_dict["best_k_models"])], state_dict["kth_value"])
            super().load_state_dict({**state_dict, **here, "dirpath": self.dirpath})


def _ends(trainer: Trainer) -> bool:
    """Whether training stops after this episode, by ``max_steps`` or ``max_time``."""
    stops = trainer.should_stop and trainer.fit_loop._can_stop_early
    return stops or 0 <= trainer.max_steps <= trainer.global_step
