"""How a workload is measured: times interleaved in one process, peak memory in a fresh process for every side."""

from __future__ import annotations

import ctypes
import gc
import multiprocessing
import resource
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from statistics import median
from typing import Any

import torch

from meta_opt.optimizees.problems import layout_of
from meta_opt.optimizees.tracing import EAGER_FIRST
from meta_opt.optimizers.lstm import native
from sides import PARTS, MetaOptSide, PlainSide, Side, make_side, wait_for
from workloads import Workload

Line = dict[str, Any]
Seconds = dict[str, float]

_MATRIX = 2048  # rows and columns of the product that the machine's peak is read from
_NUM_FIRST = EAGER_FIRST + 100  # evaluations, after which those that can be are traced
_WARM_UP = 5.0  # seconds of that at most
_LONG = 300.0  # seconds after which no more repetitions of one workload are begun


def prepare(threads: int | None) -> int:
    """Set up PyTorch as ``meta-opt`` does, before there are threads; returns their number (default: one per core)."""
    torch.set_flush_denormal(True)
    if threads is not None:
        torch.set_num_threads(threads)
    return torch.get_num_threads()


def side_names(device: str = "cpu") -> list[str]:
    """Native code that replays all or a quarter of the coordinates, if it can be built here; PyTorch; the reference."""
    return [*(["native", "quarter"] if device == "cpu" and native.available() else []), "torch", "plain"]


