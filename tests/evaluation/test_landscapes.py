"""Paths over contours."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from meta_opt.errors import MetaOptError
from meta_opt.evaluation.landscapes import _COLORS, check_two_parameters, landscape_figure, panel_of, save_animation
from meta_opt.inner_loop.episodes import run_episodes
from meta_opt.optimizers.baseline_names import adam, baseline
from meta_opt.saved.pretrained import pretrained_path
from meta_opt.saved.recipes import load_optimizer
from meta_opt_optimizees.landscape import Landscape
from meta_opt_optimizees.quadratic import Quadratic


def test_paths_are_those_of_the_comparisons() -> None:
    panel = panel_of("bowl", Landscape("convex_bowl"), {"Adam": adam(0.1)}, 12)
    curves = run_episodes(Landscape("convex_bowl"), adam(0.1), "test", 1, 12, seed=0)
    torch.testing.assert_close(panel.losses["Adam"], curves.losses[:, 0])
    assert panel.paths["Adam"].shape == (13, 2)


def test_optimizers_are_told_how_long_the_run_is_as_in_comparisons() -> None:
    optimizer = load_optimizer(pretrained_path("general"))
    panel = panel_of("bowl", Landscape("convex_bowl"), {"general": optimizer}, 30)
    curves = run_episodes(Landscape("convex_bowl"), optimizer, "test", 1, 30, seed=0)
    torch.testing.assert_close(panel.losses["general"], curves.losses[:, 0])


class Noisy(torch.optim.SGD):
    """SGD that draws from the global generator."""

    def step(self, closure: object = None) -> None:  # type: ignore[override]
        for param in self.param_groups[0]["params"]:
            param.data -= 0.1 * (param.grad + torch.randn_like(param))


def test_paths_are_the_same_again() -> None:
    noisy = baseline(f"{__name__}.Noisy")(0.1)
    first, again, other = (
        panel_of("bowl", Landscape("convex_bowl"), {"Noisy": noisy}, 3, seed=seed).paths["Noisy"] for seed in (0, 0, 1)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first - first[0], other - other[0])


def test_the_grid_is_of_the_same_problem() -> None:
    """The loss on the grid, next to the path's last point, is about the last loss; rows are the second coordinate."""
    panel = panel_of("rosenbrock", Landscape("rosenbrock"), {"Adam": adam(0.1)}, 40)
    first, second = panel.axes
    end = panel.paths["Adam"][-1]
    column, row = (int((axis - value).abs().argmin()) for axis, value in zip((first, second), end, strict=True))
    near = panel.values[row - 1 : row + 2, column - 1 : column + 2]
    assert float(near.min()) <= float(panel.losses["Adam"][-1]) <= float(near.max())
    start = panel.paths["Adam"][0]
    column, row = (int((axis - value).abs().argmin()) for axis, value in zip((first, second), start, strict=True))
    assert float(panel.values[row, column]) == pytest.approx(float(panel.losses["Adam"][0]), rel=0.1)


def test_a_path_that_runs_away_does_not_shrink_the_picture() -> None:
    optimizers = {"Adam": adam(0.1), "SGD": baseline("SGD")(100.0)}
    panel = panel_of("bowl", Landscape("convex_bowl"), optimizers, 10)
    assert float(panel.paths["SGD"].abs().max()) > 100.0
    assert float(panel.axes[0].max()) < 10.0
    assert landscape_figure([panel]).axes[0].get_title(loc="left") == "bowl"


def test_a_long_command_stays_within_the_figure() -> None:
    panel = panel_of("bowl", Landscape("convex_bowl"), {"Adam": adam(0.1)}, 3)
    figure = landscape_figure([panel], caption="meta-opt landscape --ckpt_path " + "folder/" * 3 + " --baselines" * 8)
    figure.draw_without_rendering()
    assert figure._suptitle.get_window_extent().x1 <= figure.bbox.x1  # type: ignore[attr-defined]


