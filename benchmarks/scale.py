"""Meta-training in two processes against one, on the same problems: seconds per episode.

    python benchmarks/scale.py [--optimizee cifar_cnn] [--problems 4] [--episodes 4] [--rounds 3]

Each process has one thread. The runs take turns; of each the first episode, in which things are set up, does not
count. Beside the time it prints the processor time of the first process: on a machine that does other work, the time
of one process is longer than that, and the ratio of processor times is what a quiet machine with a core for each
process could reach at most.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from itertools import pairwise
from typing import Any

WARM_UP = 1


def train(name: str, processes: int, problems: int, episodes: int) -> None:
    """Train, and print wall and processor seconds of each episode that counts."""
    import torch
    from lightning.pytorch import Callback, LightningModule, Trainer

    from meta_opt import registry
    from meta_opt.meta_training.meta_learner import MetaLearner
    from meta_opt.optimizers.coordinatewise_lstm import CoordinatewiseLSTM

    class Clock(Callback):
        def __init__(self) -> None:
            self.times: list[tuple[float, float]] = []

        def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
            self.times.append((time.perf_counter(), time.process_time()))

    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    optimizee = registry.load("optimizee", name)()
    network = CoordinatewiseLSTM(inputs="log_sign+moments")
    model = MetaLearner(
        optimizee, network, num_steps=40, num_problems=problems // processes, episodes_per_epoch=WARM_UP + episodes + 1
    )
    clock = Clock()
    trainer = Trainer(
        accelerator="cpu",
        devices=processes,
        strategy="ddp" if processes > 1 else "auto",
        max_epochs=1,
        limit_val_batches=0,
        callbacks=[clock],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(model)
    if trainer.is_global_zero:
        times = clock.times[WARM_UP:]
        print(json.dumps([[b - a for a, b in zip(*pair, strict=True)] for pair in pairwise(times)]))


def measure(options: argparse.Namespace, processes: int) -> list[list[float]]:
    """Wall and processor seconds of each episode, in a run of its own."""
    flags = [f"--{name}={getattr(options, name)}" for name in ("optimizee", "problems", "episodes")]
    command = [sys.executable, __file__, *flags, f"--processes={processes}"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)  # noqa: S603 this file
    return json.loads(done.stdout.splitlines()[-1])  # type: ignore[no-any-return]


def main() -> None:
    """Print a line for each number of processes, and the ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--optimizee", default="cifar_cnn")
    parser.add_argument("--problems", type=int, default=4, help="problems per episode, of all processes")
    parser.add_argument("--episodes", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--processes", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.processes:
        train(options.optimizee, options.processes, options.problems, options.episodes)
        return
    found: dict[int, list[list[float]]] = {1: [], 2: []}
    for _ in range(options.rounds):
        for processes, episodes in found.items():
            episodes += measure(options, processes)
    print(f"{options.optimizee}, {options.problems} problems; load of the machine {os.getloadavg()[1]:.1f}")
    medians = {n: [statistics.median(each) for each in zip(*times, strict=True)] for n, times in found.items()}
    for processes, (wall, processor) in medians.items():
        print(f"{processes} process(es): {wall:6.2f} s per episode, {processor:6.2f} s of the processor in the first")
    print(
        "ratio: {:.2f} in time, {:.2f} in processor time".format(
            *(a / b for a, b in zip(*medians.values(), strict=True))
        )
    )


if __name__ == "__main__":
    main()
