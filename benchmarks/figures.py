"""Time and memory against the number of coordinates N and the length T of the unroll, drawn from engine.py's results.

python benchmarks/engine.py ladder > results.jsonl
python benchmarks/engine.py horizon >> results.jsonl
python benchmarks/figures.py results.jsonl engine.png
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

from matplotlib import pyplot
from matplotlib.axes import Axes

# Told apart without colour: by dash, marker and grey.
_SIDES: dict[str, dict[str, Any]] = {
    "plain": {"label": "plain PyTorch", "color": "0.55", "linestyle": "--", "marker": "s"},
    "torch": {"label": "meta-opt, in PyTorch", "color": "0.35", "linestyle": "-.", "marker": "^"},
    "native": {"label": "meta-opt, native", "color": "0.0", "linestyle": "-", "marker": "o"},
}
_BOUND: dict[str, Any] = {"color": "0.7", "linestyle": ":", "linewidth": 1.5}


def main() -> None:
    """Read, draw, save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path, help="output of engine.py ladder, horizon or both, one behind the other")
    parser.add_argument("out", type=Path, help="image to write")
    arguments = parser.parse_args()
    lines = [json.loads(text) for text in arguments.results.read_text().splitlines() if text.strip()]
    rows = {
        "ladder": ("coordinates", "coordinates N (T = 20)"),
        "horizon": ("steps", "unroll length T (N = 15,910)"),
    }
    rows = {table: row for table, row in rows.items() if any(line["table"] == table for line in lines)}
    if not rows:
        parser.error(f"{arguments.results} has no line of the tables ladder and horizon")
    figure, axes = pyplot.subplots(len(rows), 2, figsize=(9, 3.6 * len(rows)), squeeze=False, layout="constrained")
    for (table, (size, label)), (time_axes, memory_axes) in zip(rows.items(), axes, strict=True):
        chosen = sorted((line for line in lines if line["table"] == table), key=lambda line: line[size])
        _draw(time_axes, chosen, size, "ms_per_step", "floor_ms", "matrix products alone")
        _draw(memory_axes, chosen, size, "peak_mb", "recorded_gradients_mb", "recorded gradients alone")
        time_axes.set(xlabel=label, ylabel="ms per optimizee step")
        memory_axes.set(xlabel=label, ylabel="peak memory, MB")
    for axis in axes[0]:
        axis.legend(frameon=False)
    figure.savefig(arguments.out, dpi=150)


def _draw(axes: Axes, lines: list[dict[str, Any]], size: str, what: str, bound: str, bound_label: str) -> None:
    axes.plot([line[size] for line in lines], [line[bound] for line in lines], label=bound_label, **_BOUND)
    for side, style in _SIDES.items():
        points = [(line[size], line[what][side]) for line in lines if side in line[what]]
        if points:
            axes.plot(*zip(*points, strict=True), **style)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.grid(visible=True, which="major", color="0.9")


if __name__ == "__main__":
    main()
