"""``meta-opt plot``: pictures of what learned optimizers do."""

from __future__ import annotations

from pathlib import Path

from meta_opt.cli.arithmetic import flush_denormals
from meta_opt.cli.asked import asked_optimizer, checkpoints_asked
from meta_opt.cli.files import with_dotted_paths
from meta_opt.cli.parser import Parser, Shown
from meta_opt.errors import MetaOptError
from meta_opt.evaluation.portraits import MOST_STEPS, portrait_figure, portrait_of
from meta_opt.evaluation.reports import check_place, new_folder
from meta_opt.memory import bounded
from meta_opt.saved.recipes import load_optimizer, read_recipe
from meta_opt.saved.runs import relative
from meta_opt.storage import expanded

_DEFAULT = Path("portraits")


def run(options: list[str]) -> int:
    """Draw; returns the exit status."""
    flush_denormals()
    options = with_dotted_paths(options, "plot")
    paths = checkpoints_asked(options)
    try:
        config = _parser().parse_args(options)
    except Shown as end:
        return int(end.code or 0)
    if not paths:
        raise MetaOptError("say what to draw, with --ckpt_path or --pretrained (meta-opt plot --help tells more)")
    if config.num_steps is not None and not 1 <= config.num_steps <= MOST_STEPS:
        raise MetaOptError(f"--num_steps must be from 1 to {MOST_STEPS}, not {config.num_steps}")
    out = None if config.out is None else expanded(config.out)
    check_place(out, _DEFAULT)
    recipes = {path: read_recipe(path) for path in paths.values()}
    asked = asked_optimizer(options, recipes.values())
    figures, coupled = {}, []
    for name, path in paths.items():
        recipe = recipes[path]
        optimizer = load_optimizer(path, asked)
        if optimizer.scope == "problem":
            coupled.append(name)
        steps = config.num_steps or recipe.model.get("num_validation_steps") or recipe.model["num_steps"]
        with bounded():
            portrait = portrait_of(optimizer, recipe.layout, steps)
        figures[name.strip("/").replace("/", "_")] = portrait_figure(portrait, title=name)

    def write(folder: Path) -> None:
        for name, figure in figures.items():
            figure.savefig(folder / f"{name}.png")

    folder = new_folder(write, out, _DEFAULT)
    for name in figures:
        print(relative(folder / f"{name}.png"))
    if coupled:
        print(
            f"note: {', '.join(coupled)} combines the gradients of a whole problem: noise says little of what it does"
        )
    return 0


def _parser() -> Parser:
    parser = Parser(prog="meta-opt plot", allow_abbrev=False)
    parser.add_argument("--optimizer", type=str | None, default=None)
    parser.add_argument("--ckpt_path", type=str, nargs="+")
    parser.add_argument("--pretrained", type=str, nargs="+")
    parser.add_argument("--num_steps", type=int | None, default=None)
    parser.add_argument("--out", type=str | None, default=None)
    return parser
