"""How far meta-training is: a bar of one line in a terminal, a line for each epoch elsewhere."""

from __future__ import annotations

import math
import shutil
import sys
import time
from collections.abc import Mapping
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar
from tqdm import tqdm

from meta_opt.optimizees.checking import LOGGED, TIMES

_WIDTH = 80  # at most
# What is shown, in this order, where it is logged: name in the log, and how it is written.
_SHOWN = (
    (f"val/{TIMES}", "{:.2g}x Adam"),
    ("val/final_loss", "val {:.3g}"),
    ("train/final_loss", "train {:.3g}"),
)
_NOT_METRICS = frozenset(f"val/{name}" for name in (*LOGGED, TIMES))


class EpisodeBar(ProgressBar):
    """Metrics first, then how many episodes are done, and the time left in all.

    Only the first process shows it.
    """

    def __init__(self) -> None:
        """Begin when training does."""
        super().__init__()
        self._enabled = True
        self._bar: tqdm[Any] | None = None
        self._started = 0.0
        self._first = 0  # episodes that were done before

    def disable(self) -> None:
        """Show nothing; called in all processes but the first."""
        self._enabled = False

    def enable(self) -> None:
        """Show it."""
        self._enabled = True

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Open the bar, if there is a terminal."""
        self._started = time.monotonic()
        self._first = _done(trainer)
        if self._enabled and sys.stderr.isatty():
            self._bar = tqdm(
                total=_total(trainer),
                initial=self._first,
                ncols=min(_WIDTH, shutil.get_terminal_size().columns),
                bar_format="{desc} |{bar}| {n_fmt}/{total_fmt} {remaining} left",
                unit="episode",
            )

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """An episode is done."""
        if self._bar is not None:
            self._bar.set_description_str(summary(trainer.callback_metrics), refresh=False)
            self._bar.update(_done(trainer) - self._bar.n)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write a line, where there is no bar."""
        if not self._enabled or self._bar is not None:
            return
        done, total = _done(trainer), _total(trainer)
        seconds = time.monotonic() - self._started
        epochs = trainer.max_epochs
        of = f"/{epochs}" if epochs and epochs > 0 else ""
        metrics = summary(trainer.callback_metrics, names=True)
        parts = [f"epoch {trainer.current_epoch + 1}{of}", f"{done} episodes", metrics]
        parts.append(f"after {_clock(seconds)}")
        if total is not None and done > self._first:
            parts.append(f"{_clock(seconds / (done - self._first) * max(total - done, 0))} left")
        print(", ".join(part for part in parts if part), file=sys.stderr, flush=True)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Close the bar."""
        self._close()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Close the bar."""
        self._close()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Close the bar."""
        self._close()

    def print(self, *args: Any, **kwargs: Any) -> None:
        """Print above the bar."""
        if self._enabled:
            tqdm.write(" ".join(map(str, args)), file=sys.stderr)

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None


def summary(metrics: Mapping[str, Any], *, names: bool = False) -> str:
    """The metrics that matter, in few letters, or by their names in the log."""
    own = [name for name in metrics if name.startswith("val/") and name not in _NOT_METRICS]  # of the optimizee
    shown = [(name, text) for name, text in _SHOWN if name in metrics]
    shown += [(name, f"{name.removeprefix('val/')} {{:.3g}}") for name in own]
    if names:
        shown = [(name, text if name.endswith(TIMES) else f"{name}={{:.4g}}") for name, text in shown]
    return ", ".join(text.format(float(metrics[name])) for name, text in shown)


def _done(trainer: Trainer) -> int:
    """Episodes so far, of all epochs."""
    return trainer.fit_loop.epoch_loop.total_batch_idx + 1


def _total(trainer: Trainer) -> int | None:
    """Episodes in all; None if that is not known."""
    epochs = trainer.max_epochs
    if epochs is None or epochs < 0 or math.isinf(trainer.num_training_batches):
        return None
    return int(epochs * trainer.num_training_batches)


def _clock(seconds: float) -> str:
    return tqdm.format_interval(max(seconds, 0.0))