def test_figure_has_a_line_for_each_path() -> None:
    panels = [
        panel_of(name, kind, {"Adam": adam(0.1), "slow": adam(0.001)}, 5)
        for name, kind in list(Landscape().panels().items())[:4]
    ]
    figure = landscape_figure(panels, caption="meta-opt landscape")
    shown = [axes for axes in figure.axes if axes.get_visible()]
    assert [axes.get_title(loc="left") for axes in shown] == [
        "convex bowl",
        "elongated bowl",
        "rosenbrock",
        "himmelblau",
    ]
    labels = [line.get_label() for line in shown[0].lines if not str(line.get_label()).startswith("_")]
    assert labels == ["Adam", "slow"]
    (line,) = [line for line in shown[1].lines if line.get_label() == "slow"]
    assert line.get_xydata().tolist() == panels[1].paths["slow"].tolist()


def test_animation_grows_and_repeats(tmp_path: Path) -> None:
    panels = [panel_of("quadratic", Quadratic(2), {"Adam": adam(0.3)}, 20)]
    save_animation(panels, tmp_path / "paths.gif", num_frames=6)
    with Image.open(tmp_path / "paths.gif") as image:
        assert image.n_frames == 7
        assert image.info["loop"] == 0
        first = image.convert("RGB").tobytes()
        image.seek(6)
        assert image.convert("RGB").tobytes() != first


def test_only_two_parameters_can_be_drawn() -> None:
    with pytest.raises(MetaOptError, match="Quadratic has 10 parameters, and only a problem of two can be drawn"):
        check_two_parameters(Quadratic())


def test_a_legend_fits_and_tells_all_apart() -> None:
    names = [f"AdamW:cosine:lr={number}" for number in range(11)]
    panel = panel_of("bowl", Landscape("convex_bowl"), {name: adam(0.1) for name in names}, 3)
    figure = landscape_figure([panel])
    figure.draw_without_rendering()
    (legend,) = figure.legends
    box, width = legend.get_window_extent(), figure.bbox.width
    assert box.x0 >= 0.0
    assert box.x1 <= width
    lines = legend.get_lines()
    assert len({(line.get_color(), line.get_linestyle()) for line in lines}) == len(names)


def test_colors_are_told_apart_without_red_and_green() -> None:
    from matplotlib.colors import to_rgb

    linear = torch.tensor([to_rgb(color) for color in _COLORS]) ** 2.2
    deuteranopia = torch.tensor([[0.367, 0.861, -0.228], [0.280, 0.673, 0.047], [-0.012, 0.043, 0.969]])  # Machado 2009
    xyz = torch.tensor([[0.434, 0.376, 0.190], [0.213, 0.715, 0.072], [0.018, 0.109, 0.873]])  # relative to white
    x, y, z = ((linear @ deuteranopia.T).clamp(0.0, 1.0) @ xyz.T).pow(1 / 3).T
    lab = torch.stack([116.0 * y, 500.0 * (x - y), 200.0 * (y - z)], dim=1)
    assert float(torch.pdist(lab).min()) > 15.0


@pytest.mark.parametrize(
    ("loss", "text"),
    [(0.0, "0.0e+00"), (0.0034, "3.4e-03"), (0.5, "0.50"), (-12.0, "-12.00"), (1.7e30, "1.7e+30"), (math.nan, "nan")],
)
def test_last_losses_are_short(loss: float, text: str) -> None:
    panel = panel_of("bowl", Landscape("convex_bowl"), {"Adam": adam(0.1)}, 3)
    axes = landscape_figure([replace(panel, losses={"Adam": torch.full((4,), loss)})]).axes[0]
    assert [each.get_text() for each in axes.texts] == [text]


@pytest.mark.parametrize("finite", [True, False])
def test_contours_are_of_what_is_finite(finite: bool) -> None:
    panel = panel_of("bowl", Landscape("convex_bowl"), {"Adam": adam(0.1)}, 3)
    values = (
        torch.where(panel.values > panel.values.median(), panel.values, torch.nan)
        if finite
        else panel.values * torch.nan
    )
    axes = landscape_figure([replace(panel, values=values)]).axes[0]
    assert bool(axes.collections) is finite
