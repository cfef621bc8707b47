"""How far a run is, what ended it, and what would go on with it."""

from __future__ import annotations

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import EarlyStopping, Timer
from lightning.pytorch.callbacks.early_stopping import EarlyStoppingReason


def cut_short_by(trainer: Trainer) -> str | None:
    """What ended training before the last epoch, as the option that says it; None where nothing did."""
    if 0 <= trainer.max_steps <= trainer.global_step:
        return f"--trainer.max_steps {trainer.max_steps}"
    if 0 <= (trainer.max_epochs or 0) <= trainer.current_epoch:
        return None
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, EarlyStopping) and callback.stopping_reason != EarlyStoppingReason.NOT_STOPPED:
            of_ours = type(callback).__module__.startswith("meta_opt.")
            return f"{'--early_stopping' if of_ours else type(callback).__name__} ({_why(callback)})"
        if isinstance(callback, Timer) and (callback.time_remaining() or 0.0) <= 0.0:
            return "--trainer.max_time"
    return "a callback"


def _why(callback: EarlyStopping) -> str:
    if callback.stopping_reason == EarlyStoppingReason.PATIENCE_EXHAUSTED:
        better = "fell" if callback.mode == "min" else "rose"
        return f"{callback.monitor} no longer {better}"
    return f"{callback.monitor} crossed a threshold"


def part_done(trainer: Trainer, batch_idx: int) -> float:
    """How much of a fit has been done before an episode, 0 to 1; one that goes on with another goes on."""
    done: float = trainer.current_epoch * trainer.num_training_batches + batch_idx
    total: float = (trainer.max_epochs or -1) * trainer.num_training_batches
    if total < 0:  # epochs have no end, steps have
        done, total = trainer.global_step, trainer.max_steps
    return min(1.0, done / total)
