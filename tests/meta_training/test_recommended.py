"""Meta-learners from names, with what is recommended."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml
from torch import nn

from meta_opt import MetaLearner, MetaOptError, registry
from meta_opt.meta_training.estimators.first_order import FirstOrder
from meta_opt.meta_training.estimators.second_order import SecondOrder
from meta_opt.meta_training.recommended import recommended
from meta_opt.optimizees.general_settings import GENERAL_SETTINGS
from meta_opt.optimizers.contract import Step
from meta_opt.optimizers.coordinatewise_lstm import CoordinatewiseLSTM
from meta_opt.optimizers.learned_soap import LearnedSOAP
from meta_opt.optimizers.sharing import SharedNetworks
from meta_opt.optimizers.subspace_lstm import SubspaceLSTM
from meta_opt_optimizees.digits_mlp import DigitsMlp
from meta_opt_optimizees.quadratic import Quadratic


@pytest.mark.parametrize("optimizer", ["coordinatewise_lstm", "subspace_lstm", "lstm_gac", "alpha_opt"])
@pytest.mark.parametrize("optimizee", ["digits_mlp", "quadratic"])
def test_names_give_what_the_command_line_gives(optimizee, optimizer, capsys):
    from meta_opt.cli import main

    assert main(["fit", "--optimizee", optimizee, "--optimizer", optimizer, "--print_config"]) == 0
    config = yaml.safe_load(capsys.readouterr().out)
    learner = MetaLearner(optimizee, optimizer)
    settings = {**config["model"], "seed": 0}
    estimator = settings.pop("estimator")
    assert dict(learner.hparams) == settings
    made = learner.optimizer.plain_init_args(registry.name_of)
    assert made == config["optimizer"]["init_args"]
    assert type(learner.estimator).__name__ == estimator["class_path"].rpartition(".")[2]
    assert learner.estimator.init_args == estimator.get("init_args", {})
    assert learner.trainer_settings["max_epochs"] == config["trainer"]["max_epochs"]
    assert learner.trainer_settings["inference_mode"] is False


def test_what_is_given_counts():
    learner = MetaLearner("digits_mlp", num_steps=9, lr=0.5, unroll_length=3)
    assert (learner.hparams.num_steps, learner.hparams.lr, learner.hparams.unroll_length) == (9, 0.5, 3)
    assert learner.hparams.meta_loss == "log_mean"  # recommended
    assert MetaLearner("digits_mlp", "coordinatewise_lstm", 9).num_steps == 9


def test_objects_are_taken_as_they_are():
    learner = MetaLearner(Quadratic(), CoordinatewiseLSTM(inputs="none"))
    assert learner.hparams.num_problems == 1  # the constructor's default; 64 is recommended
    own = SecondOrder()
    learner = MetaLearner("digits_mlp", CoordinatewiseLSTM(hidden_size=3), estimator=own)
    assert learner.optimizer.init_args["inputs"] == CoordinatewiseLSTM().init_args["inputs"]
    assert learner.estimator is own
    learner = MetaLearner(DigitsMlp(hidden_sizes=[3]))
    assert isinstance(learner.optimizer, CoordinatewiseLSTM)
    assert learner.optimizer.init_args["output"] == "magnitude"  # recommended for one that is made here
    assert learner.hparams.meta_loss == "sum"  # and not for settings beside an object
    assert isinstance(MetaLearner(Quadratic(), SubspaceLSTM).optimizer, SubspaceLSTM)


def test_a_class_in_a_file(tmp_path: Path):
    from meta_opt.cli import main

    assert main(["new", "for_python", "--out", str(tmp_path / "x")]) == 0
    learner = MetaLearner(f"{tmp_path}/x/for_python.py:ForPython", num_problems=1)
    assert learner.hparams.unroll_length == 50


def test_names_that_do_not_do():
    with pytest.raises(MetaOptError, match="no optimizee is called 'quadratc'; did you mean 'quadratic'?"):
        MetaLearner("quadratc")
    with pytest.raises(MetaOptError, match="optimizee mixture cannot be made from its name alone .*'parts'"):
        MetaLearner("mixture")


def test_warm_starts_are_for_the_default_optimizer():
    from meta_opt_optimizees.omniglot import Omniglot

    estimator = {"estimator": SecondOrder}
    usual = recommended({"optimizee": Omniglot, "optimizer": CoordinatewiseLSTM, **estimator})
    assert "model.warm_start" in usual
    assert "model.warm_start" not in recommended({"optimizee": Omniglot, "optimizer": SubspaceLSTM, **estimator})


def test_an_optimizee_that_recommends_nothing_gets_what_is_generally_good():
    class Silent(Quadratic):
        @classmethod
        def recommended_settings(cls):
            return {}

    classes = {kind: registry.load(kind, name) for kind, name in (
        ("optimizer", "coordinatewise_lstm"), ("estimator", "first_order"))}  # fmt: skip
    assert recommended({**classes, "optimizee": Silent}) == GENERAL_SETTINGS
    of_gac = recommended({**classes, "optimizee": Silent, "optimizer": registry.load("optimizer", "lstm_gac")})
    assert of_gac["model.unroll_length"] == 50
    assert "optimizer.output_scale" in of_gac
    assert "optimizer.anneal_after" not in of_gac  # which has no such argument
    said = recommended({**classes, "optimizee": Quadratic})
    assert said["optimizer.inputs"] == "none"


def test_the_preset_of_the_paper(capsys):
    from meta_opt.cli import main

    options = ["fit", "--optimizee", "digits_mlp", "--print_config"]
    assert main([*options, "--preset", "paper"]) == 0
    config = yaml.safe_load(capsys.readouterr().out)
    assert config["optimizer"]["init_args"] == CoordinatewiseLSTM().plain_init_args(registry.name_of)
    assert (config["model"]["unroll_length"], config["model"]["meta_loss"]) == (20, "sum")
    assert config["model"]["reference_lr"] == DigitsMlp.recommended_settings()["model.reference_lr"]
    assert main([*options, "--preset", "papers"]) == 2
    assert "--preset must be recommended or paper, not 'papers'" in capsys.readouterr().err


class ForEachKind(SharedNetworks):
    """Coordinate by coordinate, by networks that it finds by where a coordinate is."""

    scope = "coordinate"

    def __init__(self, share="kind"):
        super().__init__()
        self.share = share

    def build(self, layout, generator):
        self.rate = nn.Parameter(torch.tensor(0.1))

    def init_state(self, layout, num_problems):
        return ()

    def step(self, evaluation, state, noise=None):
        return Step(-self.rate * evaluation.grad, state)


class Recommends(Quadratic):
    @classmethod
    def recommended_settings(cls):
        return {"model.estimator.replay_fraction": 0.25}


def test_part_of_the_coordinates_is_recommended_to_those_who_can_replay_it():
    """Not to networks whose default replay would not know which coordinates they are given."""

    classes = {"optimizee": Recommends, "estimator": FirstOrder}
    name = "model.estimator.replay_fraction"
    assert recommended({**classes, "optimizer": CoordinatewiseLSTM})[name] == 0.25
    for optimizer in (ForEachKind, LearnedSOAP, SubspaceLSTM):
        assert recommended({**classes, "optimizer": optimizer}).get(name, 1.0) == 1.0
    assert ForEachKind("all").replays_columns
    with pytest.raises(MetaOptError, match="replay_fraction must be 1 with ForEachKind"):
        FirstOrder(replay_fraction=0.5).check(ForEachKind(), 20)
