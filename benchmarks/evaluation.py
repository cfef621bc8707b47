"""Evaluating problems by a trace and as their loss stands, one beside the other: one JSON object per line.

    python benchmarks/evaluation.py

Both sides take one evaluation in turn, at θ_0, each on its own mini-batches. In a line:

    eager_us, traced_us   one evaluation: mini-batch, loss and gradient; medians
    traced_over_eager     of the two
    mini_batch_us         drawing the mini-batch, which is part of both
    tracing_ms            what the first trace takes, checks included
    pays_after            evaluations until a trace has saved what it took
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from functools import partial
from statistics import median

from measuring import Line, prepare
from meta_opt.api import Optimizee
from meta_opt.optimizees import tracing
from meta_opt.optimizees.problems import Problems
from meta_opt_optimizees.digits_mlp import DigitsMlp
from meta_opt_optimizees.mnist_mlp import MnistMlp
from meta_opt_optimizees.quadratic import Quadratic

CASES: dict[str, tuple[Callable[[], Optimizee], int]] = {
    "quadratic": (Quadratic, 128),
    "digits_mlp": (DigitsMlp, 1),
    "digits_mlp, 8 problems": (DigitsMlp, 8),
    "mnist_mlp": (MnistMlp, 1),
}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1, help="threads of both sides")
    parser.add_argument("--repeats", type=int, default=1000, help="evaluations of each side")
    arguments = parser.parse_args()
    prepare(arguments.threads)
    for name, (make, num_problems) in CASES.items():
        print(json.dumps({"name": name, "problems": num_problems} | compare(make, num_problems, arguments.repeats)))


def compare(make: Callable[[], Optimizee], num_problems: int, repeats: int) -> Line:
    """Both sides of one optimizee."""
    traced, eager = (Problems(make(), "train", range(num_problems), seed=0) for _ in range(2))
    eager.trace = False
    start = [seconds(lambda: traced.evaluate(traced.initial_params)) for _ in range(tracing.EAGER_FIRST)]
    checks = [seconds(lambda: traced.evaluate(traced.initial_params)) for _ in range(tracing.CHECKED + 1)]
    tracing_seconds = sum(checks) - len(checks) * median(start)
    pairs = [
        [seconds(partial(problems.evaluate, problems.initial_params)) for problems in (eager, traced)]
        for _ in range(repeats)
    ]
    slow, fast = (median(column) for column in zip(*pairs, strict=True))
    batch = median(seconds(traced.draw_batch) for _ in range(repeats))
    return {
        "eager_us": round(1e6 * slow, 1),
        "traced_us": round(1e6 * fast, 1),
        "traced_over_eager": round(fast / slow, 3),
        "mini_batch_us": round(1e6 * batch, 1),
        "tracing_ms": round(1e3 * tracing_seconds, 1),
        "pays_after": round(tracing_seconds / (slow - fast)) if slow > fast else None,
    }


def seconds(function: Callable[[], object]) -> float:
    """How long a call takes."""
    started = time.perf_counter()
    function()
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
