"""How good is it, while it trains? What the learned optimizer is measured by at every validation: a tuned Adam."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities.rank_zero import rank_zero_only, rank_zero_warn

from meta_opt.inner_loop.episodes import Curves
from meta_opt.meta_training.judging import Judging
from meta_opt.meta_training.meta_learner import MetaLearner
from meta_opt.optimizees.checking import TIMES

_FACTOR = 10**0.5  # between learning rates that are tried
_MOST_MOVES = 16  # in one direction: eight decades


class Reference(Judging):
    """Tunes Adam's learning rate on the validation problems when training starts, and logs ``val/times_adam``.

    That is the sum of losses divided by Adam's; with a logarithm in the meta-loss, the geometric mean over problems of
    the ratio. The search begins at ``model.reference_lr`` and goes up or down as long as that helps: a few runs, less
    than the tuning of ``meta-opt compare``, which tries wide grids.

    Attributes:
        lr: The learning rate that was found; None before training, and where none works.
        curves: Adam's with it.
        ratio: At the last validation; None before.
        best: The lowest ratio of all validations.
    """

    by_monitor = False

    def __init__(self) -> None:
        """Do nothing until training starts."""
        self.lr: float | None = None
        self.curves: Curves | None = None
        self.ratio: float | None = None
        self.best: float | None = None

    def state_dict(self) -> dict[str, Any]:
        """What need not be found again."""
        return {"lr": self.lr, "best": self.best}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take it over, where validation is on what it was on."""
        if not self.anew:
            self.lr, self.best = state_dict["lr"], state_dict["best"]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Tune, unless there is no validation."""
        validates = trainer.enable_validation and bool(trainer.limit_val_batches)
        if not validates or getattr(trainer, "fast_dev_run", False) or not isinstance(pl_module, MetaLearner):
            return
        runs: dict[float, Curves] = {}

        def score(lr: float) -> float:
            runs[lr] = pl_module.reference_curves(lr)
            return float(pl_module.objective(runs[lr]))

        if self.lr is not None:
            score(self.lr)
        elif (found := climb(score, pl_module.reference_lr)) is None:
            return
        else:
            self.lr = found.rate
            if found.is_best:
                _say(
                    trainer,
                    f"Adam on the validation problems is best with a learning rate of {found.rate:.2g} "
                    f"({len(runs)} runs)",
                )
            else:
                rank_zero_warn(
                    f"Adam on the validation problems has no best learning rate up to {found.rate:.2g}, where the "
                    f"search ended; val/{TIMES} is to Adam with that, which flatters the learned optimizer"
                )
        self.curves = runs[self.lr]

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the ratio."""
        if self.curves is None or not isinstance(pl_module, MetaLearner) or pl_module.validation_curves is None:
            return
        ratio = pl_module.times(pl_module.validation_curves, self.curves)
        self.ratio = ratio
        if not math.isnan(ratio):
            self.best = ratio if self.best is None else min(self.best, ratio)
            pl_module.log(f"val/{TIMES}", ratio, batch_size=1)

    def said(self, lr: float, max_epochs: int | None) -> str:
        """How good the best validation was, and what to try where that is no better than Adam.

        Args:
            lr: ``model.lr``.
            max_epochs: The epochs that were trained, -1 for no bound; None where nothing is to be tried, as training
                was stopped before.
        """
        text = f"at its best {self.best:.2g} times the loss of tuned Adam on the validation problems"
        if self.best is None or self.best < 1.0 or max_epochs is None:
            return text
        longer = f"--trainer.max_epochs {2 * max_epochs}" if max_epochs > 0 else "more epochs"
        return f"{text}: no better; try {longer} or --model.lr {lr / 3:.2g}"


class Climbed(NamedTuple):
    """Where a search has ended.

    Attributes:
        rate: The learning rate with the lowest score.
        is_best: Whether the next one was tried, and is no better; if not, the last step still lowered the score.
    """

    rate: float
    is_best: bool


def climb(score: Callable[[float], float], start: float) -> Climbed | None:
    """The learning rate from which neither a step up nor a step down lowers the score, each by √10.

    The search ends at eight decades from where it began.

    Args:
        score: Score of a learning rate; not finite where it diverges.
        start: Where to begin.

    Returns:
        None if no finite score was met.
    """

    def at(rate: float) -> float:
        value = score(rate)
        return value if math.isfinite(value) else math.inf

    best, lowest = start, at(start)
    for factor in (1.0 / _FACTOR, _FACTOR):
        moves = 0
        while moves < _MOST_MOVES:
            value = at(best * factor)
            if value >= lowest and math.isfinite(lowest):
                break
            best, lowest, moves = best * factor, value, moves + 1
        if moves and math.isfinite(lowest):
            return Climbed(best, moves < _MOST_MOVES)
        if not math.isfinite(lowest):
            best = start
    return Climbed(best, True) if math.isfinite(lowest) else None


@rank_zero_only
def _say(trainer: Trainer, text: str) -> None:
    """Beside the bar, where one is wanted."""
    if trainer.progress_bar_callback is not None:
        print(text, file=sys.stderr, flush=True)
