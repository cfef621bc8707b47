"""``meta-opt landscape``: runs optimizers on problems with two parameters, and draws where they went."""

from __future__ import annotations

import csv
import shlex
from pathlib import Path
from typing import Any

import torch

from meta_opt import registry
from meta_opt.cli.arithmetic import flush_denormals
from meta_opt.cli.asked import add_checkpoint_arguments, again, asked_optimizer, checkpoints_asked, class_asked
from meta_opt.cli.bar import Bar
from meta_opt.cli.files import with_dotted_paths
from meta_opt.cli.option_errors import check_seed
from meta_opt.cli.parser import Parser, Shown, add_plugin_argument, parsed
from meta_opt.errors import MetaOptError
from meta_opt.evaluation.devices import device_of
from meta_opt.evaluation.landscapes import Panel, check_two_parameters, landscape_figure, panel_of, save_animation
from meta_opt.evaluation.protocol import FEWEST_VALIDATION_PROBLEMS
from meta_opt.evaluation.reports import check_place, new_folder
from meta_opt.evaluation.setting import Setting
from meta_opt.evaluation.tuning import tuned_rates
from meta_opt.optimizees.contract import Optimizee
from meta_opt.optimizers.baseline_names import baseline
from meta_opt.optimizers.contract import InnerOptimizer
from meta_opt.saved.recipes import load_optimizer, read_recipe
from meta_opt.saved.runs import relative
from meta_opt.storage import expanded

_DEFAULT_OPTIMIZEE = "landscape"


def run(options: list[str]) -> int:
    """Draw; returns the exit status."""
    flush_denormals()
    said, options = options, with_dotted_paths(options, "landscape")
    paths = checkpoints_asked(options)
    chosen = class_asked(options, "optimizee") or registry.load("optimizee", _DEFAULT_OPTIMIZEE)
    command = f"meta-opt landscape {shlex.join(again(said, chosen))}".rstrip()
    parser = _parser(chosen)
    try:
        config, optimizee = parsed(parser, options)
    except Shown as end:
        return int(end.code or 0)
    check_seed(config.seed_everything)
    for name, least in (("num_steps", 1), ("problem", 0), ("num_validation_problems", 1)):
        if config[name] < least:
            raise MetaOptError(f"--{name} must be at least {least}, not {config[name]}")
    if not paths and not config.baselines:
        raise MetaOptError("there is nothing to draw: name --ckpt_path, --pretrained or --baselines")
    check_two_parameters(optimizee)
    out = None if config.out is None else expanded(config.out)
    name = registry.name_of(type(optimizee)).rpartition(".")[2]
    default = Path("landscapes") / name
    check_place(out, default)

    device = device_of(config.device, "--device")
    asked = asked_optimizer(options, map(read_recipe, paths.values()))
    learned: dict[str, InnerOptimizer] = {
        label: load_optimizer(path, asked).to(device) for label, path in paths.items()
    }
    panels = _panels(optimizee, learned, config, device)
    folder = new_folder(lambda place: _write(place, panels, command), out, default)
    print(_table(panels))
    print(f"\nlandscape.png, landscape.gif and paths.csv are in {relative(folder)}")
    return 0


def _parser(optimizee: type[Any]) -> Parser:
    parser = Parser(prog="meta-opt landscape", allow_abbrev=False)
    add_plugin_argument(parser, "optimizee", optimizee)
    parser.set_defaults({"optimizee": {"class_path": f"{optimizee.__module__}.{optimizee.__qualname__}"}})
    add_checkpoint_arguments(parser)
    parser.add_argument("--baselines", type=str, nargs="*", default=["Nesterov", "Adam"])
    parser.add_argument("--num_steps", type=int, default=100)
    parser.add_argument("--problem", type=int, default=0)
    parser.add_argument("--num_validation_problems", type=int, default=FEWEST_VALIDATION_PROBLEMS)
    parser.add_argument("--seed_everything", type=int, default=0)
    parser.add_argument("--device", type=str, default="auto")
    parser.add_argument("--out", type=str | None, default=None)
    return parser


def _panels(optimizee: Optimizee, learned: dict[str, InnerOptimizer], config: Any, device: torch.device) -> list[Panel]:
    """A panel for each kind of problem, with baselines tuned on that kind."""
    panels = []
    makers = {each: baseline(each) for each in dict.fromkeys(config.baselines)}
    with Bar() as bar:
        for number, (title, kind) in enumerate(optimizee.panels().items()):
            kind.to(device)
            optimizers = dict(learned)
            seed, steps = config.seed_everything, config.num_steps
            setting = Setting(kind, [steps], 1, config.num_validation_problems, seed, device, progress=bar)
            for name, make in makers.items():
                optimizers[name] = make(tuned_rates(setting, f"{title}: {name}", make)["final", steps], steps)
            index = config.problem * len(optimizee.panels()) + number  # or all would start from the same θ_0
            panels.append(panel_of(title, kind, optimizers, steps, index=index, seed=seed, device=device))
    return panels


def _write(folder: Path, panels: list[Panel], command: str) -> None:
    landscape_figure(panels, caption=command).savefig(folder / "landscape.png")
    save_animation(panels, folder / "landscape.gif", caption=command)
    with (folder / "paths.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["problem", "optimizer", "step", "first", "second", "loss"])
        for panel in panels:
            for name, path in panel.paths.items():
                losses = panel.losses[name].tolist()
                for step, ((first, second), loss) in enumerate(zip(path.tolist(), losses, strict=True)):
                    writer.writerow([panel.title, name, step, first, second, loss])


def _table(panels: list[Panel]) -> str:
    """The last loss of each optimizer on each problem."""
    names = list(panels[0].paths)
    width = max(len(panel.title) for panel in panels)
    columns = [max(len(name), 9) for name in names]
    lines = [
        " " * width + "".join(f"  {name:>{column}}" for name, column in zip(names, columns, strict=True)),
        *(
            f"{panel.title:<{width}}"
            + "".join(f"  {float(panel.losses[n][-1]):>{column}.3g}" for n, column in zip(names, columns, strict=True))
            for panel in panels
        ),
    ]
    return "last loss\n" + "\n".join(lines)
