import errno
import os

import pytest
import torch
from lightning.pytorch import Trainer
from problems_for_tests import Regression

from meta_opt import MetaLearner
from meta_opt.errors import CheckpointError, MetaOptError, StorageError
from meta_opt.meta_training.loading import load_learner
from meta_opt.optimizers.coordinatewise_lstm import CoordinatewiseLSTM
from meta_opt.saved.checkpoints import AtomicCheckpointIO, export, remove_leftovers
from meta_opt.saved.pretrained import pretrained_path
from meta_opt.saved.recipes import load, load_optimizer, read_recipe


def content(number):
    return {"meta_opt": {"format": 1}, "number": torch.tensor(number)}


def full(*_):
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_failed_save_leaves_the_old_checkpoint(tmp_path, monkeypatch):
    path = tmp_path / "folder" / "last.ckpt"
    io = AtomicCheckpointIO()
    io.save_checkpoint(content(1), path)
    for name in ("fsync", "replace"):
        with monkeypatch.context() as patch:
            patch.setattr(os, name, full)
            with pytest.raises(StorageError, match=r"cannot write .*/last\.ckpt: No space left on device"):
                io.save_checkpoint(content(2), path)
    assert io.load_checkpoint(path)["number"] == 1
    assert [file.name for file in path.parent.iterdir()] == ["last.ckpt"]
    io.save_checkpoint(content(3), path)
    assert io.load_checkpoint(path)["number"] == 3


def test_leftovers_of_a_killed_process_are_removed(tmp_path):
    for name in (".last.ckpt.123.tmp", "last.ckpt", ".mine"):
        (tmp_path / name).write_text("")
    remove_leftovers(tmp_path)
    assert sorted(file.name for file in tmp_path.iterdir()) == [".mine", "last.ckpt"]


def test_code_in_a_checkpoint_is_not_executed(tmp_path):
    path = tmp_path / "last.ckpt"
    torch.save({**content(1), "module": torch.nn.Linear(1, 1)}, path)
    with pytest.raises(CheckpointError, match="is damaged or not a checkpoint"):
        load(path)
    with pytest.raises(CheckpointError, match="is damaged or not a checkpoint"):
        AtomicCheckpointIO().load_checkpoint(path, weights_only=False)


def test_load_learner_makes_the_module_again(meta_opt, tmp_path):
    options = ["--optimizee.dimension", "3", "--model.num_steps", "6", "--model.episodes_per_epoch", "2"]
    few = ["--model.num_problems", "2", "--trainer.max_epochs", "1"]
    status, _, errors = meta_opt("fit", "--optimizee", "quadratic", *options, *few)
    assert status == 0, errors
    path = tmp_path / "checkpoints" / "quadratic" / "run_0" / "best.ckpt"
    module = load_learner(path)
    assert module.optimizee.init_args == {"dimension": 3, "convention": "gaussian", "condition": None}
    assert module.num_steps == 6
    assert module.episode == 2
    curves = module.curves(module.trained, "validation", module.num_validation_problems)
    checkpoint = load(path)
    (best,) = (
        state for key, state in checkpoint["callbacks"].items() if "best_model_score" in state and state["monitor"]
    )
    assert curves.sum.mean().item() == pytest.approx(best["best_model_score"].item(), rel=1e-6)

    optimizer = load_optimizer(path)  # without the optimizee
    assert not optimizer.trained_parameters()
    for name, tensor in optimizer.state_dict().items():
        assert torch.equal(tensor, module.trained.state_dict()[name])


def test_an_export_is_small_and_can_be_tested(meta_opt, tmp_path):
    few = ["--model.num_steps", "4", "--model.episodes_per_epoch", "2", "--trainer.max_epochs", "1"]
    assert (
        meta_opt(
            "fit", "--optimizee", "quadratic", *few, "--model.num_test_problems", "3", "--trainer.precision", "64-true"
        )[0]
        == 0
    )
    path, exported = tmp_path / "checkpoints" / "quadratic" / "run_0" / "best.ckpt", tmp_path / "small.ckpt"
    export(path, exported)
    assert set(load(exported)) == {"meta_opt", "meta_opt_run", "state_dict", "pytorch-lightning_version"}
    assert read_recipe(exported).run == {"trainer.precision": "64-true"}
    tables = [meta_opt("test", "--ckpt_path", each)[1].partition("test/final_loss")[2] for each in (path, exported)]
    assert tables[0] == tables[1] != ""
    status, _, errors = meta_opt("fit", "--ckpt_path", exported)
    assert status == 2
    assert "no run that fit can go on with" in errors


def test_pretrained_names_are_checked():
    with pytest.raises(CheckpointError, match="no pretrained optimizer is called 'nothing_like_it'; there are "):
        pretrained_path("nothing_like_it")


def test_load_learner_takes_installed_names_only(tmp_path):
    part = {"class_path": "os.system", "init_args": {}}
    layout = {"names": ["w"], "shapes": [[1]], "groups": ["all"], "depths": [0.0]}
    model = {"num_steps": 5, "num_validation_problems": 2, "seed": 0}
    recipe = {"format": 1, "optimizee": part, "optimizer": part, "model": model, "layout": layout}
    torch.save({"meta_opt": recipe}, tmp_path / "x.ckpt")
    with pytest.raises(CheckpointError, match="is os.system, not an installed one"):
        load_learner(tmp_path / "x.ckpt")


@pytest.mark.parametrize(
    "edit", [{"optimizee": {"class_path": "os.\x1b[31m", "init_args": {}}}, {"\x1b[31m": torch.zeros(1)}]
)
def test_escape_codes_are_no_part_of_messages(edit, saved, tmp_path):
    content = torch.load(saved, weights_only=True)
    content["meta_opt"].update(edit)
    torch.save(content, tmp_path / "x.ckpt")
    with pytest.raises(CheckpointError, match=r"\[31m") as caught:
        load_learner(tmp_path / "x.ckpt")
    assert "\x1b" not in str(caught.value)


DAMAGE = {
    "not finite": lambda content: [
        value.fill_(torch.nan) for name, value in content["state_dict"].items() if name.startswith("average.module.")
    ],
    "no weights": lambda content: content.pop("state_dict"),
    "weights": lambda content: content.update(state_dict=-1),
    "counters": lambda content: content["state_dict"].update(_extra_state=3),
    "an option too many": lambda content: content["meta_opt"]["model"].update(unheard_of=3),
    "step weights": lambda content: content["meta_opt"]["model"].update(step_weights=-1),
    "a norm": lambda content: content["meta_opt"]["model"].update(clip_norm="a"),
    "a size": lambda content: content["meta_opt"]["optimizer"]["init_args"].update(hidden_size=4000),
}


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    path = tmp_path_factory.mktemp("saved") / "untrained.ckpt"
    learner = MetaLearner(Regression(), CoordinatewiseLSTM(hidden_size=4), num_steps=4)
    trainer = Trainer(logger=False, enable_checkpointing=False, accelerator="cpu", enable_model_summary=False)
    trainer.strategy.connect(learner)
    trainer.save_checkpoint(path)
    return path


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_module_is_refused(damage, saved, tmp_path):
    content = torch.load(saved, weights_only=True)
    DAMAGE[damage](content)
    torch.save(content, tmp_path / "damaged.ckpt")
    with pytest.raises(MetaOptError, match="damaged|does not fit|must be more than 0|must be text"):
        MetaLearner.load_from_checkpoint(tmp_path / "damaged.ckpt", optimizee=Regression)
