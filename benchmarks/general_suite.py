"""`general`, untuned, against what people use, tuned and scheduled, on tasks that it was not meta-trained on.

    META_OPT_DATA_DIR=... python benchmarks/general_suite.py --num_steps 300 --seeds 3 --folder general_suite

A user's own loop in plain PyTorch. Baselines are AdamW, SGD with Nesterov momentum 0.9, and Muon (matrices; Adam for
the rest), each with the best of five learning rates on the first seed (those at the ends only where the best of the
is next to them), all under a half cosine over the steps; untuned are AdamW at 0.001 with the same cosine, and a rule
of thumb: orthogonalized momentum at spectral norm 0.06 √max(1, rows/columns), Adam at 0.009 for the rest, under the
cosine. The base step is the optimizer's own with networks that say nothing. The final loss is the mean of the last
tenth of the mini-batch losses, at most 50. Ratios are geometric means over seeds.

    python benchmarks/general_suite.py --robust 100 --num_steps 100

draws task, seed, θ_0 scale (1/2 to 2, of matrices) and batch size (4 to 256) at random, and counts runs that diverge:
whose loss on a thousand examples ends above where it began, or is not finite. ``--optimizers "Muon 0.03" "rule of
thumb"`` counts those of others, at these rates. Results in the folder are not computed again. With --validation, other
tasks (``validation_tasks``, no data needed), so that choices need no look at these; with --unusual, those of
``unusual_tasks``, whose parameters are no weights of layers or have far to go.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from general_tasks import TASKS, Task
from meta_opt import LearnedOptimizer
from meta_opt.saved.recipes import pretrained_path
from unusual_tasks import UNUSUAL_TASKS
from validation_tasks import VALIDATION_TASKS

Make = Callable[[list[nn.Parameter], int], tuple[torch.optim.Optimizer, bool]]  # with: whether it wants the cosine
RATES = {
    "AdamW": (3e-4, 1e-3, 3e-3, 1e-2, 3e-2),
    "Nesterov": (1e-2, 3e-2, 1e-1, 3e-1, 1.0),
    "Muon": (1e-3, 3e-3, 1e-2, 3e-2, 1e-1),
}
UNTUNED = "AdamW 0.001", "rule of thumb"


class Orthogonal(torch.optim.Optimizer):
    """Muon (Jordan et al. 2024) in float32 for matrices, Adam for the rest."""

    def __init__(self, params: Iterable[nn.Parameter], lr: float, adam: float, filters: bool, spectral: bool) -> None:
        """Choose.

        Args:
            params: What to train.
            lr: Of matrices.
            adam: Learning rate of the rest.
            filters: Whether filters are matrices too, with a row for each output channel.
            spectral: Whether an update has a spectral norm of lr √max(1, r/c), or as torch.optim.Muon with
                match_rms_adamw entries of 0.2 lr.
        """
        super().__init__(params, {"lr": lr, "part": 1.0})
        rest = [p for p in self._all() if not self._is_matrix(p, filters)]
        self.matrices = [p for p in self._all() if self._is_matrix(p, filters)]
        self.spectral, self.lr = spectral, lr
        self.adam = torch.optim.Adam(rest, lr=adam) if rest else None

    def _all(self) -> list[nn.Parameter]:
        return [p for group in self.param_groups for p in group["params"]]

    @staticmethod
    def _is_matrix(p: Tensor, filters: bool) -> bool:
        return p.ndim == 2 or (filters and p.ndim > 2)

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One step."""
        part = self.param_groups[0]["lr"] / self.lr if self.lr else 0.0
        if self.adam is not None:
            for group in self.adam.param_groups:
                group["lr"] = group.setdefault("first", group["lr"]) * part
            self.adam.step()
        for p in self.matrices:
            if p.grad is None:
                continue
            momentum = self.state[p].setdefault("momentum", torch.zeros_like(p))
            momentum.lerp_(p.grad, 0.05)
            x = p.grad.lerp(momentum, 0.95).flatten(1)
            rows, columns = x.shape
            x = x.T if rows > columns else x
            x = x / (x.norm() + 1e-12)
            for _ in range(5):
                gram = x @ x.T
                x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
            x = x.T if rows > columns else x
            size = math.sqrt(max(1.0, rows / columns)) if self.spectral else 0.2 * math.sqrt(max(rows, columns))
            p.sub_(self.param_groups[0]["lr"] * size * x.view_as(p))