class Bench:
    """Measures workloads, from the smallest to the largest: what would not fit into memory is left out."""

    def __init__(self, threads: int, repeats: int, memory_limit_gb: float, device: str = "cpu") -> None:
        """Choose how.

        Args:
            threads: Threads of every side.
            repeats: Repetitions that medians are taken over.
            memory_limit_gb: How much memory a side may take.
            device: Where all sides compute.
        """
        self._threads, self._repeats, self._limit, self.device = threads, repeats, memory_limit_gb * 1e9, device
        self._last: dict[str, tuple[int, float]] = {}  # size and bytes of the last workload of each side

    def measure(self, workload: Workload) -> Line:
        """Everything about one workload."""
        line = self.describe(workload)
        memory = self.memory(workload)
        rounds = self._times(workload, list(memory["peak_mb"]))
        return line | _figures(workload, line, rounds) | memory

    def memory(self, workload: Workload) -> Line:
        """Peak memory of every side in two meta-steps, above what it took before them.

        A side is left out if its last peak, scaled to the number of recorded gradients, is above the limit.
        """
        layout = layout_of(workload.make())
        size = workload.num_problems * layout.num_coordinates * workload.num_steps
        peaks: dict[str, float] = {}
        skipped: dict[str, str] = {}
        for side in side_names(self.device):
            last_size, last_peak = self._last.get(side, (size, 0.0))
            if (expected := last_peak * size / last_size) > self._limit:
                skipped[side] = f"would take about {expected / 1e9:.3g} GB"
                continue
            try:
                if self.device == "cpu":
                    peaks[side] = in_fresh_process(_peak_memory, workload, side, self._threads)
                else:
                    peaks[side] = _peak_on_gpu(workload, side, self.device)
            except BrokenProcessPool:
                skipped[side] = "was killed, probably for its memory"
                self._last[side] = (size, float("inf"))
                continue
            self._last[side] = (size, peaks[side])
        line: Line = {
            "peak_mb": {side: round(peak / 1e6, 2) for side, peak in peaks.items()},
            "recorded_gradients_mb": round(size * 4 / 1e6, 3),
        }
        if plain := peaks.get("plain"):
            line["memory_of_plain_over"] = {s: _short(plain / peak) for s, peak in peaks.items() if s != "plain"}
        return line | ({"skipped": skipped} if skipped else {})

    def describe(self, workload: Workload) -> Line:
        """What is measured, and on how many threads."""
        return {
            "workload": workload.name,
            "data": workload.data,
            "problems": workload.num_problems,
            "coordinates": layout_of(workload.make()).num_coordinates,
            "steps": workload.num_steps,
            "threads": self._threads,
            "device": self.device if self.device == "cpu" else torch.cuda.get_device_name(),
        }

    def _times(self, workload: Workload, names: list[str]) -> list[dict[str, Seconds]]:
        """Of every repetition: seconds of a matrix product, of the optimizee alone, and of every side's meta-step."""
        optimizee = workload.make()
        device = self.device
        matrix = torch.rand(_MATRIX, _MATRIX, device=device)
        tasks: dict[str, Callable[[], Seconds]] = {
            "product": lambda: {"whole": _seconds(lambda: matrix @ matrix, device)},
            "alone": _alone(PlainSide(workload, optimizee, device=device), workload.num_steps, device),
        }
        for name in names:
            tasks[name] = _meta_step(make_side(name, workload, optimizee, device), workload.num_steps, device)
        began = time.perf_counter()
        for _ in range(-(-_NUM_FIRST // workload.num_steps)):  # as meta-training is after its first few episodes
            if names and time.perf_counter() - began < _WARM_UP:
                tasks[names[0]]()
        began = time.perf_counter()
        rounds = []
        while len(rounds) <= self._repeats and time.perf_counter() - began < _LONG:
            rounds.append({name: task() for name, task in tasks.items()})
        return rounds[1:] or rounds  # the first warms up, unless it was long enough for that not to matter


def network_flops(num_inputs: int, hidden_size: int, num_layers: int, num_coordinates: int, num_problems: int) -> int:
    """Floating-point operations of the learned optimizer per step of meta-training, in its matrix products alone.

    Per coordinate, layer l multiplies a [4H, F_l + H] matrix with a vector, where F_1 = F and F_l = H above, and the
    output layer a [1, H] matrix: M = Σ_l 4H (F_l + H) + H multiplications, 2M operations. A step goes forward in the
    rollout (2M) and again in the replay (2M), and backward in the replay: 2M for the gradient of the weights, and 2M
    for that of what was read, less the 4H F of the lowest layer, whose inputs are held constant:

        2M + 2M + 2M + 2 (M - 4H F) = 8 (M - H F)    for each of B·N coordinates

    Not counted: 5H sigmoids and hyperbolic tangents per layer forward, and all other work on single numbers.
    """
    widths = [num_inputs] + [hidden_size] * (num_layers - 1)
    products = sum(4 * hidden_size * (width + hidden_size) for width in widths) + hidden_size
    return num_problems * num_coordinates * 8 * (products - hidden_size * num_inputs)


def peak_bytes() -> int:
    """The most memory this process has held, or has since :func:`forget_peak`."""
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def forget_peak() -> None:
    """Give freed memory back, and let the peak be what is held now, where the system can do so (Linux)."""
    gc.collect()
    if sys.platform == "linux":
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")


def _peak_memory(workload: Workload, name: str, threads: int) -> int:
    """Bytes above the start of an episode, in two meta-steps (the state is zero before the first only)."""
    prepare(threads)
    side = make_side(name, workload, workload.make())
    side.start()
    side.meta_step(1)  # loads what is loaded on first use
    side.start()
    forget_peak()
    before = peak_bytes()
    for _ in range(2):
        side.meta_step(workload.num_steps)
    return peak_bytes() - before


def _peak_on_gpu(workload: Workload, name: str, device: str) -> int:
    """The same of what a GPU has allocated."""
    side = make_side(name, workload, workload.make(), device)
    side.start()
    side.meta_step(1)
    side.start()
    gc.collect()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    for _ in range(2):
        side.meta_step(workload.num_steps)
    return torch.cuda.max_memory_allocated() - before


def in_fresh_process(function: Callable[..., int], *arguments: object) -> int:
    """What the function returns in a process of its own, whose peak memory is nobody else's."""
    with ProcessPoolExecutor(max_workers=1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def _meta_step(side: Side, num_steps: int, device: str) -> Callable[[], Seconds]:
    def task() -> Seconds:
        side.start()
        whole = _seconds(lambda: side.meta_step(num_steps), device)
        if device != "cpu" and isinstance(side, MetaOptSide):  # waiting for the parts would make the whole slower
            side.split = True
            side.start()
            _seconds(lambda: side.meta_step(num_steps), device)
            side.split = False
        parts = dict(side.seconds)
        return {"whole": whole} | parts | ({"rest": whole - sum(parts.values())} if parts else {})

    if device != "cpu" and isinstance(side, MetaOptSide):
        side.split = False
    return task


def _alone(side: PlainSide, num_steps: int, device: str) -> Callable[[], Seconds]:
    def task() -> Seconds:
        step = side.optimizee_step()
        return {"whole": _seconds(lambda: [step() for _ in range(num_steps)], device)}

    return task


def _seconds(function: Callable[[], object], device: str) -> float:
    wait_for(device)
    started = time.perf_counter()
    function()
    wait_for(device)
    return time.perf_counter() - started


def _figures(workload: Workload, line: Line, rounds: list[dict[str, Seconds]]) -> Line:
    """The medians of all repetitions as milliseconds per optimizee step, and their ratios."""

    def ms(task: str, part: str = "whole") -> float:
        return median(each[task][part] for each in rounds) * 1e3 / line["steps"]

    sides = [name for name in rounds[0] if name not in ("product", "alone")]
    ours = [name for name in sides if name != "plain"]
    flops = network_flops(2 if workload.preprocess else 1, 20, 2, line["coordinates"], line["problems"])
    peak = 2 * _MATRIX**3 / median(each["product"]["whole"] for each in rounds)
    floor = flops / peak * 1e3
    alone = ms("alone")
    result: Line = {
        "repeats": len(rounds),
        "ms_per_step": {side: _short(ms(side)) for side in sides},
    }
    if "plain" in sides:
        result["times_as_fast_as_plain"] = {side: _short(ms("plain") / ms(side)) for side in ours}
    network = {side: ms(side, "forward") + ms(side, "replay") for side in ours}
    return result | {
        "split_ms": {side: {part: _short(ms(side, part)) for part in (*PARTS, "rest")} for side in ours},
        "product_gflop_per_s": _short(peak / 1e9),
        "network_mflop_per_step": _short(flops / 1e6),
        "floor_ms": _short(floor),
        "network_over_floor": {side: _short(network[side] / floor) for side in ours},
        "optimizee_alone_ms": _short(alone),
        "step_over_optimizee_alone": {side: _short(ms(side) / alone) for side in sides},
    }


def _short(value: float) -> float:
    return float(f"{value:.4g}")
