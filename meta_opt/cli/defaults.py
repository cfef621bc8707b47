"""The defaults of a command: what the user says overrides them, in whatever way it is said.

From the lowest to the highest: defaults of the classes, the settings that the optimizee recommends, those that the
learned optimizer recommends in a new run, the checkpoint's settings; above them config files and options. Which
defaults these are hangs on a few options (``--optimizee``, ``--ckpt_path``), which are therefore read before the
others.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

from meta_opt import registry
from meta_opt.cli.reading_first import read_first
from meta_opt.errors import CheckpointError, MetaOptError, shown
from meta_opt.evaluation.protocol import FEWEST_VALIDATION_PROBLEMS
from meta_opt.messages import clipped
from meta_opt.meta_training.recommended import (
    DEFAULT_OPTIMIZER,
    Preset,
    argument_names,
    part_of_option,
    recommended,
    recommended_estimator,
)
from meta_opt.registry import Kind
from meta_opt.saved.precisions import precision_in
from meta_opt.saved.recipes import Part, Recipe, load_optimizer, make, read_recipe
from meta_opt.saved.runs import Run, relative
from meta_opt.saved.vouched import unvouched
from meta_opt.storage import expanded

NEWEST = ("last", "best")  # as --ckpt_path: of the run that saved last

# What a checkpoint keeps of its run, so that resuming goes on in the same way. Nothing that names a file or a class.
# The types are what it may hold there: the parser lets defaults pass that are text or null.
RESUMED_SETTINGS: dict[str, Any] = {
    "trainer.max_epochs": int | None,
    "trainer.min_epochs": int | None,
    "trainer.max_steps": int | None,
    "trainer.min_steps": int | None,
    "trainer.precision": int | str | None,
    "trainer.limit_train_batches": int | float | None,
    "trainer.limit_val_batches": int | float | None,
    "trainer.check_val_every_n_epoch": int | None,
    "trainer.val_check_interval": int | float | str | None,
    "early_stopping.patience": int,
    "early_stopping.min_delta": int | float,
    "early_stopping.stopping_threshold": int | float | None,
    "early_stopping.divergence_threshold": int | float | None,
    "preset": str,
}
# What has been done when a run goes on. Another value of it would be written down and change nothing.
OF_THE_BEGINNING = ("preset", "model.warm_start", "model.pretraining", "model.pretraining_rate")


@dataclass
class Defaults:
    """What is known before the options are parsed.

    Attributes:
        classes: The optimizee's and the optimizer's class, where there is one.
        options: Default by option name; those of ``optimizee`` and ``optimizer`` are class path and arguments.
        checkpoint: The checkpoint to load.
        root: Folder that holds ``checkpoints`` and ``logs``.
    """

    root: Path
    classes: dict[Kind, type[Any]] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)
    checkpoint: Path | None = None


def find_defaults(command: str, arguments: list[str]) -> Defaults:
    """The defaults for ``command`` with ``arguments``.

    Raises:
        RegistryError: If a class cannot be had.
        CheckpointError: If the checkpoint is missing, damaged or foreign, or does not suit the command.
    """
    said = read_first(arguments)
    defaults = Defaults(expanded(said.get("trainer.default_root_dir") or "."))
    asked: dict[Kind, type[Any]] = {
        kind: registry.resolve(kind, text)
        for kind in registry.KINDS
        if (text := said.get(registry.OPTIONS[kind])) is not None
    }
    text = said.get("ckpt_path")
    from meta_opt.cli.elastic import checkpoint_of_launch  # which imports Lightning

    if command == "fit" and (written := checkpoint_of_launch(defaults.root, text)) is not None:
        text = str(written)
    if text is not None:
        path = checkpoint_path(text, defaults.root, asked.get("optimizee"))
        _use_checkpoint(command, defaults, asked, path, read_recipe(path))
        if command != "fit" and said.get("model.num_steps") is not None:  # which num_validation_steps would go before
            defaults.options["model.num_validation_steps"] = None
    else:
        if "optimizee" in asked:
            _use_class(defaults, "optimizee", asked["optimizee"], {})
        _use_class(defaults, "optimizer", asked.get("optimizer") or registry.load("optimizer", DEFAULT_OPTIMIZER), {})
        estimator = recommended_estimator(defaults.classes["optimizer"])
        _use_class(defaults, "estimator", asked.get("estimator") or registry.load("estimator", estimator), {})
        preset = said.get("preset") or "recommended"
        if preset not in get_args(Preset):
            raise MetaOptError(f"--preset must be {' or '.join(get_args(Preset))}, not {shown(preset)}")
        _recommend(defaults, new=True, preset=preset)  # type: ignore[arg-type]  # as has been seen
    return defaults


def checkpoint_path(text: str, root: Path, optimizee: type[Any] | None) -> Path:
    """The file that ``--ckpt_path`` means: a path, or that of the newest run (on the optimizee, if one is asked for).

    Raises:
        CheckpointError: If there is no run, or the newest has no such checkpoint.
    """
    if not text or "\0" in text:  # no path has one, and most of what is done with paths fails at it
        raise CheckpointError(f"there is no checkpoint {text!r}")
    if text not in NEWEST:
        return Path(text)
    run = Run.newest(root, registry.name_of(optimizee) if optimizee else None)
    path = run.checkpoints / f"{text}.ckpt"
    if not path.is_file():
        there = [relative(other) for name in NEWEST if (other := run.checkpoints / f"{name}.ckpt").is_file()]
        raise CheckpointError(
            f"the newest run, {relative(run.checkpoints)}, has no {text}.ckpt"
            + (f", only {there[0]}" if there else ": it has saved nothing")
            + "; give the path of a checkpoint as --ckpt_path"
        )
    return path


def find_comparison_defaults(arguments: list[str], recipes: dict[Path, Recipe]) -> Defaults:
    """The defaults for ``compare`` with ``arguments``: optimizee, number of steps and seed are the checkpoint's.

    Args:
        arguments: The arguments after the command.
        recipes: What is to be compared; optimizee and number of steps are those of the first that was trained on the
            optimizee that is asked for, the seed is the first one's.

    Raises:
        RegistryError: If a class cannot be had.
        CheckpointError: If the checkpoints leave open which optimizee is meant, or one is damaged.
    """
    text = read_first(arguments).get("optimizee")
    asked = None if text is None else registry.resolve("optimizee", text)
    defaults = Defaults(Path())
    if not recipes:
        if asked is not None:
            _use_class(defaults, "optimizee", asked, {})
        return defaults
    parts = {path: recipe.optimizee for path, recipe in recipes.items()}
    first = next(iter(parts))
    if asked is None:
        if other := next((path for path in parts if not _alike(first, path, parts)), None):
            raise CheckpointError(
                f"{relative(first)} and {relative(other)} were trained on different problems "
                f"({_described(parts[first])}; {_described(parts[other])}); name those to compare on with --optimizee"
            )
    else:
        name = registry.name_of(asked)
        first = next((path for path, part in parts.items() if part.name == name), first)
    defaults.checkpoint = first
    same = _use_part(defaults, "optimizee", asked, first, parts[first])
    model = recipes[first].model
    elsewhere = {} if same else defaults.classes["optimizee"].recommended_settings()
    defaults.options["num_steps"] = [elsewhere.get("model.num_steps", model["num_steps"])]
    defaults.options["seed_everything"] = next(iter(recipes.values())).model["seed"]
    defaults.options["precision"] = precision_in(recipes[first], first)
    defaults.options["held_back"] = same and model.get("held_back", False)
    trained_on = model["num_validation_problems"] if same else 0
    defaults.options["num_validation_problems"] = max(FEWEST_VALIDATION_PROBLEMS, trained_on)
    return defaults


def _alike(one: Path, other: Path, parts: Mapping[Path, Part]) -> bool:
    """Whether both are the same optimizee, made again: one may lack an argument that there was not yet."""
    if parts[one] == parts[other]:
        return True
    from meta_opt.evaluation.validated import same_optimizee  # which takes long

    try:
        return same_optimizee(*(make("optimizee", parts[path], path) for path in (one, other)))
    except MetaOptError:
        return False


def _described(part: Part) -> str:
    arguments = (f"{name}={value}" for name, value in part.init_args.items())
    return f"{part.name or 'made in Python'} {' '.join(arguments)}".strip()


def _use_checkpoint(command: str, defaults: Defaults, asked: dict[Kind, type[Any]], path: Path, recipe: Recipe) -> None:
    defaults.checkpoint = path
    same = {kind: _use_part(defaults, kind, asked.get(kind), path, getattr(recipe, kind)) for kind in registry.KINDS}
    if same["optimizer"]:
        load_optimizer(path, asked.get("optimizer"))  # of other weights, or a size beyond reason, nothing is made
    model = {f"model.{name}": value for name, value in recipe.model.items() if name != "seed"}
    if "seed" in recipe.model:
        model["seed_everything"] = recipe.model["seed"]
    if same["optimizee"]:
        _recommend(defaults, new=False)
        defaults.options |= model
    else:  # the same learned optimizer elsewhere, for as many steps as are recommended there
        defaults.options |= model | {"model.num_validation_steps": None}
        _recommend(defaults, new=False)
    if "trainer.precision" in recipe.run:
        defaults.options["trainer.precision"] = recipe.run["trainer.precision"]
    if command == "fit":
        if not recipe.resumable:
            raise CheckpointError(f"{relative(path)} holds a trained optimizer to use, no run that fit can go on with")
        if not same["optimizee"]:
            raise CheckpointError(
                f"{relative(path)} was trained on {recipe.optimizee.name or 'another optimizee'}, and fit goes on with "
                "a run as it was; leave --optimizee out, or --ckpt_path for a new run"
            )
        resumed = {name: recipe.run[name] for name in RESUMED_SETTINGS if name in recipe.run}
        for name, value in resumed.items():
            if not isinstance(value, RESUMED_SETTINGS[name]):
                raise CheckpointError(f"{relative(path)} is damaged: its {name} is {shown(value)}")
        defaults.options |= resumed


def _use_part(defaults: Defaults, kind: Kind, asked: type[Any] | None, path: Path, part: Part) -> bool:
    """Use the class that was asked for or else the checkpoint's; whether they are the same."""
    if asked is not None and registry.name_of(asked) != part.name:
        _use_class(defaults, kind, asked, {})
        return False
    if asked is None:
        # A checkpoint may come from anywhere: it chooses among what is installed, and does not import.
        if not isinstance(part.name, str) or "." in part.name:
            made = f"is {part.name}, not an installed one" if part.name else "was made in Python"
            option = registry.OPTIONS[kind]
            raise CheckpointError(
                f"the {kind} in {relative(path)} {made}, and a checkpoint may not say what to import; name its class "
                f"with --{option} MODULE.CLASS, or --{option} FILE.py:CLASS"
            )
        asked = registry.load(kind, part.name)
    if (name := unvouched(asked, part.init_args)) is not None:
        names = f"the {kind} in {relative(path)} has an argument that names a class or a file: {clipped(name, 40)}"
        raise CheckpointError(f"{names}, and a checkpoint may not say what to import or read")
    _use_class(defaults, kind, asked, part.init_args)
    return True


