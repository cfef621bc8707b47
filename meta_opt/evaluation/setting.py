"""What optimizers are compared on, and by which figures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from torch import Tensor

from meta_opt.evaluation.protocol import FEWEST_VALIDATION_PROBLEMS
from meta_opt.inner_loop.episodes import Curves, run_episodes
from meta_opt.optimizees.contract import Optimizee, Split
from meta_opt.optimizees.streams import seeded
from meta_opt.optimizers.baseline_names import HandMade
from meta_opt.optimizers.contract import InnerOptimizer

Merit = Literal["sum", "final"]  # figure of merit: Σ_{t=1..num_steps} f_t(θ_t), or the final loss
MERITS: tuple[Merit, ...] = ("sum", "final")


class Progress:
    """Progress callback that does nothing. Steps are counted over all problems."""

    def expect(self, steps: int) -> None:
        """So many more steps will be taken."""

    def begin(self, what: str) -> None:
        """What the next steps are for."""

    def advance(self, steps: int) -> None:
        """So many steps have been taken."""


@dataclass(frozen=True)
class Setting:
    """What optimizers are compared on.

    Attributes:
        optimizee: Where the problems come from; its data is on the device.
        horizons: Numbers of steps, each a comparison of its own.
        num_problems: How many test problems.
        num_validation_problems: How many problems learning rates are tuned on.
        seed: All randomness comes from it.
        device: Where to compute.
        dtype: Floating-point type of θ.
        autocast: The type in which ``torch.autocast`` lets losses compute what they may; None for none.
        held_back: Whether losses and metrics are those on batches that the optimizee holds back.
        regret: Whether the loss after a step is the lowest so far.
        progress: Is told what is being done.
    """

    optimizee: Optimizee
    horizons: Sequence[int]
    num_problems: int = 100
    num_validation_problems: int = FEWEST_VALIDATION_PROBLEMS
    seed: int = 0
    device: torch.device | str = "cpu"
    dtype: torch.dtype = torch.float32
    autocast: torch.dtype | None = None
    held_back: bool = False
    regret: bool = False
    progress: Progress = field(default_factory=Progress)

    def curves(self, optimizer: InnerOptimizer, split: Split, num_steps: int) -> Curves:
        """Curves over so many steps."""
        return self.run(optimizer, split, self.count(split), num_steps, self.seed, held_back=self.held_back)

    def run(
        self,
        optimizer: InnerOptimizer,
        split: Split,
        num_problems: int,
        num_steps: int,
        seed: int,
        *,
        held_back: bool,
    ) -> Curves:
        """Curves on so many problems of ``split``, over so many steps."""
        with seeded(seed, split, "optimizer", device=self.device):
            curves = run_episodes(
                self.optimizee,
                optimizer,
                split,
                num_problems,
                num_steps,
                seed=seed,
                device=self.device,
                dtype=self.dtype,
                autocast=self.autocast,
                held_back=held_back,
                progress=self.progress.advance,
            )
        if not self.regret:
            return curves
        known = torch.where(curves.losses.isfinite(), curves.losses, torch.inf)  # a nan would stay the lowest for good
        return replace(curves, losses=known.cummin(0).values)

    def count(self, split: Split) -> int:
        """How many problems of ``split`` there are."""
        return self.num_problems if split == "test" else self.num_validation_problems

    def expect(self, runs: int, split: Split, num_steps: int) -> None:
        """Tell how many runs over so many steps on ``split`` are to come."""
        self.progress.expect(runs * self.count(split) * num_steps)

    def spans(self, of: HandMade | InnerOptimizer) -> dict[int, Sequence[int]]:
        """By how many steps there are runs: the horizons that each serves. What has a schedule runs for each."""
        if of.horizon if isinstance(of, InnerOptimizer) else not of.schedule.is_constant:
            return {horizon: [horizon] for horizon in self.horizons}
        return {max(self.horizons): self.horizons}


def of_problems(curves: Curves, merit: Merit) -> Tensor:
    """A figure of merit of each problem, [V]."""
    return curves.sum if merit == "sum" else curves.final
