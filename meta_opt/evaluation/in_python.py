"""Comparisons from Python: names and trained objects in, an object with a table, a data frame and a figure out."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from matplotlib.figure import Figure

from meta_opt import registry
from meta_opt.errors import MetaOptError, shown, whole
from meta_opt.evaluation.compare import Comparison, Contestant, Validation
from meta_opt.evaluation.compare import compare as compare_all
from meta_opt.evaluation.devices import device_of
from meta_opt.evaluation.protocol import FEWEST_VALIDATION_PROBLEMS
from meta_opt.evaluation.reports import Report, about
from meta_opt.evaluation.setting import MERITS, Setting
from meta_opt.evaluation.standing_in import let_stand_in
from meta_opt.evaluation.validated import same_optimizee, validation_in, validation_of
from meta_opt.meta_training.meta_learner import MetaLearner
from meta_opt.optimizees.contract import Optimizee
from meta_opt.optimizees.layout import Layout
from meta_opt.optimizers.baseline_names import baseline, default_baselines
from meta_opt.optimizers.checking import check_built
from meta_opt.optimizers.contract import OptimizerNetwork
from meta_opt.saved.costs import Cost
from meta_opt.saved.precisions import PRECISIONS, name_of_precision, precision_in
from meta_opt.saved.pretrained import pretrained_path
from meta_opt.saved.recipes import Recipe, check_class, load_optimizer, make, read_recipe
from meta_opt.saved.runs import short_name

if TYPE_CHECKING:
    from pandas import DataFrame

Learned = str | Path | MetaLearner | OptimizerNetwork
"""A learned optimizer: the name of a pretrained one, a checkpoint, or what has been trained."""


@dataclass(frozen=True)
class Compared:
    """What :func:`compare` has found.

    Attributes:
        comparisons: One for each number of steps.
        report: What ``meta-opt compare`` would write.
    """

    comparisons: Sequence[Comparison]
    report: Report

    def table(self) -> str:
        """The table that ``meta-opt compare`` prints."""
        return self.report.table()

    def __str__(self) -> str:
        return self.table()

    __repr__ = __str__

    def rows(self) -> list[dict[str, Any]]:
        """A row for each number of steps and optimizer: means over test problems, standard errors, rates and ratios."""
        return [
            {"num_steps": comparison.num_steps, "optimizer": entry.name, "kind": entry.kind}
            | {name: value for merit in MERITS for name, value in _figures(comparison, entry, merit).items()}
            | {"steps_to_best_baseline_final": comparison.steps_to_best_baseline_final(entry)}
            for comparison in self.comparisons
            for entry in comparison.entries
        ]

    def to_dataframe(self) -> DataFrame:
        """:meth:`rows` as a ``pandas.DataFrame``.

        Raises:
            MetaOptError: If pandas is not installed.
        """
        try:
            import pandas
        except ImportError as error:
            raise MetaOptError("to_dataframe needs pandas (pip install pandas); rows() has the same without") from error
        return pandas.DataFrame(self.rows())

    def plot(self) -> Figure:
        """The loss curves, as ``meta-opt compare`` draws them."""
        return self.report.figure()


def compare(
    optimizers: Iterable[Learned] | Mapping[str, Learned],
    optimizee: str | Optimizee | None = None,
    num_steps: int | Sequence[int] | None = None,
    *,
    baselines: Sequence[str] | None = None,
    num_problems: int = 100,
    num_validation_problems: int | None = None,
    held_back: bool | None = None,
    network_for: Mapping[str, str] | None = None,
    seed: int = 0,
    device: str = "cpu",
    optimizer_class: type[OptimizerNetwork] | None = None,
) -> Compared:
    """Compare learned optimizers with tuned baselines on the same test problems, as ``meta-opt compare`` does.

    All are compared in the precision that the first was trained in, as far as that is known, else in float32.

    Example::

        result = compare(["general_mlp", learner], optimizee="digits_mlp", num_steps=[100, 200])
        print(result.table())
        result.plot().savefig("curves.png")

    Args:
        optimizers: The learned optimizers: names of pretrained ones, paths of checkpoints, meta-learners, or learned
            optimizers themselves; in a mapping, by the names that they get.
        optimizee: What to compare on: a name, with its default options, or an object. None: what the optimizers were
            trained on, if that is the same for all that know it.
        num_steps: Steps, or several numbers of them. None: those of the optimizers' training if that was on the same
            optimizee, or what the optimizee recommends, or else 100.
        baselines: As for ``--baselines``; None for the default ones of so many steps.
        num_problems: Test problems.
        num_validation_problems: Problems that learning rates are tuned on. None: as many as the optimizers' training
            was validated on if that was on the same optimizee, and 32 at least.
        held_back: Whether losses and metrics are those on batches that the optimizee holds back. None: as in that
            training.
        network_for: Of groups (or kinds, or tensors) of parameters that an optimizer has no network for, which of its
            networks works on them.
        seed: All randomness comes from it.
        device: Where to compute.
        optimizer_class: The class of a checkpoint's learned optimizer, where that is not an installed plugin.

    Raises:
        MetaOptError: If something that is named does not exist, or a number is out of range.
    """
    by_name = dict(optimizers) if isinstance(optimizers, Mapping) else _named(optimizers)
    named = {name: _given(each) for name, each in by_name.items()}
    if not named:
        raise MetaOptError("say what to compare: one learned optimizer at least")
    chosen = _optimizee(optimizee, named)
    trained_on_it = next((each for each in named.values() if _validation(each, chosen) is not None), None)
    known = None if trained_on_it is None else _validation(trained_on_it, chosen)
    horizons = _horizons(num_steps, chosen, trained_on_it)
    num_problems = whole("num_problems", num_problems, 2)
    if num_validation_problems is None:
        num_validation_problems = max(FEWEST_VALIDATION_PROBLEMS, known.num_problems if known else 0)
    num_validation_problems = whole("num_validation_problems", num_validation_problems, 1)
    if held_back is None:
        held_back = known is not None and known.held_back
    place = device_of(device, "device")
    seed = whole("seed", seed, 0)
    chosen = copy.deepcopy(chosen).to(place)
    recipes = [each.recipe for each in named.values() if each.recipe is not None]
    check_class("optimizer_class", optimizer_class, recipes)
    dtype, autocast = PRECISIONS[_precision(named.values(), chosen)]
    learned = {name: _contestant(each, chosen, place, dtype, optimizer_class) for name, each in named.items()}
    made = [(learned[name].optimizer, _layout(each)) for name, each in named.items()]
    let_stand_in(network_for or {}, chosen, made, option="network_for")
    if baselines is not None and (isinstance(baselines, str) or not all(isinstance(each, str) for each in baselines)):
        raise MetaOptError(f"baselines must be a sequence of names, not {shown(baselines)}")
    asked = list(baselines) if baselines is not None else default_baselines(max(horizons))
    if twice := sorted({*named} & {*asked}):
        raise MetaOptError(f"{twice[0]} is a baseline; give the learned optimizer another name")
    setting = Setting(
        chosen, horizons, num_problems, num_validation_problems, seed, place, dtype, autocast, held_back=held_back
    )
    comparisons = compare_all(setting, learned, {each: baseline(each) for each in asked})
    title = registry.name_of(type(chosen)).rpartition(".")[2]
    places = {name: str(each) if isinstance(each, str | Path) else "" for name, each in by_name.items()}
    costs = {name: _cost(each) for name, each in named.items()}
    return Compared(comparisons, Report(title, num_problems, comparisons, about(setting), places, "", costs))


def _named(optimizers: Iterable[Learned]) -> dict[str, Learned]:
    """By names that differ."""
    if isinstance(optimizers, str | Path | torch.nn.Module):
        optimizers = [optimizers]
    named: dict[str, Learned] = {}
    for each in optimizers:
        if isinstance(each, str | Path):
            name = short_name(Path(each)) if str(each).endswith(".ckpt") else str(each)
        else:
            name = type(each.optimizer if isinstance(each, MetaLearner) else each).__name__
        number = 2
        unique = name
        while unique in named:
            unique, number = f"{name}-{number}", number + 1
        named[unique] = each
    return named


@dataclass(frozen=True)
class _Given:
    """A learned optimizer, and what is known of its training: by a checkpoint, or by what was trained."""

    optimizer: OptimizerNetwork | None = None
    learner: MetaLearner | None = None
    path: Path = Path()  # of the checkpoint
    recipe: Recipe | None = None  # in it

    @property
    def settings(self) -> Mapping[str, Any]:
        """Those of its meta-training, as far as they are known."""
        if self.recipe is not None:
            return self.recipe.model
        return self.learner.hparams if self.learner is not None else {}


def _given(each: Learned) -> _Given:
    if isinstance(each, MetaLearner):
        return _Given(each.trained, each)
    if isinstance(each, OptimizerNetwork):
        return _Given(each)
    if not isinstance(each, str | Path):
        raise MetaOptError(
            f"{type(each).__name__} cannot be compared: give the name of a pretrained optimizer, a checkpoint, a "
            "MetaLearner or a learned optimizer"
        )
    path = Path(each) if isinstance(each, Path) or each.endswith(".ckpt") else pretrained_path(each)
    return _Given(path=path, recipe=read_recipe(path))


def _optimizee(asked: str | Optimizee | None, optimizers: Mapping[str, _Given]) -> Optimizee:
    if isinstance(asked, Optimizee):
        return asked
    if isinstance(asked, str):
        return registry.resolve("optimizee", asked)()
    if asked is not None:
        raise MetaOptError(f"optimizee must be a name or an optimizee that is made, not {shown(asked)}")
    known = {name: found for name, each in optimizers.items() if (found := _trained_on(each)) is not None}
    if not known:
        raise MetaOptError("say what to compare on, with optimizee: a learned optimizer alone does not know")
    first, *others = known
    for other in others:
        if not same_optimizee(known[first], known[other]):
            raise MetaOptError(
                f"{first} and {other} were trained on different problems; name those to compare on with optimizee"
            )
    return known[first]


def _trained_on(each: _Given) -> Optimizee | None:
    if each.recipe is not None:
        made: Optimizee = make("optimizee", each.recipe.optimizee, each.path)
        return made
    return each.learner.optimizee if each.learner is not None else None


def _horizons(asked: int | Sequence[int] | None, optimizee: Optimizee, trained_on_it: _Given | None) -> list[int]:
    if asked is None and trained_on_it is not None:
        asked = trained_on_it.settings["num_steps"]
    if asked is None:
        asked = type(optimizee).recommended_settings().get("model.num_steps", 100)
    several = asked if isinstance(asked, Sequence) and asked and not isinstance(asked, str) else [asked]
    return list(dict.fromkeys(whole("num_steps", steps, 1) for steps in several))


def _precision(optimizers: Iterable[_Given], optimizee: Optimizee) -> str:
    """That in which the first was trained that was so on this kind of optimizee, or else the first; float32 if none."""
    trained = [each for each in optimizers if each.recipe is not None or each.learner is not None]
    name = registry.name_of(type(optimizee))
    same = [each for each in trained if _name_of_optimizee(each) == name]
    first = next(iter([*same, *trained]), _Given())
    if first.recipe is not None:
        return precision_in(first.recipe, first.path)
    return (first.learner and name_of_precision(first.learner.dtypes)) or "32-true"


def _name_of_optimizee(each: _Given) -> str | None:
    """Of that which it was trained on."""
    if each.recipe is not None:
        return each.recipe.optimizee.name
    return registry.name_of(type(each.learner.optimizee)) if each.learner is not None else None


def _contestant(
    each: _Given,
    optimizee: Optimizee,
    device: torch.device,
    dtype: torch.dtype,
    optimizer_class: type[OptimizerNetwork] | None,
) -> Contestant:
    optimizer = load_optimizer(each.path, optimizer_class) if each.optimizer is None else each.optimizer
    check_built(optimizer)
    frozen = copy.deepcopy(optimizer).requires_grad_(False).to(device, dtype)
    return Contestant(frozen, _validation(each, optimizee))


def _validation(each: _Given, optimizee: Optimizee) -> Validation | None:
    """How training validated, if that was on this very optimizee."""
    if each.recipe is not None:
        return validation_of(each.recipe, each.path, optimizee)
    if each.learner is not None and same_optimizee(each.learner.optimizee, optimizee):
        return validation_in(each.learner.hparams)
    return None


def _cost(each: _Given) -> Cost | None:
    if each.recipe is not None:
        return each.recipe.cost
    return each.learner.cost if each.learner is not None else None


def _layout(each: _Given) -> Layout | None:
    """That which its networks were made for, if that is known."""
    if each.recipe is not None:
        return each.recipe.layout
    return each.learner.layout if each.learner is not None else None


def _figures(comparison: Comparison, entry: Any, merit: Any) -> dict[str, Any]:
    mean = entry.merit(merit)
    return {
        merit: mean.value,
        f"{merit}_sem": mean.sem,
        f"{merit}_learning_rate": entry.runs[merit].learning_rate,
        f"{merit}_ratio": comparison.ratio(entry, merit),
    }
