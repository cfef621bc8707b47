"""What options ask for, before a parser can be made: checkpoints, classes, an optimizee."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from meta_opt import registry
from meta_opt.cli.defaults import NEWEST, checkpoint_path
from meta_opt.cli.files import with_dotted_paths
from meta_opt.cli.parser import Parser, add_plugin_argument, parsed
from meta_opt.cli.reading_first import read_first, read_lists
from meta_opt.optimizees.contract import Optimizee
from meta_opt.optimizers.baseline_names import KNOWN
from meta_opt.saved.pretrained import pretrained_path
from meta_opt.saved.recipes import Recipe, check_class
from meta_opt.saved.runs import real_path, relative, short_name


def add_checkpoint_arguments(parser: Parser) -> None:
    """The options that :func:`checkpoints_asked` and :func:`asked_optimizer` read, and a config file for them."""
    parser.add_argument("--optimizer", type=str | None, default=None)  # of checkpoints that may not name it
    parser.add_argument("--config", action="config")
    parser.add_argument("--ckpt_path", type=str, nargs="+")
    parser.add_argument("--pretrained", type=str, nargs="+")


def checkpoints_asked(options: list[str]) -> dict[str, Path]:
    """The checkpoints to compare by the names that they get, which differ from each other and from baselines."""
    said = read_lists(options, "ckpt_path", "pretrained", "baselines", "num_steps")
    trained = [checkpoint_path(text, Path(), class_asked(options, "optimizee")) for text in said["ckpt_path"]]
    paths = {path: short_name(path) for path in trained}
    paths |= {pretrained_path(text): text for text in said["pretrained"]}
    unique = {real_path(path): (path, name) for path, name in paths.items()}  # each file once
    taken = Counter([*(name for _, name in unique.values()), *vars(torch.optim), *KNOWN])
    return {name if taken[name] == 1 else relative(resolved): path for resolved, (path, name) in unique.items()}


def again(options: list[str], optimizee: type[Any] | None) -> list[str]:
    """The options that do the same again: of the newest run its path, and no folder that now exists."""
    again: list[str] = []
    current = ""
    for option in options:
        name, equals, value = option.partition("=")
        if option.startswith("-"):
            current = name
        if current == "--out":
            continue
        if current == "--ckpt_path":
            text = value if equals else option
            path = relative(checkpoint_path(text, Path(), optimizee)) if text in NEWEST else text
            option = f"{name}={path}" if equals else path
        again.append(option)
    return again


def asked_optimizer(options: list[str], recipes: Iterable[Recipe]) -> type[Any] | None:
    """The class of learned optimizer that is asked for, which one of the checkpoints must hold."""
    asked = class_asked(options, "optimizer")
    check_class("--optimizer", asked, recipes)
    return asked


def class_asked(options: list[str], kind: registry.Kind) -> type[Any] | None:
    """The class of optimizees, optimizers or estimators that options name, if they do."""
    text = read_first(options).get(kind)
    return None if text is None else registry.resolve(kind, text)


def optimizee_of(options: list[str]) -> Optimizee:
    """The optimizee that options describe, ``--optimizee`` and its own.

    Raises:
        MetaOptError: If there is no such one, or it takes no such options.
    """
    options = with_dotted_paths(options, "compare")
    parser = Parser(prog="meta-opt", allow_abbrev=False)
    add_plugin_argument(parser, "optimizee", class_asked(options, "optimizee"))
    optimizee: Optimizee = parsed(parser, options)[1]
    return optimizee
