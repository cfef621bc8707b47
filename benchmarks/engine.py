"""The engine against plain PyTorch: one command per table, one JSON object per line.

    python benchmarks/engine.py quadratic      128 quadratics of dimension 10, T = 20
    python benchmarks/engine.py mnist_mlp      784-20-10, batch 128, T = 20
    python benchmarks/engine.py cnn            three convolutions on CIFAR-shaped images, two learned LSTMs, T = 20
    python benchmarks/engine.py ladder         N = 10^3 ... 10^7 coordinates of a loss that costs nothing, T = 20
    python benchmarks/engine.py horizon        mnist_mlp with T = 5 ... 1000
    python benchmarks/engine.py problems       B = 1 ... 256 quadratics and 1 ... 8 of mnist_mlp
    python benchmarks/engine.py memory         peak memory of mnist_mlp with T = 20 and T = 100
    python benchmarks/engine.py resnet         two meta-steps on 11 million coordinates, T = 20

With --device cuda the sides are torch and plain on a GPU; split_ms are of a meta-step of its own there, which waits for
the GPU after every part, and memory is what the GPU has allocated.

Sides: meta-opt with its native kernel (native), the same with model.estimator.replay_fraction 0.25 (quarter), in
PyTorch (torch), and the reference of plain_pytorch.py (plain).
In every repetition all sides take one meta-step (unroll, meta-gradient, Adam) in turn, each from θ_0; figures are
medians over the repetitions. In a line:

    ms_per_step                of a whole meta-step, per optimizee step
    times_as_fast_as_plain     plain's over ours
    split_ms                   optimizee: loss and gradient; forward: the learned optimizer's step; replay; the rest
    product_gflop_per_s        of a large float32 matrix product, in turn with the sides, on as many threads
    floor_ms                   the learned optimizer's own matrix products (network_flops in measuring.py) at that speed
    network_over_floor         forward and replay over the floor
    optimizee_alone_ms         the reference's loss and its gradient on a fixed mini-batch, and nothing else
    step_over_optimizee_alone  ms_per_step over that
    peak_mb                    memory of two meta-steps above that before them, each side in a fresh process
    recorded_gradients_mb      T·B·N float32
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator

import torch

import workloads
from measuring import Bench, Line, peak_bytes, prepare, side_names
from sides import make_side, wait_for


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", choices=list(TABLES), metavar="TABLE", help=", ".join(TABLES))
    parser.add_argument("--threads", type=int, help="threads of every side; default: all cores")
    parser.add_argument("--repeats", type=int, default=11, help="repetitions at most; fewer where they take minutes")
    parser.add_argument("--memory_limit_gb", type=float, default=12.0, help="leave out sides that would need more")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    arguments = parser.parse_args()
    bench = Bench(prepare(arguments.threads), arguments.repeats, arguments.memory_limit_gb, arguments.device)
    for line in TABLES[arguments.table](bench):
        print(json.dumps({"table": arguments.table} | line), flush=True)


def quadratic(bench: Bench) -> Iterator[Line]:
    """128 quadratics at once."""
    yield bench.measure(workloads.quadratic())


def mnist_mlp(bench: Bench) -> Iterator[Line]:
    """The paper's network on MNIST."""
    yield bench.measure(workloads.mnist_mlp())


def cnn(bench: Bench) -> Iterator[Line]:
    """A network whose own gradient takes most of the time."""
    yield bench.measure(workloads.cnn())


def ladder(bench: Bench) -> Iterator[Line]:
    """Time and memory against N."""
    for exponent in range(3, 8):
        yield bench.measure(workloads.bowl(10**exponent))


def horizon(bench: Bench) -> Iterator[Line]:
    """Time and memory against T."""
    for num_steps in (5, 10, 20, 50, 100, 200, 500, 1000):
        yield bench.measure(workloads.mnist_mlp(num_steps=num_steps))


def problems(bench: Bench) -> Iterator[Line]:
    """Time of B problems over B times that of one."""
    for make, most in ((workloads.quadratic, 256), (workloads.mnist_mlp, 8)):
        one: dict[str, float] = {}
        for exponent in range(most.bit_length()):
            line = bench.measure(make(num_problems=2**exponent))
            ms = line["ms_per_step"]
            one = one or ms
            ratios = {side: round(ms[side] / (line["problems"] * one[side]), 4) for side in ms}
            yield line | {"over_as_many_times_one": ratios}


def memory(bench: Bench) -> Iterator[Line]:
    """Peak memory against T."""
    for num_steps in (20, 100):
        workload = workloads.mnist_mlp(num_steps=num_steps)
        yield bench.describe(workload) | bench.memory(workload)


def resnet(bench: Bench) -> Iterator[Line]:
    """Seconds of two meta-steps in a row, and the memory of the whole process, or of the GPU, by their end."""
    workload = workloads.resnet()
    name = side_names(bench.device)[0]
    side = make_side(name, workload, workload.make(), bench.device)
    side.start()
    for number in (1, 2):
        wait_for(bench.device)
        started = time.perf_counter()
        side.meta_step(workload.num_steps)
        wait_for(bench.device)
        seconds = round(time.perf_counter() - started, 2)
        peak = peak_bytes() if bench.device == "cpu" else torch.cuda.max_memory_allocated()
        yield bench.describe(workload) | {
            "engine": name,
            "meta_step": number,
            "seconds": seconds,
            "peak_gb": round(peak / 1e9, 3),
        }


TABLES = {
    function.__name__: function for function in (quadratic, mnist_mlp, cnn, ladder, horizon, problems, memory, resnet)
}

if __name__ == "__main__":
    main()