def makers(pretrained: str, base: Path) -> dict[str, Make]:
    """What makes the optimizers, by name."""

    def tuned(name: str, rate: float) -> Make:
        kinds: dict[str, Callable[[list[nn.Parameter]], torch.optim.Optimizer]] = {
            "AdamW": lambda params: torch.optim.AdamW(params, lr=rate),
            "Nesterov": lambda params: torch.optim.SGD(params, lr=rate, momentum=0.9, nesterov=True),
            "Muon": lambda params: Orthogonal(params, rate, rate, filters=False, spectral=False),
        }
        return lambda params, num_steps: (kinds[name](params), True)

    return {
        pretrained: lambda params, num_steps: (
            LearnedOptimizer(params, **_source(pretrained), num_steps=num_steps),
            False,
        ),
        "base step": lambda params, num_steps: (LearnedOptimizer(params, checkpoint=base, num_steps=num_steps), False),
        "AdamW 0.001": lambda params, num_steps: (torch.optim.AdamW(params, lr=1e-3), True),
        "rule of thumb": lambda params, num_steps: (
            Orthogonal(params, 0.06, 0.009, filters=False, spectral=True),
            True,
        ),
        **{f"{name} {rate:g}": tuned(name, rate) for name, rates in RATES.items() for rate in rates},
    }


def _source(pretrained: str) -> dict[str, Any]:
    return {"checkpoint": pretrained} if pretrained.endswith(".ckpt") else {"pretrained": pretrained}


def base_step(pretrained: str, folder: Path) -> Path:
    """The checkpoint of the same optimizer whose networks say nothing."""
    path = Path(pretrained) if pretrained.endswith(".ckpt") else pretrained_path(pretrained)
    checkpoint = torch.load(path, weights_only=True)
    for name, tensor in checkpoint["state_dict"].items():
        if "output_weight" in name or "output_bias" in name:
            tensor.zero_()
    torch.save(checkpoint, folder / "base.ckpt")
    return folder / "base.ckpt"


