"""What a study is. This module imports no torch."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from meta_opt.errors import MetaOptError
from meta_opt.evaluation.protocol import FEWEST_VALIDATION_PROBLEMS

Options = Mapping[str, Any]
Draw = Literal["lines", "bars", "histograms", "curves", "training", "norms"]
Of = Literal["final", "sum"]

STATISTICS = ("final", "sum", "runs", "failed", "best_baseline", "ratio", "seconds")  # that a text may hold
# Classes where none is named; there is always an optimizee.
_USUAL = {"optimizee": None, "optimizer": "coordinatewise_lstm", "model.estimator": "first_order"}


@dataclass(frozen=True)
class Test:
    """What trained optimizers are run on.

    Attributes:
        num_steps: Steps; None for those of meta-training.
        num_problems: Test problems, the same for all runs.
        num_validation_problems: Problems that learning rates of baselines are tuned on; None for as many as test
            problems, but 32 at least.
        optimizee: Name of the optimizee; None for that of meta-training, with its options.
        options: Its options, above those of meta-training where it is the same.
        only: Labels whose points are run on it; none for all.
    """

    num_steps: int | None = None
    num_problems: int = 16
    num_validation_problems: int | None = None
    optimizee: str | None = None
    options: Options = field(default_factory=dict)
    only: tuple[str, ...] = ()

    @property
    def tuned_on(self) -> int:
        """How many problems learning rates of baselines are tuned on."""
        return self.num_validation_problems or max(FEWEST_VALIDATION_PROBLEMS, self.num_problems)

    def of(self, labels: tuple[str, ...]) -> bool:
        """Whether the optimizers of a point are run on it."""
        return not self.only or bool({*self.only} & {*labels})


@dataclass(frozen=True)
class Share:
    """A share of runs: those whose final loss is below, or above, a limit. What is not finite is above."""

    below: float | None = None
    above: float | None = None

    def counts(self, final: float) -> bool:
        """Whether a run with this final loss is one of them."""
        return final < self.below if self.below is not None else not final <= self.above  # type: ignore[operator]


@dataclass(frozen=True)
class Figure:
    """One figure.

    Attributes:
        draw: ``lines``: median over an axis, bands from the 25th to the 75th percentile; ``bars``: medians;
            ``histograms`` of runs; ``curves`` of test losses over steps; ``training``: validation loss over
            meta-updates and over seconds; ``norms`` of the meta-gradient of each network.
        of: The final loss, or the sum of losses.
        x: The axis of lines.
        panels: An axis, or ``test``, with a panel for each of its labels.
        log: Whether the loss axis is logarithmic.
    """

    draw: Draw
    of: Of = "final"
    x: str | None = None
    panels: str | None = None
    log: bool = True


@dataclass(frozen=True)
class Study:
    """Many runs of meta-training, see :mod:`meta_opt.studies.study`.

    Attributes:
        name: Of its file, without extension.
        title: What is studied, in a few words.
        question: What it is to answer.
        base: Options of ``meta-opt fit`` that all runs have.
        axes: Per axis its labels, and the options of each. Runs are made for every combination.
        also: More points, beside the combinations: per label options above the base.
        runs: How many runs with different seeds every point gets.
        checkpoint: Which checkpoint of a run is tested.
        tests: What it is tested on, by name.
        baselines: Hand-made optimizers, tuned, on the same tests.
        shares: Shares of runs that are reported, by name.
        training_curves: Whether to keep validation losses during meta-training.
        meta_gradient_norms: Whether to measure, after meta-training, the meta-gradient of each network.
        figures: What is drawn.
        text: What was found, with numbers to be filled in.
        quick: Changes of the above for a first look.
    """

    name: str
    title: str
    question: str
    base: Options
    axes: Mapping[str, Mapping[str, Options]]
    also: Mapping[str, Options]
    runs: int
    checkpoint: Literal["best", "last"]
    tests: Mapping[str, Test]
    baselines: tuple[str, ...]
    shares: Mapping[str, Share]
    training_curves: bool
    meta_gradient_norms: bool
    figures: tuple[Figure, ...]
    text: str
    quick: Mapping[str, Any]

    def points(self) -> Iterator[tuple[tuple[str, ...], dict[str, Any]]]:
        """Labels, one per axis, and options of every combination, then those of ``also``, which have one label."""
        for labels in itertools.product(*self.axes.values()):
            chosen = (axis[label] for axis, label in zip(self.axes.values(), labels, strict=True))
            yield labels, merged(self.base, *chosen)
        for label, more in self.also.items():
            yield (label,), merged(self.base, more)

    def quickly(self) -> Study:
        """The study as ``--quick`` does it: fewer runs, labels and episodes.

        Raises:
            MetaOptError: If the file does not say how.
        """
        if not self.quick:
            raise MetaOptError(f"study {self.name} has no entry quick")
        axes = dict(self.axes)
        for name, labels in self.quick.get("axes", {}).items():
            axes[name] = {label: axes[name][label] for label in labels}
        tests = {name: replace(test, **self.quick.get("tests", {})) for name, test in self.tests.items()}
        base = merged(self.base, self.quick.get("base", {}))
        also = {label: self.also[label] for label in self.quick.get("also", self.also)}
        return replace(self, base=base, axes=axes, also=also, tests=tests, runs=self.quick.get("runs", self.runs))


def merged(base: Options, *labels: Options) -> dict[str, Any]:
    """``base``, and above it the options of labels, those of a later one above those of an earlier.

    Options of a class are those of the one that the same label, or ``base``, names; where another takes its place they
    are dropped. Those of a label that names none are of the one that the base or any label chooses.
    """
    naming = ({**_USUAL, **base}, *labels)
    classes = {kind: options[kind] for options in naming for kind in _USUAL if kind in options}
    left: dict[str, Any] = {}
    for options, named in zip((base, *labels), naming, strict=True):
        dropped = tuple(f"{kind}." for kind, name in classes.items() if named.get(kind, name) != name)
        left |= {name: value for name, value in options.items() if not name.startswith(dropped)}
    return left
