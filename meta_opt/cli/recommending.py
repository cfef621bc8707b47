"""``meta-opt recommend``: short trials on an optimizee, and settings to paste."""

from __future__ import annotations

import json
import shlex
from typing import Any

from meta_opt.cli.arithmetic import flush_denormals
from meta_opt.cli.asked import class_asked
from meta_opt.cli.files import with_dotted_paths
from meta_opt.cli.option_errors import check_seed
from meta_opt.cli.parser import Parser, Shown, add_plugin_argument, parsed
from meta_opt.errors import MetaOptError
from meta_opt.evaluation.trials import Findings, settings_for, suits_whole_gradients, try_out
from meta_opt.optimizees.checking import check_loss
from meta_opt.optimizees.problems import problem_generator


def run(options: list[str]) -> int:
    """Try and print; returns the exit status."""
    flush_denormals()
    said, options = options, with_dotted_paths(options, "recommend")
    chosen = class_asked(options, "optimizee")
    if chosen is None:
        raise MetaOptError("say what to try, with --optimizee (meta-opt recommend --help tells more)")
    parser = _parser(chosen)
    try:
        config, optimizee = parsed(parser, options)
    except Shown as end:
        return int(end.code or 0)
    check_seed(config.seed_everything)
    if config.num_steps < 1:
        raise MetaOptError(f"--num_steps must be at least 1, not {config.num_steps}")
    check_loss(optimizee, problem_generator(config.seed_everything, "check"))
    found = try_out(optimizee, config.num_steps, seed=config.seed_everything, say=print)
    settings = settings_for(found) | _lengths(chosen, config.num_steps)
    print(_described(found))
    if not found.lr_is_best:
        print(
            f"warning: the loss still fell with the last learning rate that was tried, {found.lr:.2g}: it is not the "
            "best, and the settings follow from it"
        )
    if found.final >= found.first:
        print(
            "warning: Adam lowered the loss with no learning rate that was tried: is it scaled as it should be? The "
            "settings are a guess"
        )
    print("\nsettings for fit:")
    texts = {name: value if isinstance(value, str) else json.dumps(value) for name, value in settings.items()}
    parts = [f"--{name} {shlex.quote(text)}" for name, text in texts.items()]
    print("  " + " \\\n    ".join([" ".join(["meta-opt fit", *_of_optimizee(said)]), *parts]))
    print("\nthe same in the optimizee's recommended_settings:")
    print("".join(f"    {name!r}: {value!r},\n" for name, value in settings.items()), end="")
    if suits_whole_gradients(found):
        print(
            "\nits losses have no noise, and it is small: --optimizer subspace_lstm may do better\n"
            "in place of the options that begin with --optimizer., as it has others"
        )
    return 0


def _lengths(optimizee: type[Any], num_steps: int) -> dict[str, Any]:
    """Other lengths of episodes: what the optimizee recommends goes with the number of steps that it recommends."""
    theirs = optimizee.recommended_settings()
    if theirs.get("model.num_steps") == num_steps:
        return {}
    return {name: None for name in ("model.max_num_steps", "model.num_validation_steps") if name in theirs}


def _of_optimizee(options: list[str]) -> list[str]:
    """What was said of the optimizee."""
    kept, keep = [], False
    for option in options:
        if option.startswith("--"):
            name = option.partition("=")[0]
            keep = name == "--optimizee" or name.startswith("--optimizee.")
        if keep:
            kept.append(shlex.quote(option))
    return kept


def _described(found: Findings) -> str:
    parameters = _span([layout.num_coordinates for layout in found.layouts])
    sizes = f"{parameters} parameters in {_span([len(layout.names) for layout in found.layouts])} tensors"
    best = "best at" if found.lr_is_best else "at"
    noise = f"mini-batches, whose gradients vary by {found.noise:.2g} times the square of their mean"
    return (
        f"\n{sizes}; {noise if found.stochastic else 'no mini-batches'}\n"
        f"loss {found.first:.4g} at the start, {found.final:.4g} after {found.num_steps} steps of Adam, {best} "
        f"{found.lr:.2g}\n{1e3 * found.seconds_per_step:.2g} ms a step of Adam on one problem"
    )


def _span(numbers: list[int]) -> str:
    least, most = min(numbers), max(numbers)
    return f"{most:,}" if least == most else f"{least:,} to {most:,}"


def _parser(optimizee: type[Any]) -> Parser:
    parser = Parser(prog="meta-opt recommend", allow_abbrev=False)
    add_plugin_argument(parser, "optimizee", optimizee)
    parser.set_defaults({"optimizee": {"class_path": f"{optimizee.__module__}.{optimizee.__qualname__}"}})
    parser.add_argument("--num_steps", type=int, default=100)
    parser.add_argument("--seed_everything", type=int, default=0)
    return parser