def train(
    task: Task, make: Make, num_steps: int, seed: int, theta_scale: float = 1.0, batch_size: int | None = None
) -> dict[str, float]:
    """Train a network; what came of it.

    Mini-batch losses at last and on average, the loss on a thousand of the examples before and after, and the accuracy
    on test examples if there are any, and classes.
    """
    (inputs, targets), test = task.data()
    torch.manual_seed(seed)
    module = task.module()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.mul_(theta_scale if parameter.ndim > 1 else 1.0)
    optimizer, scheduled = make(list(module.parameters()), num_steps)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, num_steps) if scheduled else None

    def on_many() -> float:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):  # what a network draws changes nothing afterwards
            return task.criterion(module(inputs[:1000]), targets[:1000]).item()

    before, losses = on_many(), []
    for _ in range(num_steps):
        drawn = torch.randint(len(inputs), (batch_size or task.batch_size,))
        loss = task.criterion(module(inputs[drawn]), targets[drawn])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if schedule is not None:
            schedule.step()
        losses.append(loss.item())
    found = {
        "final": sum(losses[-min(50, num_steps // 10) :]) / min(50, num_steps // 10),
        "mean": sum(losses) / num_steps,
        "before": before,
    }
    if test is not None and not targets.is_floating_point():
        module.eval()
        with torch.no_grad():
            found["accuracy"] = (module(test[0][:2000]).argmax(1) == test[1][:2000]).float().mean().item()
        module.train()
    return {**found, "after": on_many()}


class Results:
    """What is known, in a file."""

    def __init__(self, path: Path) -> None:
        """Read what there is."""
        self.path = path
        self.known: dict[str, dict[str, float]] = json.loads(path.read_text()) if path.exists() else {}

    def get(self, key: str, compute: Callable[[], dict[str, float]]) -> dict[str, float]:
        """The result of this name; computed and written if it is not there."""
        if key not in self.known:
            self.known[key] = compute()
            self.path.write_text(json.dumps(self.known, indent=0))
        return self.known[key]


def lowest(names: list[str], value: Callable[[str], float]) -> str:
    """The best of five in order: the middle three, and what is beyond the best of them if that is at an edge."""

    def at(index: int) -> float:
        found = value(names[index])
        return found if math.isfinite(found) else math.inf

    best = min((1, 2, 3), key=at)
    beyond = {1: 0, 3: 4}.get(best, best)
    return names[min((best, beyond), key=at)]


def compare(
    results: Results, made: dict[str, Make], ours: str, tasks: dict[str, Task], num_steps: int, seeds: int, least: float
) -> None:
    """Print the tables; final losses that are smaller than ``least`` count as that."""

    def run(name: str, optimizer: str, seed: int) -> dict[str, float]:
        key = f"{name}/{optimizer}/{num_steps}/{seed}"
        return results.get(key, lambda: train(tasks[name], made[optimizer], num_steps, seed))

    def value(name: str, optimizer: str, figure: str) -> float:
        """Geometric mean over seeds."""
        found = [run(name, optimizer, seed)[figure] for seed in range(seeds)]
        if not all(math.isfinite(each) for each in found):
            return math.inf
        return math.exp(sum(math.log(max(each, least)) for each in found) / seeds)

    rows: list[dict[str, float]] = []
    print(f"\n{num_steps} steps, {seeds} seeds\n")
    columns = "final / best tuned", "mean / best tuned", "base step", "final / rule of thumb", "/ AdamW 0.001"
    print("| task |", " | ".join(columns), "| accuracy, ours and best |")
    print("| --- " * 7 + "|")
    for name in tasks:
        best = {}
        for figure in ("final", "mean"):
            chosen = []
            for kind, rates in RATES.items():
                at = [f"{kind} {rate:g}" for rate in rates]
                chosen.append(lowest(at, lambda optimizer: run(name, optimizer, 0)[figure]))  # noqa: B023 called at once
            best[figure] = min(chosen, key=lambda optimizer: value(name, optimizer, figure))
        row = {
            "final": value(name, ours, "final") / value(name, best["final"], "final"),
            "mean": value(name, ours, "mean") / value(name, best["mean"], "mean"),
            "base": value(name, "base step", "final") / value(name, best["final"], "final"),
            "rule": value(name, ours, "final") / value(name, "rule of thumb", "final"),
            "adamw": value(name, ours, "final") / value(name, "AdamW 0.001", "final"),
        }
        rows.append(row)
        accuracy = ""
        if "accuracy" in run(name, ours, 0):
            pair = (sum(run(name, o, s)["accuracy"] for s in range(seeds)) / seeds for o in (ours, best["final"]))
            accuracy = ", ".join(f"{each:.3f}" for each in pair)
        print(
            f"| {name} ({best['final']}) | " + " | ".join(f"{each:.2f}" for each in row.values()) + f" | {accuracy} |",
            flush=True,
        )
    means = [math.exp(sum(math.log(row[column]) for row in rows) / len(rows)) for column in rows[0]]
    print("| geometric mean | " + " | ".join(f"{each:.3f}" for each in means) + " | |")
    print("| worst | " + " | ".join(f"{max(row[column] for row in rows):.2f}" for column in rows[0]) + " | |")


def robust(
    results: Results, made: dict[str, Make], optimizer: str, tasks: dict[str, Task], draws: int, num_steps: int
) -> None:
    """Count the divergences of an optimizer."""
    diverged = []
    for number in range(draws):
        draw = random.Random(number)  # noqa: S311 nothing to keep secret
        name, seed = draw.choice([*tasks]), draw.randrange(1000)
        theta_scale, batch_size = 2 ** draw.uniform(-1, 1), round(2 ** draw.uniform(2, 8))
        key = f"robust/{name}/{optimizer}/{num_steps}/{number}"
        found = results.get(
            key,
            lambda: train(tasks[name], made[optimizer], num_steps, seed, theta_scale, batch_size),  # noqa: B023
        )
        if not found["after"] < found["before"] or not math.isfinite(found["mean"]):
            diverged.append(f"{name}, θ_0 x {theta_scale:.2f}, batches of {batch_size}: {found}")
    print(
        f"\n{optimizer}: {len(diverged)} of {draws} runs of {num_steps} steps diverged", *diverged, sep="\n", flush=True
    )


def main() -> None:
    """Run what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pretrained", default="general", help="name, or path of a checkpoint")
    parser.add_argument("--num_steps", type=int, nargs="+", default=[300, 2000])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--validation", action="store_true", help="tasks to choose by, instead of those to judge by")
    parser.add_argument("--unusual", action="store_true", help="tasks of another sort, see unusual_tasks")
    parser.add_argument("--least", type=float, default=1e-12, help="what smaller losses count as: as good as zero")
    parser.add_argument("--tasks", nargs="+", choices=[*TASKS, *VALIDATION_TASKS, *UNUSUAL_TASKS], help="only these")
    parser.add_argument("--robust", type=int, default=0, metavar="DRAWS", help="count divergences instead")
    parser.add_argument("--optimizers", nargs="+", help="of which divergences are counted, instead of the pretrained")
    parser.add_argument("--folder", type=Path, help="of results, which are not computed again")
    options = parser.parse_args()
    tasks = VALIDATION_TASKS if options.validation else UNUSUAL_TASKS if options.unusual else TASKS
    if options.tasks:
        tasks = {name: (TASKS | VALIDATION_TASKS | UNUSUAL_TASKS)[name] for name in options.tasks}
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        folder.mkdir(exist_ok=True, parents=True)
        made = makers(options.pretrained, base_step(options.pretrained, Path(temporary)))
        if unknown := [name for name in options.optimizers or () if name not in made]:
            parser.error(f"there is no optimizer {unknown[0]!r}, but {', '.join(made)}")
        results = Results(folder / "results.json")
        for num_steps in options.num_steps:
            if options.robust:
                for optimizer in options.optimizers or [options.pretrained]:
                    robust(results, made, optimizer, tasks, options.robust, num_steps)
            else:
                compare(results, made, options.pretrained, tasks, num_steps, options.seeds, options.least)


if __name__ == "__main__":
    main()
