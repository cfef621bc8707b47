"""Processes that torchrun starts again."""

import json
import os
import shutil
import signal
from pathlib import Path

import pytest
import torch
from in_processes import FIT, RUN, fit, torchrun, weights

from meta_opt.cli import elastic

AGENT = {"TORCHELASTIC_RUN_ID": "none", "TORCHELASTIC_MAX_RESTARTS": "2", "RANK": "0"}
SAVED = Path("checkpoints/bowl/run_0/last.ckpt")


@pytest.fixture
def launch(monkeypatch, tmp_path):
    """Sets what torchrun tells a process of one node, or of two."""
    monkeypatch.chdir(tmp_path)

    def tell(attempt, nodes=1, **variables):
        values = {**AGENT, "TORCHELASTIC_RESTART_COUNT": attempt, "WORLD_SIZE": 2 * nodes, "LOCAL_WORLD_SIZE": 2}
        for name, value in {**values, **variables}.items():
            monkeypatch.setenv(name, str(value))

    return tell


def save(path=SAVED):
    elastic.ElasticCheckpointIO().save_checkpoint({"a": 1}, path)


def test_a_restarted_launch_goes_on_with_its_own_checkpoint(launch, capsys):
    launch(0)
    save()
    assert elastic.checkpoint_of_launch(Path(), None) is None  # nobody restarted it
    save()
    launch(1)
    assert elastic.checkpoint_of_launch(Path(), None) == SAVED
    assert capsys.readouterr().err == f"restarted: going on from {SAVED}\n"


def test_never_with_that_of_another(launch, monkeypatch, capsys):
    save()  # without torchrun
    launch(1)
    assert elastic.checkpoint_of_launch(Path(), None) is None
    launch(0)
    save()
    another = os.getpid()  # of some process that there is
    monkeypatch.setattr("os.getppid", lambda: another)  # another agent
    launch(1)
    assert elastic.checkpoint_of_launch(Path(), None) is None
    assert capsys.readouterr().err == "restarted: beginning anew\n" * 2
    save()
    assert elastic.checkpoint_of_launch(Path(), None) == SAVED
    monkeypatch.delenv("TORCHELASTIC_RUN_ID")
    save()  # the run goes on without torchrun: what the launch left is no longer there
    launch(1)
    assert elastic.checkpoint_of_launch(Path(), None) is None


def test_on_several_nodes_the_id_of_the_job_tells(launch):
    launch(0, nodes=2, TORCHELASTIC_RUN_ID="job")
    save()
    launch(1, nodes=2, TORCHELASTIC_RUN_ID="job")
    assert elastic.checkpoint_of_launch(Path(), None) == SAVED
    launch(0, nodes=2, TORCHELASTIC_RUN_ID="job")  # a second launch with the same id
    assert elastic.checkpoint_of_launch(Path(), None) is None
    launch(1, nodes=2, TORCHELASTIC_RUN_ID="job")
    assert elastic.checkpoint_of_launch(Path(), None) is None
    launch(0, nodes=2)
    with pytest.raises(elastic.MetaOptError, match="needs an --rdzv-id that no other launch has"):
        elastic.checkpoint_of_launch(Path(), None)


def test_a_run_that_lies_elsewhere(launch, tmp_path):
    launch(0)
    save(tmp_path / "other" / SAVED)
    launch(1)
    assert elastic.checkpoint_of_launch(Path(), None) is None
    given = tmp_path / "other" / SAVED
    assert elastic.checkpoint_of_launch(Path(), str(given.with_name("best.ckpt"))) == given


COMMAND = [*FIT, "--model.num_problems", "2"]


@pytest.fixture(scope="module")
def whole(plugin_folder, tmp_path_factory):
    """The folder of an uninterrupted run of two processes."""
    folder = tmp_path_factory.mktemp("whole")
    assert fit(folder, plugin_folder, *COMMAND, "--trainer.devices", "2")[0] == 0
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_after_a_kill_the_result_is_that_of_an_uninterrupted_run(plugin_folder, whole, tmp_path, rank):
    killed = tmp_path / "killed"
    shutil.copytree(whole, killed)  # an older run
    arguments = {"hook": "episode", "episode": 4, "number": int(signal.SIGKILL), "rank": rank}
    send = json.dumps({"class_path": "sends_signals.SendSignal", "init_args": arguments})
    program = torchrun("--max-restarts", "2")
    status, out, err = fit(killed, plugin_folder, *COMMAND, "--trainer.callbacks+", send, program=program)
    assert status == 0
    assert out.count("finished after 6 episodes") == 1
    assert "; torchrun starts all of them again\n" in err
    run = str(RUN).replace("run_0", "run_1")
    assert f"restarted: going on from {run}/last.ckpt\n" in err
    (killed / RUN).rename(killed / "older")
    (killed / run).rename(killed / RUN)
    torch.testing.assert_close(weights(killed), weights(whole), rtol=0, atol=0, equal_nan=True)
