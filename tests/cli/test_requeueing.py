"""Under SLURM a run begins anew, and jobs are not requeued unless a plugin of the user's does it."""

from pathlib import Path

import pytest
from lightning.fabric.plugins.environments import LightningEnvironment, SLURMEnvironment
from lightning.pytorch import Trainer

from meta_opt.cli import requeueing
from meta_opt.errors import MetaOptError

FIT = ["fit", "--optimizee", "bowl", "--trainer.enable_progress_bar", "false", "--trainer.max_epochs", "1"]
FIT += ["--trainer.accelerator", "cpu"]


def trainer(*plugins):
    return Trainer(accelerator="cpu", devices=1, logger=False, enable_checkpointing=False, plugins=list(plugins))


def test_a_run_does_not_begin_with_what_another_has_left(slurm, plugins, meta_opt, monkeypatch):
    Path("hpc_ckpt_1.ckpt").touch()
    error = (
        "meta-opt: error: under SLURM Lightning would begin with hpc_ckpt_1.ckpt, which another run has left: move it "
        "away, or go on with it by --ckpt_path\n"
    )
    assert meta_opt(*FIT) == (2, "", error)
    with monkeypatch.context() as patch:
        patch.delenv("SLURM_NTASKS")  # by which Lightning knows SLURM
        assert meta_opt(*FIT)[0] == 0
    status, out, err = meta_opt(*FIT, "--ckpt_path", "last")
    assert (status, err) == (0, "")
    assert "had finished after 3 episodes" in out


def test_a_plugin_of_the_users_requeues(slurm, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("hpc_ckpt_1.ckpt").touch()
    own = SLURMEnvironment()
    requeueing.turn_off(trainer(own), [own], begins=True)
    assert own.auto_requeue
    made = trainer()
    requeueing.turn_off(made, [], begins=False)
    assert not made._accelerator_connector.cluster_environment.auto_requeue
    other = LightningEnvironment()
    with pytest.raises(MetaOptError, match="would begin with hpc_ckpt_1.ckpt"):
        requeueing.turn_off(trainer(other), [other], begins=True)
