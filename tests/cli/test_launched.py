"""What torchrun and SLURM have started is used, all of it, or refused."""

import pytest
from in_processes import FIT, fit, torchrun
from lightning.pytorch import Trainer

from meta_opt.cli import launched
from meta_opt.errors import MetaOptError

TORCHRUN = {"TORCHELASTIC_RUN_ID": "none", "WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "2"}
SRUN = {"SLURM_NTASKS": "4", "SLURM_NTASKS_PER_NODE": "2", "SLURM_NNODES": "2", "SLURM_STEP_ID": "0"}
SRUN |= {"SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NODEID": "0", "SLURM_JOB_NAME": "fit", "RANK": "0"}


def tell(monkeypatch, variables):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize("variables", [TORCHRUN, SRUN], ids=["torchrun", "srun"])
def test_what_is_left_open_is_what_was_started(monkeypatch, variables):
    tell(monkeypatch, variables)
    config = {"devices": "auto", "num_nodes": 1}
    launched.join(config)
    assert config == {"devices": 2, "num_nodes": 2}
    config = {"devices": 3, "num_nodes": 5}
    launched.join(config)
    assert config == {"devices": 3, "num_nodes": 5}


def test_without_a_launcher_the_options_stay(monkeypatch):
    config = {"devices": "auto", "num_nodes": 1}
    launched.join(config)
    assert config == {"devices": "auto", "num_nodes": 1}
    with pytest.raises(MetaOptError, match="num_nodes 2 needs processes that were started on every node"):
        launched.join({"num_nodes": 2})
    tell(monkeypatch, {"MASTER_ADDR": "localhost"})  # by hand, on every node
    launched.join({"num_nodes": 2})


@pytest.mark.parametrize("variables", [TORCHRUN, SRUN], ids=["torchrun", "srun"])
@pytest.mark.parametrize(("devices", "nodes", "found"), [(1, 1, "1 on 1 node"), (3, 2, "6 on 2 nodes")])
def test_processes_that_would_train_alone_or_wait(monkeypatch, variables, devices, nodes, found):
    trainer = Trainer(accelerator="cpu", devices=devices, num_nodes=nodes, logger=False, enable_checkpointing=False)
    tell(monkeypatch, variables)
    with pytest.raises(MetaOptError, match=rf" has started 4 processes on 2 nodes, .* ask for {found}; leave"):
        launched.check(trainer)


def test_other_nodes_are_waited_for_with_a_word(monkeypatch, capsys):
    launched.check(Trainer(accelerator="cpu", devices=2, num_nodes=2, logger=False, enable_checkpointing=False))
    assert capsys.readouterr().err == "waiting for all 4 processes on 2 nodes\n"


@pytest.mark.parametrize("strategy", ["ddp_fork", "ddp_spawn"])
def test_processes_that_return_no_run(meta_opt, plugins, strategy):
    options = ["--trainer.accelerator", "cpu", "--trainer.devices", "2", "--trainer.strategy", strategy]
    status, out, err = meta_opt("fit", "--optimizee", "bowl", *options)
    assert (status, out) == (2, "")
    assert err.startswith("meta-opt: error: trainer.strategy must be ddp for several processes")


def test_tasks_that_nobody_started(monkeypatch, meta_opt, plugins):
    tell(monkeypatch, {"SLURM_NTASKS": "4", "SLURM_JOB_NAME": "fit"})
    status, out, err = meta_opt("fit", "--optimizee", "bowl", "--trainer.accelerator", "cpu")
    assert (status, out) == (2, "")
    assert err == (
        "meta-opt: error: SLURM has reserved 4 tasks, and started only this process: start the command with srun, or "
        "with SLURM_JOB_NAME=interactive for one process\n"
    )
    monkeypatch.setenv("SLURM_JOB_NAME", "interactive")
    assert launched.find_launch() is None


@pytest.mark.parametrize("name", ["bash", "interactive"])
def test_tasks_that_would_each_run_alone(monkeypatch, meta_opt, plugins, name):
    tell(monkeypatch, SRUN | {"SLURM_JOB_NAME": name})
    assert launched.find_launch() is None  # the first task, which may be a shell
    monkeypatch.setenv("SLURM_PROCID", "1")
    error = (
        f"meta-opt: error: srun has started 4 tasks in a job named {name}, where each would run alone: start the "
        "command with srun --job-name train\n"
    )
    assert meta_opt("fit", "--optimizee", "bowl", "--trainer.accelerator", "cpu") == (2, "", error)
    monkeypatch.setenv("SLURM_NTASKS", "1")
    assert launched.find_launch() is None


def test_srun_with_other_numbers_is_one_line(monkeypatch, meta_opt, plugins):
    tell(monkeypatch, SRUN)
    status, out, err = meta_opt("fit", "--optimizee", "bowl", "--trainer.accelerator", "cpu", "--trainer.devices", "3")
    assert (status, out) == (2, "")
    assert err.startswith("meta-opt: error: srun has started 4 processes on 2 nodes, and trainer.devices and")
    monkeypatch.setenv("SLURM_NNODES", "many")
    status, out, err = meta_opt("fit", "--optimizee", "bowl", "--trainer.accelerator", "cpu")
    assert (status, out, err) == (2, "", "meta-opt: error: SLURM_NNODES must be a number, not 'many'\n")


def test_a_comparison_is_made_once(monkeypatch, meta_opt):
    tell(monkeypatch, TORCHRUN)
    error = "meta-opt: error: compare runs in one process, and torchrun has started 4\n"
    assert meta_opt("compare", "--ckpt_path", "x.ckpt") == (2, "", error)


@pytest.mark.slow
def test_torchrun_without_devices_trains_once(plugin_folder, tmp_path):
    status, out, _ = fit(tmp_path, plugin_folder, *FIT, program=torchrun())
    assert status == 0
    assert out.count("finished after 6 episodes") == 1
    assert [path.name for path in (tmp_path / "checkpoints/bowl").iterdir()] == ["run_0"]
    status, out, err = fit(tmp_path, plugin_folder, *FIT, "--trainer.devices", "1", program=torchrun())
    assert (status, out) == (1, "")  # of torchrun
    assert "error: torchrun has started 2 processes on 1 node, and trainer.devices and trainer.num_nodes" in err
