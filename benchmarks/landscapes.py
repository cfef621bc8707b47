"""How far does an optimizer get on each landscape, against baselines that are tuned for that landscape alone?

    python benchmarks/landscapes.py --pretrained alpha_opt

As `meta-opt compare --optimizee landscape --optimizee.name NAME`, for every name: mean final losses over test problems,
whose turns, stretches and starts meta-training never had. Where the best baseline is below 1e-7, which in single
precision is as good as solved, an optimizer that is below that too counts as level.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

from meta_opt.evaluation.compare import Contestant, compare
from meta_opt.evaluation.setting import Setting
from meta_opt.optimizers.baseline_names import BASELINES
from meta_opt.saved.pretrained import pretrained
from meta_opt.saved.recipes import load_optimizer
from meta_opt_optimizees.landscape import LANDSCAPES, Landscape

SOLVED = 1e-7


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ckpt_path", type=Path, nargs="*", default=[])
    parser.add_argument("--pretrained", nargs="*", default=[])
    parser.add_argument("--num_steps", type=int, default=100)
    parser.add_argument("--num_problems", type=int, default=100)
    parser.add_argument("--num_validation_problems", type=int, default=60)
    parser.add_argument("--names", nargs="+", choices=list(LANDSCAPES), default=list(LANDSCAPES))
    arguments = parser.parse_args()
    learned = {str(path): Contestant(load_optimizer(path)) for path in arguments.ckpt_path}
    learned |= {name: Contestant(load_optimizer(pretrained()[name])) for name in arguments.pretrained}
    columns = [column for name in learned for column in (name, "ratio")]
    print(f"| landscape | best baseline | its final loss | {' | '.join(columns)} |\n|{' --- |' * (3 + len(columns))}")
    for name in arguments.names:
        setting = Setting(
            Landscape(name), [arguments.num_steps], arguments.num_problems, arguments.num_validation_problems
        )
        (comparison,) = compare(setting, learned, BASELINES)
        finals = {entry.name: entry.runs["final"].merits["final"].value for entry in comparison.entries}
        best = min(BASELINES, key=lambda each: finals[each] if math.isfinite(finals[each]) else math.inf)
        cells = [
            f"{finals[each]:.3g} | {max(finals[each], SOLVED) / max(finals[best], SOLVED):.2f}" for each in learned
        ]
        print(f"| {name} | {best} | {finals[best]:.3g} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
