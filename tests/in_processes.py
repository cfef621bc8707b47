"""Runs the command line in processes of its own, as users start them."""

import os
import subprocess
import sys
from pathlib import Path

import torch

HERE = Path(__file__).parent
COMMAND = ["-m", "meta_opt.cli"]
# Two epochs of three episodes of four problems, in float64, where sums of other orders differ little.
FIT = ["fit", "--optimizee", "bowl", "--model.lr_schedule", "cosine", "--model.average_decay", "0.9"]
FIT += ["--model.clip_relative", "2", "--trainer.precision", "64-true", "--trainer.accelerator", "cpu"]
FIT += ["--trainer.enable_progress_bar", "false"]
RUN = Path("checkpoints/bowl/run_0")


def torchrun(*options):
    """What starts two processes of a command."""
    return ["-m", "torch.distributed.run", "--nproc-per-node", "2", *options, *COMMAND]


def start(folder, plugin_folder, arguments, program=COMMAND, **variables):
    """A command in ``folder``, with the test's plugins and callbacks."""
    path = os.pathsep.join([str(plugin_folder), str(HERE)])
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", **variables}
    folder.mkdir(exist_ok=True)
    return subprocess.Popen(
        [sys.executable, *program, *arguments],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process):
    """Exit status, output and errors of a command; every process of it has ended when they are there."""
    out, err = process.communicate(timeout=240)  # until all who hold the pipes have closed them
    return process.returncode, out, err


def fit(folder, plugin_folder, *arguments, **options):
    return finish(start(folder, plugin_folder, arguments, **options))


def weights(folder):
    """φ, its average and the counters, of the last and the best checkpoint."""
    return [
        {**content["state_dict"], "episode": content["state_dict"]["_extra_state"]["episode"]}
        for name in ("last", "best")
        for content in [torch.load(folder / RUN / f"{name}.ckpt", weights_only=True)]
    ]
