"""``meta-opt compare``: reads the options, has :mod:`meta_opt.evaluation.compare` compare, and leaves a report."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Literal

from meta_opt import registry
from meta_opt.cli.arithmetic import flush_denormals
from meta_opt.cli.asked import add_checkpoint_arguments, again, asked_optimizer, checkpoints_asked, class_asked
from meta_opt.cli.bar import Bar
from meta_opt.cli.defaults import find_comparison_defaults, set_defaults
from meta_opt.cli.files import with_dotted_paths
from meta_opt.cli.launched import find_launch
from meta_opt.cli.option_errors import check_seed
from meta_opt.cli.parser import Parser, Shown, add_plugin_argument, made_optimizee
from meta_opt.errors import MetaOptError
from meta_opt.evaluation.compare import Comparison, Contestant, compare
from meta_opt.evaluation.devices import device_of
from meta_opt.evaluation.protocol import FEWEST_VALIDATION_PROBLEMS
from meta_opt.evaluation.reports import Report, about, check_place
from meta_opt.evaluation.setting import Setting
from meta_opt.evaluation.standing_in import let_stand_in
from meta_opt.evaluation.validated import validation_of
from meta_opt.memory import bounded
from meta_opt.optimizees.contract import Optimizee
from meta_opt.optimizers.baseline_names import baseline, default_baselines
from meta_opt.saved.precisions import PRECISIONS
from meta_opt.saved.pretrained import pretrained
from meta_opt.saved.recipes import Recipe, load_optimizer, read_recipe
from meta_opt.saved.runs import relative
from meta_opt.storage import expanded


def run(options: list[str]) -> int:
    """Compare; returns the exit status."""
    if (launch := find_launch()) is not None and launch.processes > 1:
        raise MetaOptError(f"compare runs in one process, and {launch.by} has started {launch.processes}")
    flush_denormals()  # as in training, or the same problems would not give the very same losses
    said, options = options, with_dotted_paths(options, "compare")
    paths = checkpoints_asked(options)
    command = f"meta-opt compare {shlex.join(again(said, class_asked(options, 'optimizee')))}"
    recipes = {path: read_recipe(path) for path in paths.values()}
    asked = asked_optimizer(options, recipes.values())
    try:
        config, optimizee = _parse(options, recipes)
    except Shown as end:  # --optimizee.help
        return int(end.code or 0)
    name = registry.name_of(type(optimizee)).rpartition(".")[2]
    baselines = {each: baseline(each) for each in config.baselines}
    out = None if config.out is None else expanded(config.out)
    default = Path("comparisons") / name
    check_place(out, default)

    device = device_of(config.device, "--device")
    dtype, autocast = PRECISIONS[config.precision]
    optimizee.to(device)
    learned = {}
    for label, path in paths.items():
        optimizer = load_optimizer(path, asked)
        learned[label] = Contestant(optimizer.to(device, dtype), validation_of(recipes[path], path, optimizee))
    made = [(learned[label].optimizer, recipes[path].layout) for label, path in paths.items()]
    let_stand_in(config.network_for, optimizee, made, option="--network_for")
    # What is asked for beyond the memory there is, is refused; a GPU's memory is mapped, and would be counted.
    with bounded() if device.type == "cpu" else nullcontext(), Bar() as bar:
        setting = Setting(
            optimizee,
            config.num_steps,
            config.num_problems,
            config.num_validation_problems,
            config.seed_everything,
            device,
            dtype,
            autocast,
            config.held_back,
            config.regret,
            bar,
        )
        comparisons = compare(setting, learned, baselines)
    report = Report(
        name,
        config.num_problems,
        comparisons,
        about(setting),
        {label: _place(path) for label, path in paths.items()},
        command,
        {label: recipes[path].cost for label, path in paths.items()},
    )
    print(report.table())  # first: it is there even where nothing can be written
    print(_legend(comparisons, held_back=setting.held_back))
    print(f"\n{report.time_table()}", flush=True)
    folder = report.save(out, default)
    print(f"\nresults.json, curves.csv and curves.png are in {relative(folder)}")
    print(f"  tensorboard --logdir {shlex.quote(relative(folder))}")
    return 0


def _legend(comparisons: Sequence[Comparison], *, held_back: bool) -> str:
    """What the columns of the table are."""
    baselines = [entry for entry in comparisons[0].entries if entry.kind == "baseline"]
    if all(entry.tuned for entry in baselines):
        rate, best = "the learning rate tuned on validation problems for that figure", "the best baseline"
    elif any(entry.tuned for entry in baselines):
        rate, best = "tuned on validation problems for that figure, or fixed", "the best tuned baseline"
    else:
        rate, best = "fixed, not tuned", "the best baseline, none of them tuned"
    lines = [f"rate: {rate}; ratio: to {best}", "steps: until the loss is as low as the best baseline's final loss"]
    if held_back:
        lines.append(
            "losses: on batches that the optimizee holds back, for tuning too (--held_back false: on the others)"
        )
    return "\n".join(["", *lines])


# ------------------------------------------------------------------------------------------------------------ options


def _place(path: Path) -> str:
    """Where a checkpoint is; of those that come with meta-opt, not where that is installed."""
    return f"pretrained/{path.name}" if path in pretrained().values() else relative(path)


def _parse(options: list[str], recipes: dict[Path, Recipe]) -> tuple[Any, Optimizee]:
    """The options, with their defaults, and the optimizee."""
    defaults = find_comparison_defaults(options, recipes)
    parser = _parser(defaults.classes.get("optimizee"))
    set_defaults(parser, defaults)
    config = parser.parse_args(options)
    if not recipes:
        raise MetaOptError("say what to compare, with --ckpt_path or --pretrained (meta-opt compare --help tells more)")
    optimizee: Optimizee = made_optimizee(parser, config)
    check_seed(config.seed_everything)
    config.baselines = config.baselines or default_baselines(max(config.num_steps))
    for name in ("num_steps", "baselines"):
        config[name] = list(dict.fromkeys(config[name]))
    for name, values, least in (
        ("num_steps", config.num_steps, 1),
        ("num_problems", [config.num_problems], 2),  # or there is no standard error
        ("num_validation_problems", [config.num_validation_problems], 1),
    ):
        if min(values) < least:
            raise MetaOptError(f"--{name} must be at least {least}, not {min(values)}")
    return config, optimizee


def _parser(optimizee: type[Any] | None) -> Parser:
    parser = Parser(prog="meta-opt compare", allow_abbrev=False)
    add_plugin_argument(parser, "optimizee", optimizee)
    add_checkpoint_arguments(parser)
    parser.add_argument("--baselines", type=str, nargs="+", default=None)  # by the number of steps
    parser.add_argument("--num_steps", type=int, nargs="+", default=[100])
    parser.add_argument("--num_problems", type=int, default=100)
    parser.add_argument("--num_validation_problems", type=int, default=FEWEST_VALIDATION_PROBLEMS)
    parser.add_argument("--held_back", type=bool, default=False)
    parser.add_argument("--regret", type=bool, default=False)
    parser.add_argument("--seed_everything", type=int, default=0)
    parser.add_argument("--device", type=str, default="auto")
    parser.add_argument("--precision", type=Literal[tuple(PRECISIONS)], default="32-true")
    parser.add_argument("--network_for", type=dict[str, str], default={})
    parser.add_argument("--out", type=str | None, default=None)
    return parser
