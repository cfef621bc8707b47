"""What a run leaves in TensorBoard's event files, read back from them."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from PIL import Image
from problems_for_tests import Regression
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from trainers_for_tests import trainer

from meta_opt.evaluation.figures import loss_figure
from meta_opt.evaluation.monitoring import ValidationCurves
from meta_opt.inner_loop.episodes import Curves
from meta_opt.meta_training.meta_learner import MetaLearner
from meta_opt.optimizers.coordinatewise_lstm import CoordinatewiseLSTM
from meta_opt_optimizees.landscape import Landscape


def events(folder: Path) -> EventAccumulator:
    accumulator = EventAccumulator(str(folder), size_guidance={"images": 0})
    accumulator.Reload()
    return accumulator


@pytest.fixture(scope="module")
def log_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    logger = TensorBoardLogger(tmp_path_factory.mktemp("logs"), name="regression", default_hp_metric=False)
    module = MetaLearner(
        Regression(),
        CoordinatewiseLSTM(hidden_size=4),
        num_steps=10,
        unroll_length=5,
        episodes_per_epoch=3,
        num_validation_problems=2,
        reference_lr=0.05,
    )
    quiet = trainer(logger=logger, callbacks=[ValidationCurves()], log_every_n_steps=1)
    quiet.fit(module)
    return Path(logger.log_dir)


def test_scalars_of_every_episode_and_validation(log_dir: Path) -> None:
    scalars = events(log_dir)
    for tag in ("train/meta_loss", "train/final_loss", "train/grad_norm", "train/steps_per_s", "train/skipped"):
        assert len(scalars.Scalars(tag)) == 6, tag
    for tag in ("val/final_loss", "val/loss_sum", "val/root", "hp/final_loss"):
        assert len(scalars.Scalars(tag)) == 2, tag
    assert [event.value for event in scalars.Scalars("hp/final_loss")] == pytest.approx(
        [event.value for event in scalars.Scalars("val/final_loss")]
    )


def test_a_figure_at_every_validation(log_dir: Path) -> None:
    images = events(log_dir).Images("validation")
    assert len(images) == 2
    picture = Image.open(io.BytesIO(images[-1].encoded_image_string))
    assert picture.size == (960, 600)
    colors = picture.convert("RGB").getcolors(maxcolors=1 << 20)
    assert colors is not None
    assert len(colors) > 20


def test_validation_curves_over_optimizee_steps_lie_over_each_other(log_dir: Path) -> None:
    assert sorted(path.name for path in (log_dir / "curves").iterdir()) == ["adam", "episode_00003", "episode_00006"]
    for run in (log_dir / "curves").iterdir():
        curve = events(run).Scalars("validation/loss")
        assert [event.step for event in curve] == list(range(11))
    first = {run.name: events(run).Scalars("validation/loss")[0].value for run in (log_dir / "curves").iterdir()}
    assert len(set(first.values())) == 1  # the same problems from the same θ_0


def test_hyperparameters(log_dir: Path) -> None:
    text = (log_dir / "hparams.yaml").read_text()
    assert "optimizer.hidden_size: 4" in text or "unroll_length: 5" in text
    assert "_hparams_/experiment" in events(log_dir).PluginTagToContent("hparams")


def test_figure_shows_both_curves() -> None:
    losses = torch.logspace(0, -2, 11).unsqueeze(1) * torch.tensor([1.0, 2.0, 3.0])
    figure = loss_figure(
        Curves(losses, {}, False), Curves(2 * losses, {}, False), title="Title", reference_label="Adam, lr 0.1"
    )
    (axes,) = figure.axes
    assert axes.get_yscale() == "log"
    assert axes.get_xlabel() == "optimizee step"
    assert axes.get_ylabel() == "loss"
    lines = {line.get_label(): line.get_ydata() for line in axes.lines}
    assert list(lines["learned optimizer"]) == pytest.approx(losses.double().mean(1).tolist())
    assert list(lines["Adam, lr 0.1"]) == pytest.approx((2 * losses).double().mean(1).tolist())


def test_paths_where_there_are_two_parameters(tmp_path: Path) -> None:
    logger = TensorBoardLogger(tmp_path, name="landscape", default_hp_metric=False)
    module = MetaLearner(
        Landscape("beale"),
        CoordinatewiseLSTM(hidden_size=4),
        num_steps=6,
        unroll_length=6,
        episodes_per_epoch=1,
        num_validation_problems=2,
    )
    quiet = trainer(logger=logger, callbacks=[ValidationCurves()], log_every_n_steps=1)
    quiet.fit(module)
    assert [event.step for event in events(Path(logger.log_dir)).Images("paths")] == [1, 2]
