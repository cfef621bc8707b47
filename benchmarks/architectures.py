"""What a step of each learned optimizer costs: forward, replay, and peak memory of a meta-step.

    python benchmarks/architectures.py
    python benchmarks/architectures.py --workloads quadratic --repeats 5

On 128 quadratics, the MLP on MNIST (on random images without META_OPT_DATA_DIR) and a small CNN. Forward is a step of a
rollout, the optimizee left out; replay is that of 20 recorded steps, per step. All architectures take turns in one
process, and figures are medians; memory is that of a fresh process for each, above what it took before. "lstm, torch"
is the coordinatewise LSTM in PyTorch, which the others are measured by; "lstm" is in native code where that can be had.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from functools import partial
from statistics import median

import torch

import workloads
from measuring import forget_peak, in_fresh_process, peak_bytes, prepare
from meta_opt.optimizees.layout import Layout
from meta_opt.optimizees.problems import Evaluation, layout_of, problem_generator
from meta_opt.optimizers.contract import OptimizerNetwork
from meta_opt.optimizers.coordinatewise_lstm import CoordinatewiseLSTM
from meta_opt.optimizers.hierarchical_rnn import HierarchicalRNN
from meta_opt.optimizers.lstm_gac import LSTMGAC
from meta_opt.optimizers.ntm_bfgs import NTMBFGS
from meta_opt.optimizers.subspace_lstm import SubspaceLSTM

NUM_STEPS = 20
LSTM = partial(CoordinatewiseLSTM, inputs="log_sign+moments", output="magnitude", base_step=0.01)
ARCHITECTURES: dict[str, Callable[[], OptimizerNetwork]] = {
    "lstm": LSTM,
    "lstm, torch": partial(LSTM, engine="torch"),
    "lstm_gac": LSTMGAC,
    "subspace_lstm": SubspaceLSTM,
    "hierarchical_rnn": HierarchicalRNN,
    "ntm_bfgs": NTMBFGS,
    "ntm_bfgs, rank 10": partial(NTMBFGS, rank=10),
}
WORKLOADS = {"quadratic": workloads.quadratic, "mnist_mlp": workloads.mnist_mlp, "cnn": workloads.cnn}


class Case:
    """One learned optimizer on gradients that are drawn at random."""

    def __init__(self, name: str, layout: Layout, num_problems: int) -> None:
        """Make weights and gradients.

        Raises:
            MetaOptError: If there are too many coordinates for it.
        """
        generator = problem_generator(0, "phi")
        self._network = ARCHITECTURES[name]()
        self._network.build(layout, generator)
        shape = (num_problems, layout.num_coordinates)
        grads = [torch.randn(shape, generator=generator) for _ in range(NUM_STEPS)]
        self._evaluations, self._coefficients = [Evaluation.of(grad=grad) for grad in grads], grads
        self._start = self._network.init_state(layout, num_problems)

    def forward(self) -> None:
        """A rollout."""
        with torch.no_grad():
            rollout = self._network.rollout(self._start)
            for evaluation in self._evaluations:
                rollout.step(evaluation)

    def replay(self) -> None:
        """The replay of as many steps."""
        self._network.replay(self._evaluations, self._start, self._coefficients)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workloads", nargs="+", choices=WORKLOADS, default=[*WORKLOADS])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    prepare(arguments.threads)
    for workload in arguments.workloads:
        measure(workload, arguments.repeats, arguments.threads)


def measure(workload: str, repeats: int, threads: int) -> None:
    """Print a table of one workload."""
    chosen = WORKLOADS[workload]()
    layout = layout_of(chosen.make())
    print(f"{workload}: {chosen.num_problems} × {layout.num_coordinates} coordinates, {threads} threads")
    print(f"{'':20}{'forward':>12}{'replay':>12}{'of lstm, torch':>18}{'memory':>10}")
    names = [name for name in ARCHITECTURES if name != "ntm_bfgs" or layout.num_coordinates <= 2000]
    cases = {name: Case(name, layout, chosen.num_problems) for name in names}
    seconds: dict[tuple[str, str], list[float]] = {}
    for _ in range(repeats + 1):
        for name, case in cases.items():
            for part in (case.forward, case.replay):
                began = time.perf_counter()
                part()
                seconds.setdefault((name, part.__name__), []).append(time.perf_counter() - began)
    ms = {key: median(values[1:]) * 1e3 / NUM_STEPS for key, values in seconds.items()}
    for name in names:
        forward, replay = ms[name, "forward"], ms[name, "replay"]
        ratios = f"{forward / ms['lstm, torch', 'forward']:.2f}, {replay / ms['lstm, torch', 'replay']:.2f}"
        memory = in_fresh_process(peak_memory, name, layout, chosen.num_problems, threads) / 2**20
        print(f"{name:20}{forward:9.3g} ms{replay:9.3g} ms{ratios:>18}{memory:7.4g} MB", flush=True)


def peak_memory(name: str, layout: Layout, num_problems: int, threads: int) -> int:
    """Bytes that a rollout and a replay take above the recorded gradients."""
    prepare(threads)
    Case(name, Layout.of({"theta": torch.zeros(2)}), 1).replay()  # loads what is loaded on first use
    case = Case(name, layout, num_problems)
    forget_peak()
    before = peak_bytes()
    case.forward()
    case.replay()
    return peak_bytes() - before


if __name__ == "__main__":
    main()
