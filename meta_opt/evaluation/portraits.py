"""What a learned optimizer does with gradients that are made up: a picture that explains it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Generator, Tensor

from meta_opt.optimizees.layout import Layout
from meta_opt.optimizees.problems import Evaluation
from meta_opt.optimizers.contract import OptimizerNetwork

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_SIDE = 21  # points of the grid in each direction
_EXTENT = 3.0  # of the grid, in root mean squares of all gradients
_HISTORY = 20  # steps with one gradient, before another
_QUIET, _LOUD = 20, 40  # steps of zeros, and of a constant, of a step response
_SIZES = (0.1, 1.0, 10.0)
MOST_STEPS = 1000
_APART = 10  # every tenth coordinate is a probe


@dataclass(frozen=True)
class Portrait:
    """Updates that a learned optimizer writes, in the largest tensor of its layout.

    Attributes:
        axis: Values of gradients, [G].
        heat: Update for each gradient (columns) after 20 steps with another (rows), [G, G].
        responses: By size c, updates of a coordinate whose gradient is 0 for 20 steps, then c, [60].
        schedule: Root mean square of all updates at each step, where gradients are noise, [T].
        tensor: Name of the tensor.
    """

    axis: Tensor
    heat: Tensor
    responses: dict[float, Tensor]
    schedule: Tensor
    tensor: str


def portrait_of(optimizer: OptimizerNetwork, layout: Layout, num_steps: int) -> Portrait:
    """Feed a network gradients.

    Those of some coordinates are chosen; all others, and what the network compares them with, are drawn from N(0, 1)
    anew at each step. Losses stay 1 and θ stays 0, for networks that read these.

    Args:
        optimizer: The network, built for ``layout``.
        layout: Whose largest tensor is looked at.
        num_steps: T, steps of the schedule, which optimizers that can are told beforehand.
    """
    axis = torch.linspace(-_EXTENT, _EXTENT, _SIDE)
    before, now = (each.flatten() for each in torch.meshgrid(axis, axis, indexing="ij"))
    histories = torch.cat([before.expand(_HISTORY, -1), now.unsqueeze(0)])
    heat = _updates(optimizer, layout, histories)[-1].view(_SIDE, _SIDE)
    sizes = torch.tensor(_SIZES)
    steps = torch.cat([torch.zeros(_QUIET, len(sizes)), sizes.expand(_LOUD, -1)])
    responses = dict(zip(_SIZES, _updates(optimizer, layout, steps).unbind(1), strict=True))
    return Portrait(axis, heat, responses, _schedule(optimizer, layout, num_steps), _largest(layout)[0])


def _largest(layout: Layout) -> tuple[str, int, int]:
    """Name, first coordinate and size of the largest tensor."""
    index = max(range(len(layout.sizes)), key=layout.sizes.__getitem__)
    return layout.names[index], sum(layout.sizes[:index]), layout.sizes[index]


def _updates(optimizer: OptimizerNetwork, layout: Layout, gradients: Tensor) -> Tensor:
    """Updates of coordinates with chosen gradients, [T, P], spread over tensors and problems so that they are few.

    Which is where is drawn: in the order of their values, they would be a pattern to networks that see the matrix.
    """
    _, start, size = _largest(layout)
    count = gradients.shape[1]
    places = start + torch.arange(0, min(size, count * _APART), _APART)
    order = torch.randperm(count, generator=Generator().manual_seed(2))
    num_problems = -(-count // len(places))
    rows = torch.arange(num_problems).repeat_interleave(len(places))[:count]
    columns = places.repeat(num_problems)[:count]
    state = optimizer.init_state(layout, num_problems)
    generator = Generator().manual_seed(0)
    updates = []
    with torch.no_grad():
        for chosen in gradients[:, order]:
            grad = torch.randn(num_problems, layout.num_coordinates, generator=generator)
            grad[rows, columns] = chosen
            update, state, *_ = optimizer.step(_evaluation(optimizer, grad), state)
            updates.append(update[rows, columns].clone())
    return torch.stack(updates)[:, order.argsort()]


def _schedule(optimizer: OptimizerNetwork, layout: Layout, num_steps: int) -> Tensor:
    state = optimizer.expect(optimizer.init_state(layout, 1), num_steps)
    generator = Generator().manual_seed(1)
    sizes = []
    with torch.no_grad():
        for _ in range(min(num_steps, MOST_STEPS)):
            grad = torch.randn(1, layout.num_coordinates, generator=generator)
            update, state, *_ = optimizer.step(_evaluation(optimizer, grad), state)
            sizes.append(update.square().mean().sqrt())
    return torch.stack(sizes)


def _evaluation(optimizer: OptimizerNetwork, grad: Tensor) -> Evaluation:
    return Evaluation(torch.ones(len(grad)), grad, torch.zeros_like(grad)).only(optimizer.reads)


def portrait_figure(portrait: Portrait, *, title: str) -> Figure:
    """Three panels: update against gradient and mean, response to a step of the gradient, the schedule."""
    from meta_opt.evaluation.pictures import Picture

    figure = Picture(figsize=(12.0, 3.9), dpi=130, layout="constrained")
    heat, response, schedule = figure.subplots(1, 3, width_ratios=(1.0, 1.1, 1.1))
    _draw_heat(heat, portrait)
    for (size, updates), color in zip(portrait.responses.items(), ("#e0a0a0", "#c0392b", "#6d1010"), strict=True):
        response.plot(range(-_QUIET, _LOUD), -updates.numpy(), color=color, linewidth=1.8, label=f"0 → {size:g}")
    response.set_xlabel("steps after the gradient has changed")
    response.set_ylabel("step downhill (negative update)")
    response.set_title("Response to a gradient", loc="left", fontsize="medium")
    response.legend(frameon=False, title="gradient", fontsize="small", title_fontsize="small")
    schedule.plot(range(1, len(portrait.schedule) + 1), portrait.schedule.numpy(), color="#c0392b", linewidth=1.8)
    if bool((portrait.schedule > 0).all()):
        schedule.set_yscale("log")
    schedule.set_xlabel("optimizee step")
    schedule.set_ylabel("root mean square of updates")
    schedule.set_title("Schedule, gradients being noise", loc="left", fontsize="medium")
    for axes in (response, schedule):
        axes.grid(True, color="0.9", linewidth=0.8)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle(f"{title}: what it writes in {portrait.tensor}", x=0.01, ha="left", fontweight="bold")
    return figure


def _draw_heat(axes: Axes, portrait: Portrait) -> None:
    limit = float(portrait.heat.abs().max()) or 1.0
    extent = (-_EXTENT, _EXTENT, -_EXTENT, _EXTENT)
    image = axes.imshow(
        portrait.heat.numpy(), origin="lower", extent=extent, cmap="RdBu_r", vmin=-limit, vmax=limit, aspect="equal"
    )
    axes.set_xlabel("gradient now")
    axes.set_ylabel(f"gradient in the {_HISTORY} steps before")
    axes.set_title("Update", loc="left", fontsize="medium")
    axes.figure.colorbar(image, ax=axes, shrink=0.85)
