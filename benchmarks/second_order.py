"""Exact meta-gradients of long unrolls: the graph of all steps at once, against pieces that are made twice.

    python benchmarks/second_order.py --threads 1

One meta-gradient of digits_mlp and the paper's network, each in a process of its own; one JSON object per line:

    steps          T, of the unroll
    steps_at_once  of a piece; null: all
    seconds        of the whole estimate
    peak_mb        of the process, above what it took before
"""

from __future__ import annotations

import argparse
import json
import math
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

from torch import Generator

from measuring import forget_peak, peak_bytes, prepare
from meta_opt.meta_training.estimators.contract import Episode
from meta_opt.meta_training.estimators.second_order import SecondOrder
from meta_opt.meta_training.meta_loss import MetaLoss
from meta_opt.optimizees.problems import Problems, problem_generator
from meta_opt.optimizers.coordinatewise_lstm import CoordinatewiseLSTM
from meta_opt_optimizees.digits_mlp import DigitsMlp


def estimate(num_steps: int, steps_at_once: int | None, threads: int | None) -> tuple[float, int]:
    """Seconds and bytes of one meta-gradient, after one of a single step."""
    prepare(threads)
    optimizee, network = DigitsMlp(), CoordinatewiseLSTM()
    network.build(Problems(optimizee, "train", [0], seed=0).layout, problem_generator(0, "phi"))
    for steps in (1, num_steps):
        forget_peak()
        before, began = peak_bytes(), time.perf_counter()
        problems = Problems(optimizee, "train", [0], seed=0)
        episode = Episode(problems, network, MetaLoss("sum", "constant"), steps, steps, lambda *_: Generator())
        (_,) = SecondOrder(steps_at_once).estimates(episode)
    return time.perf_counter() - began, peak_bytes() - before


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, help="default: all cores")
    parser.add_argument("--num_steps", type=int, nargs="*", default=[50, 200, 1000])
    parser.add_argument("--whole_up_to", type=int, default=200, help="steps whose graph is kept as a whole, too")
    arguments = parser.parse_args()
    for num_steps in arguments.num_steps:
        for steps_at_once in ([None] if num_steps <= arguments.whole_up_to else []) + [math.isqrt(num_steps)]:
            with ProcessPoolExecutor(max_workers=1, mp_context=get_context("spawn")) as pool:
                seconds, peak = pool.submit(estimate, num_steps, steps_at_once, arguments.threads).result()
            line = {"steps": num_steps, "steps_at_once": steps_at_once, "seconds": round(seconds, 2)}
            print(json.dumps(line | {"peak_mb": round(peak / 1e6, 1)}), flush=True)


if __name__ == "__main__":
    main()