def _use_class(defaults: Defaults, kind: Kind, cls: type[Any], init_args: dict[str, Any]) -> None:
    defaults.classes[kind] = cls
    defaults.options[registry.OPTIONS[kind]] = {
        "class_path": f"{cls.__module__}.{cls.__qualname__}",
        "init_args": dict(init_args),
    }


def _recommend(defaults: Defaults, *, new: bool, preset: Preset = "recommended") -> None:
    """Add the settings that optimizee and optimizer recommend, the optimizer's above the optimizee's.

    Args:
        defaults: With the classes.
        new: Whether a meta-training begins; else optimizer and estimator are as the checkpoint has them.
        preset: See :func:`recommended`.
    """
    for name, value in recommended(defaults.classes, new=new, preset=preset).items():
        kind = part_of_option(name)
        option, _, argument = name.rpartition(".")
        if kind is not None and argument in argument_names(defaults.classes[kind]):
            defaults.options[option]["init_args"][argument] = value
        else:
            defaults.options[name] = value  # if it is no option, set_defaults says so


def recommended_by(defaults: Defaults, option: str) -> str | None:
    """Who recommends a default of this option: ``optimizee NAME`` or ``optimizer NAME``; None if nobody does."""
    kinds: tuple[Kind, ...] = ("optimizer", "optimizee")  # the optimizer's stand above
    for kind in kinds:
        cls = defaults.classes.get(kind)
        if cls is not None and option in {name.rpartition(":")[2] for name in cls.recommended_settings()}:
            return f"{kind} {registry.name_of(cls)}"
    return None


