"""What a learned optimizer does with gradients that are made up, where that is known."""

from __future__ import annotations

import torch
from torch import Generator, nn

from meta_opt.evaluation.portraits import portrait_figure, portrait_of
from meta_opt.optimizees.layout import Layout
from meta_opt.optimizees.problems import Evaluation
from meta_opt.optimizers.contract import OptimizerNetwork, Step
from meta_opt.saved.pretrained import pretrained_path
from meta_opt.saved.recipes import load_optimizer

LAYOUT = Layout.of({"small": torch.zeros(4), "large": torch.zeros(30, 2)})


class Averages(OptimizerNetwork):
    """θ ← θ - 0.1 (∇ + the gradient before)."""

    scope = "coordinate"

    def build(self, layout: Layout, generator: Generator) -> None:
        self.rate = nn.Parameter(torch.tensor(0.1))

    def init_state(self, layout: Layout, num_problems: int) -> torch.Tensor:
        return torch.zeros(num_problems, layout.num_coordinates)

    def step(self, evaluation: Evaluation, state: torch.Tensor, noise: Generator | None = None) -> Step:
        return Step(-self.rate * (evaluation.grad + state), evaluation.grad)


class Looks(Averages):
    """Updates by the gradient of a coordinate ten places before."""

    scope = "tensor"

    def step(self, evaluation: Evaluation, state: torch.Tensor, noise: Generator | None = None) -> Step:
        return Step(-self.rate * evaluation.grad.roll(10, dims=1), state)


def averages(kind: type[Averages] = Averages) -> Averages:
    optimizer = kind()
    optimizer.build(LAYOUT, Generator())
    return optimizer.requires_grad_(False)


def test_the_panels_of_a_known_rule() -> None:
    portrait = portrait_of(averages(), LAYOUT, 7)
    assert portrait.tensor == "large"
    before, now = torch.meshgrid(portrait.axis, portrait.axis, indexing="ij")
    torch.testing.assert_close(portrait.heat, -0.1 * (before + now))
    for size, updates in portrait.responses.items():
        assert updates[:20].abs().max() == 0.0
        torch.testing.assert_close(updates[20].item(), -0.1 * size)
        torch.testing.assert_close(updates[21:], torch.full((39,), -0.2 * size))
    assert len(portrait.schedule) == 7
    torch.testing.assert_close(portrait.schedule[0].item(), 0.1, rtol=0.3, atol=0.0)
    torch.testing.assert_close(portrait.schedule[1:].mean().item(), 0.1 * 2**0.5, rtol=0.2, atol=0.0)


def test_what_is_beside_a_probe_has_nothing_to_do_with_it() -> None:
    portrait = portrait_of(averages(Looks), LAYOUT, 2)
    now = portrait.axis.expand_as(portrait.heat)
    assert portrait.heat.std() > 0.1
    assert torch.corrcoef(torch.stack([portrait.heat.flatten(), now.flatten()]))[0, 1].abs() < 0.15


def test_the_schedule_of_an_optimizer_that_knows_the_length_falls_to_zero() -> None:
    schedule = portrait_of(load_optimizer(pretrained_path("general")), LAYOUT, 50).schedule
    assert float(schedule[-1]) < 0.05 * float(schedule[0])


def test_the_figure_has_three_panels() -> None:
    figure = portrait_figure(portrait_of(averages(), LAYOUT, 7), title="mine")
    titles = [axes.get_title(loc="left") for axes in figure.axes[:3]]
    assert titles == ["Update", "Response to a gradient", "Schedule, gradients being noise"]
    assert figure.get_suptitle() == "mine: what it writes in large"
