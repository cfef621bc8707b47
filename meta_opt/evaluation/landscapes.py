"""The paths of optimizers over the contours of problems with two parameters."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from meta_opt.errors import MetaOptError
from meta_opt.inner_loop.unroll import begin, unroll
from meta_opt.optimizees.contract import Optimizee, Split
from meta_opt.optimizees.problems import Problems, layout_of
from meta_opt.optimizees.streams import seeded
from meta_opt.optimizers.contract import InnerOptimizer

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_SIDE = 161  # points of the grid along each axis
_LEVELS = 18
_LEAST_HALF = 1.1  # of the side of a picture, in θ
_FARTHEST = 3.0  # what is farther from the start, in lengths of θ_0 or 1, leaves the picture
# Told apart by people who see no difference between red and green, too.
_COLORS = ("#b00020", "#7b1fa2", "#e07b00", "#4aa3ff", "#2a8f4f", "#555555", "#0f9aa0", "#000000")
_DASHES = ("-", (0, (3, 1.5)), (0, (1, 1)))  # of the second eight, and the third
_SWATCH, _LETTER = 0.6, 0.065  # inches of a legend


@dataclass(frozen=True)
class Panel:
    """One problem, and where optimizers went on it.

    Attributes:
        title: Name of the problem.
        paths: θ_0 ... θ_T of each optimizer, by its name, [T + 1, 2], on the CPU.
        losses: f at these, [T + 1] each.
        axes: The values of the first and of the second coordinate that the grid goes through.
        values: f on the grid, [second, first].
    """

    title: str
    paths: Mapping[str, Tensor]
    losses: Mapping[str, Tensor]
    axes: tuple[Tensor, Tensor]
    values: Tensor


def check_two_parameters(optimizee: Optimizee) -> None:
    """See that problems can be drawn.

    Raises:
        MetaOptError: If they do not have two coordinates.
    """
    number = layout_of(optimizee).num_coordinates
    if number != 2:
        raise MetaOptError(
            f"{type(optimizee).__name__} has {number} parameters, and only a problem of two can be drawn: take "
            "--optimizee landscape, or --optimizee quadratic --optimizee.dimension 2"
        )


def panel_of(
    title: str,
    optimizee: Optimizee,
    optimizers: Mapping[str, InnerOptimizer],
    num_steps: int,
    *,
    index: int = 0,
    split: Split = "test",
    seed: int = 0,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Panel:
    """Run optimizers on one problem of an optimizee with two parameters, and evaluate it around their paths.

    Args:
        title: Name of the panel.
        optimizee: Where the problem comes from; its data is expected on ``device``.
        optimizers: By name.
        num_steps: T.
        index: Which problem of the stream.
        split: Which stream.
        seed: The seed of the streams.
        device: Where to compute.
        dtype: Floating-point type of θ.
    """
    paths, losses = {}, {}
    for name, optimizer in optimizers.items():
        problems = Problems(optimizee, split, [index], seed=seed, device=device, dtype=dtype)
        position = begin(problems, optimizer, num_steps=num_steps)
        path, along = [position.evaluation.params[0]], [position.evaluation.loss[0]]
        with seeded(seed, split, index, "optimizer", device=device):
            for _ in range(num_steps):
                position = unroll(problems, optimizer, position, 1).end.detach()
                path.append(position.evaluation.params[0])
                along.append(position.evaluation.loss[0])
        paths[name], losses[name] = torch.stack(path).cpu().float(), torch.stack(along).cpu().float()
    axes = _around(list(paths.values()))
    first, second = torch.meshgrid(*axes, indexing="xy")
    grid = torch.stack([first.flatten(), second.flatten()], dim=1)
    values = problems.losses_around(0, grid.to(problems.initial_params)).cpu().float().view(_SIDE, _SIDE)
    return Panel(title, paths, losses, axes, values)


def _around(paths: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """The axes of a square around the origin that holds the paths, but for what has gone far away."""
    start = paths[0][0]
    points = torch.cat(list(paths))
    near = (points - start).norm(dim=1) <= _FARTHEST * max(float(start.norm()), 1.0)
    half = 1.1 * max(float(points[near].abs().max()), _LEAST_HALF)
    return torch.linspace(-half, half, _SIDE), torch.linspace(-half, half, _SIDE)


def landscape_figure(panels: Sequence[Panel], *, steps: int | None = None, caption: str = "") -> Figure:
    """Contours of each problem, with the paths of all optimizers; one panel a problem.

    Args:
        panels: What was run.
        steps: Show paths up to this step only; all of them if None.
        caption: What stands above, in as many lines as it takes.
    """
    from meta_opt.evaluation.pictures import Picture

    columns = min(3, len(panels))
    rows = -(-len(panels) // columns)
    width = 3.9 * columns + 0.2
    names = list(panels[0].paths)
    in_a_row = max(1, min(len(names), 5, int(width / (_SWATCH + _LETTER * max(map(len, names))))))
    below = 0.45 + 0.25 * -(-len(names) // in_a_row)
    figure = Picture(figsize=(width, 3.9 * rows + below), dpi=110, layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False).flatten()
    for axes, panel in zip(grid, panels, strict=False):
        _draw_contours(axes, panel)
        _draw_paths(axes, panel, steps)
    for axes in grid[len(panels) :]:
        axes.set_visible(False)
    handles, labels = grid[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=in_a_row, frameon=False, fontsize=9)
    if caption:
        lines = textwrap.wrap(caption, int(13 * figure.get_figwidth()))  # letters
        figure.suptitle("\n".join(lines), fontsize=9, color="0.35", x=0.01, ha="left")
    return figure


def save_animation(panels: Sequence[Panel], path: Path, *, caption: str = "", num_frames: int = 60) -> None:
    """Write the paths as they grow, a GIF that runs for ever."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from PIL import Image

    figure = landscape_figure(panels, steps=0, caption=caption)
    figure.set_dpi(75)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    figure.set_layout_engine("none")
    pairs = list(zip(figure.axes, panels, strict=False))
    for axes, _ in pairs:
        for artist in [*axes.lines, *axes.texts]:
            artist.remove()
    canvas.draw()  # contours once; paths are drawn over them
    background = canvas.copy_from_bbox(figure.bbox)
    num_steps = max(len(path) for panel in panels for path in panel.paths.values()) - 1
    # Early steps are the longest: frames are closer there.
    moments = sorted({round(num_steps * (number / num_frames) ** 1.5) for number in range(num_frames + 1)})
    frames = []
    for step in moments:
        canvas.restore_region(background)
        for axes, panel in pairs:
            for artist in _draw_paths(axes, panel, step):
                axes.draw_artist(artist)
                artist.remove()
        frames.append(Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("P", palette=Image.Palette.ADAPTIVE))
    durations = [80] * (len(frames) - 1) + [2500]
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=durations, loop=0)