def set_defaults(parser: Any, defaults: Defaults, *, without: tuple[str, ...] = ()) -> None:
    """Hand the defaults to a parser.

    Args:
        parser: The parser of a command.
        defaults: The defaults.
        without: Groups of options that the command lacks.

    Raises:
        MetaOptError: If there is no such option.
    """
    options = {name: each for name, each in defaults.options.items() if name.partition(".")[0] not in without}
    _check_recommended(parser, {name: who for name in options if (who := recommended_by(defaults, name))}, options)
    for name, value in options.items():
        try:
            parser.set_defaults({name: value})
        except KeyError as error:
            who = recommended_by(defaults, name)
            whose = f"{who} recommends" if who else f"{relative(defaults.checkpoint or Path())} has"
            raise MetaOptError(f"{whose} a setting {name}, but there is no such option") from error


def _check_recommended(parser: Any, who: dict[str, str], options: dict[str, Any]) -> None:
    """See that options take the values that are recommended: of a default the parser would not say whose it is.

    Args:
        parser: The parser of a command.
        who: Who recommends something, by option.
        options: The values of these and other options.
    """
    config = parser.get_defaults()
    config["optimizee"] = config["optimizer"] = None  # which may lack arguments that the user gives
    for name in who:
        config[name] = options[name]
    try:
        parser.validate(config, skip_required=True)
    except KeyError:
        return  # there is no such option, as is said where the default is set
    except (TypeError, ValueError) as error:
        for name in who:
            if f'"{name}"' in str(error):
                problem = parser.one_line(str(error))
                raise MetaOptError(f"{who[name]} recommends a setting that cannot be: {problem}") from error
