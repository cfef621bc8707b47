"""Baselines that see values only, from libraries of their own: random search, CMA-ES, a Gaussian process.

All search a box, by default |θ_i| ≤ 1.5, in which the functions of the plane that ship with meta-opt, draws of a
Gaussian process and the tuning of a network have their minima; in place of a learning rate they have its half side,
which is not tuned. ``cma`` and ``optuna`` come with ``pip install meta-opt[blackbox]``.
"""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Generator

from meta_opt.errors import MetaOptError
from meta_opt.optimizees.layout import Layout
from meta_opt.optimizees.problems import Evaluation
from meta_opt.optimizers.contract import InnerOptimizer, Step

BOX = 1.5  # half the side of the box


class Searcher(ABC):
    """Minimizes one function: is told a value, and says where to evaluate next."""

    @abstractmethod
    def next(self, place: np.ndarray[Any, Any], value: float) -> np.ndarray[Any, Any]:
        """Where to go, [N], after ``place`` [N] had ``value``."""


class BlackBox(InnerOptimizer):
    """A searcher for each problem, which are the state and change in place."""

    reads = frozenset({"loss", "params"})

    def __init__(self, make: Callable[[int, int, float], Searcher], box: float) -> None:
        """Choose what makes a searcher of a number of coordinates, a seed and the half side of the box."""
        self._make = make
        self._box = box

    def init_state(self, layout: Layout, num_problems: int) -> list[Searcher]:
        """A new searcher for each problem, as if these were the first of their stream."""
        return self._searchers(layout, range(num_problems))

    def numbered(self, state: list[Searcher], layout: Layout, numbers: Sequence[int]) -> list[Searcher]:
        """See :meth:`InnerOptimizer.numbered`; problem i has the seed i + 1."""
        return self._searchers(layout, numbers)

    def _searchers(self, layout: Layout, numbers: Sequence[int]) -> list[Searcher]:
        return [self._make(layout.num_coordinates, number + 1, self._box) for number in numbers]

    def step(self, evaluation: Evaluation, state: list[Searcher], noise: Generator | None = None) -> Step:
        """Go where the searchers say."""
        params = evaluation.params
        places, losses = params.detach().double().cpu().numpy(), evaluation.loss.detach().double().cpu().tolist()
        found = [searcher.next(place, value) for searcher, place, value in zip(state, places, losses, strict=True)]
        return Step(torch.from_numpy(np.stack(found)).to(params) - params, state)


class Uniform(Searcher):
    """Random search."""

    def __init__(self, size: int, seed: int, box: float) -> None:
        self._box = box
        self._size = size
        self._random = np.random.default_rng(seed)

    def next(self, place: np.ndarray[Any, Any], value: float) -> np.ndarray[Any, Any]:
        """See :class:`Searcher`."""
        return self._random.uniform(-self._box, self._box, self._size)


class CMA(Searcher):
    """CMA-ES of ``cma`` (Hansen), from where in the box the first place is nearest, over a third of the box's side."""

    def __init__(self, size: int, seed: int, box: float) -> None:
        if size < 2:
            raise MetaOptError("the baseline CMAES is for two coordinates or more, and here is one")
        self._box = box
        self._cma = _library("cma", "CMAES")
        self._size = size
        self._seed = seed
        self._strategy: Any = None
        self._asked: list[Any] = []
        self._values: list[float] = []

    def next(self, place: np.ndarray[Any, Any], value: float) -> np.ndarray[Any, Any]:
        """See :class:`Searcher`; generations are evaluated one place after the other."""
        if self._strategy is None:
            options = {"bounds": [-self._box, self._box], "seed": self._seed, "verbose": -9, "CMA_stds": 1.0}
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                self._strategy = self._cma.CMAEvolutionStrategy(
                    place.clip(-self._box, self._box), 2 * self._box / 3, options
                )
        else:
            self._values.append(value)
        if len(self._values) == len(self._asked):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                if self._asked:
                    self._strategy.tell(self._asked, self._values)
                self._asked, self._values = self._strategy.ask(), []
        return np.asarray(self._asked[len(self._values)])


class GaussianProcess(Searcher):
    """The sampler ``GPSampler`` of ``optuna``: a Gaussian process with the logarithm of the expected improvement."""

    def __init__(self, size: int, seed: int, box: float) -> None:
        self._box = box
        optuna = _library("optuna", "GP")
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self._optuna = optuna
        self._names = [f"x{number}" for number in range(size)]
        self._space = {name: optuna.distributions.FloatDistribution(-box, box) for name in self._names}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that it is experimental
            sampler = optuna.samplers.GPSampler(seed=seed, deterministic_objective=True)
        self._study = optuna.create_study(sampler=sampler)
        self._trial: Any = None

    def next(self, place: np.ndarray[Any, Any], value: float) -> np.ndarray[Any, Any]:
        """See :class:`Searcher`."""
        if self._trial is not None:
            self._study.tell(self._trial, value)
        elif np.abs(place).max() <= self._box:
            known = dict(zip(self._names, place.tolist(), strict=True))
            self._study.add_trial(self._optuna.trial.create_trial(params=known, distributions=self._space, value=value))
        with warnings.catch_warnings(), torch.inference_mode(False), torch.enable_grad():  # which its fit needs
            warnings.simplefilter("ignore")
            self._trial = self._study.ask(self._space)
        return np.array([self._trial.params[name] for name in self._names])


FROM_VALUES: dict[str, Callable[[float], BlackBox]] = {
    "RandomSearch": partial(BlackBox, Uniform),
    "CMAES": partial(BlackBox, CMA),
    "GP": partial(BlackBox, GaussianProcess),
}


def _library(name: str, baseline: str) -> Any:
    """The module, if it is installed."""
    try:
        return __import__(name)
    except ImportError as error:
        raise MetaOptError(f"the baseline {baseline} needs {name}: pip install 'meta-opt[blackbox]'") from error
