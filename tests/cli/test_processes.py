"""Several processes: they learn what one learns, and none outlives another without a word."""

import json
import os
import queue
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from in_processes import FIT, RUN, finish, fit, start, weights

from meta_opt.cli.processes import Companions, Processes

pytestmark = pytest.mark.slow
TWO = ["--trainer.devices", "2"]


def kill(rank, episode=4, hook="episode"):
    """SIGKILL for the process of that rank, before that episode."""
    arguments = {"hook": hook, "episode": episode, "number": int(signal.SIGKILL), "rank": rank}
    return ["--trainer.callbacks+", json.dumps({"class_path": "sends_signals.SendSignal", "init_args": arguments})]


@pytest.fixture(scope="module")
def together(plugin_folder, tmp_path_factory):
    """The folder of a run of two processes with two problems each, that nothing interrupts."""
    folder = tmp_path_factory.mktemp("together")
    status, out, err = fit(folder, plugin_folder, *FIT, *TWO, "--model.num_problems", "2")
    assert (status, err) == (0, "")
    assert out.count("finished after 6 episodes") == 1
    return folder


def test_as_many_problems_give_the_same(plugin_folder, together, tmp_path):
    assert fit(tmp_path, plugin_folder, *FIT, "--trainer.devices", "1", "--model.num_problems", "4")[0] == 0
    torch.testing.assert_close(weights(tmp_path), weights(together), rtol=1e-9, atol=1e-12, equal_nan=True)


@pytest.mark.parametrize("rank", [0, 1])
def test_where_one_is_killed_the_other_says_how_to_go_on(plugin_folder, together, tmp_path, rank):
    command = [*FIT, *TWO, "--model.num_problems", "2"]
    status, out, err = fit(tmp_path, plugin_folder, *command, *kill(rank))
    assert time.time() - os.stat(tmp_path / RUN / "last.ckpt").st_mtime < 10  # which was written an episode before
    assert out == ""
    reason = "the first process has gone" if rank == 0 else "process 1 was ended by SIGKILL"
    assert re.fullmatch(rf"\nmeta-opt: error: {reason}; go on with: meta-opt fit .* --ckpt_path {RUN}/last.ckpt\n", err)
    assert status == (1 if rank == 1 else -signal.SIGKILL)
    status, out, err = fit(tmp_path, plugin_folder, "fit", *TWO, *FIT[-4:], "--ckpt_path", "last")
    assert (status, err) == (0, "")
    torch.testing.assert_close(weights(tmp_path), weights(together), rtol=0, atol=0, equal_nan=True)


def is_second(child):
    """Whether a child is the second process of a fit, and not what a library starts for a moment."""
    try:
        return b"LOCAL_RANK=1" in Path(f"/proc/{child}/environ").read_bytes().split(b"\0")
    except OSError:
        return False


def test_a_process_that_is_killed_before_it_has_joined(plugin_folder, tmp_path):
    process = start(tmp_path, plugin_folder, [*FIT, *TWO])
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    deadline = time.monotonic() + 100
    while not (found := [child for child in children.read_text().split() if is_second(child)]):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    os.kill(int(found[0]), signal.SIGKILL)
    killed = time.monotonic()
    status, out, err = finish(process)
    assert time.monotonic() - killed < 40  # the other imports meanwhile; joining would wait for minutes
    assert (status, out) == (1, "")
    expected = "process 1 was ended by SIGKILL; begin anew: no checkpoint was saved"
    assert err == f"\nmeta-opt: error: {expected}\n"


def test_the_first_says_that_another_was_interrupted_alone(monkeypatch, capfd):
    processes, ended = Processes(), queue.Queue()
    monkeypatch.setattr(os, "_exit", ended.put)
    processes.sockets[1], other = socket.socketpair()
    with processes.sockets[1]:
        with other, subprocess.Popen([sys.executable, "-c", "raise SystemExit(130)"]) as processes.children[1]:
            Companions(processes, lambda: "begin anew")
        assert ended.get(timeout=30) == 128 + signal.SIGINT
    assert capfd.readouterr().err == "\nmeta-opt: error: process 1 was stopped by SIGINT; begin anew\n"


@pytest.mark.parametrize(("said", "word"), [(True, b"\1"), (False, b"")])
def test_what_the_first_is_to_say_is_left_to_it(said, word):
    processes = Processes()
    companions = Companions(processes, lambda: "begin anew")
    processes.sockets[0], first = socket.socketpair()
    with first:
        with processes.sockets[0]:
            assert not companions.leave(failed=True, said=said)
        assert first.recv(2) == word


def test_an_error_of_all_is_said_once(plugin_folder, tmp_path):
    options = ["--model.lr_schedule", "cosine", "--trainer.max_epochs", "-1"]
    status, out, err = fit(tmp_path, plugin_folder, *FIT, *TWO, *options)
    assert (status, out) == (2, "")
    assert err == "meta-opt: error: model.lr_schedule cosine needs a length: set trainer.max_epochs\n"


@pytest.mark.parametrize(("rank", "episode", "hook", "stopped"), [(0, 4, "episode", 5), (1, 3, "epoch_end", 3)])
def test_a_signal_to_one_stops_all(plugin_folder, together, tmp_path, rank, episode, hook, stopped):
    send = kill(rank, episode, hook)[1].replace(f": {int(signal.SIGKILL)},", f": {int(signal.SIGTERM)},")
    command = [*FIT, *TWO, "--model.num_problems", "2", "--trainer.callbacks+", send]
    status, out, err = fit(tmp_path, plugin_folder, *command)
    assert status == 128 + signal.SIGTERM
    assert f"stopped after {stopped} episodes" in out
    said = "SIGTERM: stopping after this episode; once more to stop at once"
    assert err.strip() == (said if rank == 0 else "")
    assert fit(tmp_path, plugin_folder, "fit", *TWO, *FIT[-4:], "--ckpt_path", "last")[0] == 0
    torch.testing.assert_close(weights(tmp_path), weights(together), rtol=0, atol=0, equal_nan=True)
