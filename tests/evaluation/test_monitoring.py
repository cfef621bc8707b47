"""What a run leaves in TensorBoard's event files, read back from them."""

from __future__ import annotations

import io
import math
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Callback
from PIL import Image
from problems_for_tests import Regression
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData
from trainers_for_tests import trainer

from meta_opt.evaluation.figures import loss_figure
from meta_opt.evaluation.monitoring import ValidationCurves
from meta_opt.evaluation.reference import Reference
from meta_opt.inner_loop.episodes import Curves
from meta_opt.meta_training.meta_learner import MetaLearner
from meta_opt.meta_training.run_folder import RunLogger
from meta_opt.optimizers.coordinatewise_lstm import CoordinatewiseLSTM
from meta_opt_optimizees.landscape import Landscape


def events(folder: Path) -> EventAccumulator:
    accumulator = EventAccumulator(str(folder), size_guidance={"images": 0, "histograms": 0})
    accumulator.Reload()
    return accumulator


def shown() -> list[Callback]:
    reference = Reference()
    return [reference, ValidationCurves(reference)]


@pytest.fixture(scope="module")
def log_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    logger = RunLogger(tmp_path_factory.mktemp("logs"), name="regression", default_hp_metric=False)
    module = MetaLearner(
        Regression(),
        CoordinatewiseLSTM(hidden_size=4),
        num_steps=10,
        unroll_length=5,
        episodes_per_epoch=3,
        num_validation_problems=2,
        reference_lr=0.05,
    )
    quiet = trainer(logger=logger, callbacks=shown(), log_every_n_steps=1)
    quiet.fit(module)
    return Path(logger.log_dir)


def test_scalars_of_every_episode_and_validation(log_dir: Path) -> None:
    scalars = events(log_dir)
    of_training = ("meta_loss", "final_loss", "grad_norm", "meta_updates", "seconds", "steps_per_s", "skipped")
    for name in of_training:
        assert len(scalars.Scalars(f"train/{name}")) == 6, name
    for tag in ("val/final_loss", "val/loss_sum", "val/root", "val/hp_final_loss"):
        assert len(scalars.Scalars(tag)) == 2, tag
    assert [event.value for event in scalars.Scalars("val/hp_final_loss")] == pytest.approx(
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


def test_one_run_and_one_axis(log_dir: Path) -> None:
    """All of a fit is one run for TensorBoard, over episodes."""
    assert len([*log_dir.rglob("events.out.tfevents.*")]) == 1
    scalars = events(log_dir)
    for tag in ("val/hp_final_loss", "val/times_adam"):
        assert len(scalars.Scalars(tag)) == 2, tag
    assert [event.step for event in scalars.Scalars("val/hp_final_loss")] == [2, 5]
    assert [event.step for event in scalars.Images("validation")] == [2, 5]
    assert [event.step for event in scalars.Histograms("validation/final_loss")] == [2, 5]
    assert "epoch" not in scalars.Tags()["scalars"]


def test_hyperparameters(log_dir: Path) -> None:
    """What people vary, not all there is."""
    assert "reference_lr: 0.05" in (log_dir / "hparams.yaml").read_text()
    shown = HParamsPluginData.FromString(
        events(log_dir).PluginTagToContent("hparams")["_hparams_/session_start_info"]
    ).session_start_info.hparams
    assert shown["optimizee"].string_value == "Regression"
    assert shown["optimizer.hidden_size"].number_value == 4
    assert shown["model.unroll_length"].number_value == 5
    assert "optimizer.num_layers" not in shown  # the default
    assert "model.reference_lr" not in shown


def test_curves_of_a_checkpoint_that_are_none() -> None:
    with pytest.raises((TypeError, ValueError, RuntimeError)):
        ValidationCurves(Reference()).load_state_dict({"means": {2: torch.zeros(2, 2).to_sparse()}})


def test_the_figure_shows_validations_and_the_reference() -> None:
    losses = torch.logspace(0, -2, 11).unsqueeze(1) * torch.tensor([1.0, 2.0, 3.0])
    means = {episode: losses.mean(1) / episode for episode in range(1, 31)}
    figure = loss_figure(
        means, Curves(2 * losses, {}, torch.zeros(3, dtype=torch.bool)), "Title", "Adam, lr 0.1", shown=10
    )
    (axes,) = figure.axes
    assert axes.get_yscale() == "log"
    assert axes.get_xlabel() == "optimizee step"
    lines = {line.get_label(): line.get_ydata() for line in axes.lines}
    assert list(lines["learned, 30 episodes"]) == pytest.approx(means[30].tolist())
    assert list(lines["learned, 3 episodes"]) == pytest.approx(means[3].tolist())  # the first of those drawn
    assert list(lines["Adam, lr 0.1"]) == pytest.approx((2 * losses).double().mean(1).tolist())
    assert len(axes.lines) == 11
    assert [text.get_text() for text in axes.get_legend().get_texts()] == [
        "learned, 3 episodes", "learned, 30 episodes", "Adam, lr 0.1", "its 10th to 90th percentile"
    ]  # fmt: skip


def test_the_figure_of_losses_that_are_not_positive() -> None:
    figure = loss_figure({5: torch.tensor([1.0, -1.0, math.nan])}, None, "Title", "")
    assert figure.axes[0].get_yscale() == "linear"


def test_paths_where_there_are_two_parameters(tmp_path: Path) -> None:
    logger = RunLogger(tmp_path, name="landscape", default_hp_metric=False)
    module = MetaLearner(
        Landscape("beale"),
        CoordinatewiseLSTM(hidden_size=4),
        num_steps=6,
        unroll_length=6,
        episodes_per_epoch=1,
        num_validation_problems=2,
    )
    quiet = trainer(logger=logger, callbacks=shown(), log_every_n_steps=1)
    quiet.fit(module)
    assert [event.step for event in events(Path(logger.log_dir)).Images("paths")] == [0, 1]