def _draw_contours(axes: Axes, panel: Panel) -> None:
    values = panel.values.double()
    first, second = (axis.numpy() for axis in panel.axes)
    finite = values[values.isfinite()]
    if len(finite):
        least, largest = float(finite.min()), float(finite.max())
        # Levels at equal distances of a root, closer at the bottom, where paths end.
        shifted = ((values - least) / (largest - least + 1e-30)).clamp(0.0, 1.0) ** 0.3
        axes.contourf(first, second, shifted.numpy(), levels=_LEVELS, cmap="bone", alpha=0.85)
        axes.contour(first, second, shifted.numpy(), levels=_LEVELS, colors="white", linewidths=0.35, alpha=0.6)
        row, column = divmod(int(torch.where(values.isfinite(), values, torch.inf).argmin()), values.shape[1])
        axes.scatter([first[column]], [second[row]], marker="*", s=90, color="white", edgecolor="black", linewidth=0.6)
    axes.set(xlim=(first[0], first[-1]), ylim=(second[0], second[-1]), xticks=[], yticks=[], aspect="equal")
    axes.set_title(panel.title.replace("_", " "), fontsize=11, loc="left")


def _draw_paths(axes: Axes, panel: Panel, steps: int | None) -> list[Any]:
    """Paths up to a step, and where they are then; what was added to the axes."""
    added: list[Any] = []
    for number, (name, path) in enumerate(panel.paths.items()):
        part = path if steps is None else path[: steps + 1]
        color = _COLORS[number % len(_COLORS)]
        order = 4.0 + 0.1 * (len(panel.paths) - number)  # the first on top
        loss = float(panel.losses[name][len(part) - 1])
        added += axes.plot(*part.T.numpy(), color="white", linewidth=2.8, alpha=0.55, zorder=order)
        dashes = _DASHES[number // len(_COLORS) % len(_DASHES)]
        added += axes.plot(*part.T.numpy(), color=color, linestyle=dashes, linewidth=1.5, zorder=order, label=name)
        added += axes.plot(
            *part[-1:].T.numpy(), "o", color=color, markeredgecolor="white", markersize=6, zorder=order + 3
        )
        text = f"{loss:.2f}" if 1e-2 <= abs(loss) < 1e4 else f"{loss:.1e}"
        added.append(
            axes.text(
                0.98, 0.98 - 0.055 * number, text, color=color, transform=axes.transAxes, ha="right", va="top",
                fontsize=7.5, fontweight="bold", zorder=9,
                bbox={"facecolor": "white", "alpha": 0.7, "linewidth": 0, "pad": 0.8},
            )
        )  # fmt: skip
    start = next(iter(panel.paths.values()))[0]
    added += axes.plot(*start.unsqueeze(1).numpy(), "s", color="black", markersize=5, zorder=8)
    return added
