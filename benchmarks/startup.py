"""Time from the command to the first meta-update of ``meta-opt fit --optimizee quadratic``, in a fresh process.

    python benchmarks/startup.py

The yardstick is a fresh process that imports torch and lightning.pytorch and ends. The two take turns, after one run
of each that is not counted; both end at once, without tidying up. Prints a JSON line with the medians and their ratio,
and one with the slowest imports until the first meta-update: the ten packages, with all their modules together, and
the ten modules that take longest without what they import in turn.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from statistics import median

# A step of the meta-optimizer is the first step that any torch.optim.Optimizer takes.
FIT = """
import os
from torch.optim.optimizer import register_optimizer_step_post_hook
register_optimizer_step_post_hook(lambda *_: os._exit(0))
from meta_opt.cli import main
main(["fit", "--optimizee", "quadratic"])
os._exit(1)
"""
IMPORTS = "import os, torch, lightning.pytorch; os._exit(0)"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=11, help="processes of each kind")
    arguments = parser.parse_args()
    rounds = [(_seconds(FIT), _seconds(IMPORTS)) for _ in range(1 + arguments.repeats)][1:]
    fit, imports = (median(times) for times in zip(*rounds, strict=True))
    line = {
        "table": "startup",
        "repeats": arguments.repeats,
        "first_meta_update_s": round(fit, 3),
        "torch_and_lightning_s": round(imports, 3),
        "ratio": round(fit / imports, 3),
    }
    print(json.dumps(line), flush=True)
    print(json.dumps({"table": "imports"} | _slowest_imports()), flush=True)


def _seconds(program: str) -> float:
    started = time.perf_counter()
    _run(program)
    return time.perf_counter() - started


def _slowest_imports() -> dict[str, dict[str, float]]:
    modules: Counter[str] = Counter()
    packages: Counter[str] = Counter()
    for own, name in re.findall(r"^import time:\s+(\d+) \|\s+\d+ \|\s+(\S+)$", _run(FIT, "-X", "importtime"), re.M):
        modules[name] += int(own)
        packages[name.split(".")[0]] += int(own)
    return {
        title: {name: round(microseconds / 1e3, 1) for name, microseconds in counter.most_common(10)}
        for title, counter in (("packages_ms", packages), ("modules_ms", modules))
    }


def _run(program: str, *options: str) -> str:
    """Run a program in a fresh process and an empty folder; returns what it wrote to standard error."""
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(  # noqa: S603  a program from this file
            [sys.executable, *options, "-c", program],
            cwd=folder, check=False, capture_output=True, text=True, timeout=300,
        )  # fmt: skip
    if done.returncode:
        sys.exit(done.stderr)
    return done.stderr


if __name__ == "__main__":
    main()
