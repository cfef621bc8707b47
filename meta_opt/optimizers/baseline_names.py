"""Baselines by name: ``Adam``, ``AdamW:cosine``, ``Muon:linear:warmup=0.1``, ``SGD:momentum=0.95``, ``a_package.SOAP``.

The parts after the first say the schedule of the learning rate, a learning rate that is not tuned (``lr=0.001``), and
options of the optimizer (``weight_decay=0.1``).
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NoReturn

import torch
from torch import Tensor

from meta_opt.errors import MetaOptError
from meta_opt.messages import clipped, offered
from meta_opt.optimizers.baselines import Baseline, BaselineOfTensors, Muon, SpectralMuon
from meta_opt.optimizers.black_box import BOX, FROM_VALUES
from meta_opt.optimizers.contract import InnerOptimizer
from meta_opt.optimizers.quasi_newton import BFGS, LBFGS, Newton
from meta_opt.optimizers.schedules import SHAPES, Schedule

_WARMUP = 0.05  # where nothing else is said
_nesterov = partial(Baseline, torch.optim.SGD, momentum=0.9, nesterov=True)
OF_COORDINATES: dict[str, Callable[..., InnerOptimizer]] = {
    "SGD": partial(Baseline, torch.optim.SGD),
    "Nesterov": _nesterov,
    "RMSprop": partial(Baseline, torch.optim.RMSprop),
    "Adam": partial(Baseline, torch.optim.Adam),
}
OF_MATRICES: dict[str, Callable[..., InnerOptimizer]] = {"Muon": Muon, "SpectralMuon": SpectralMuon}
OF_CURVATURE: dict[str, Callable[..., InnerOptimizer]] = {"LBFGS": LBFGS, "BFGS": BFGS, "Newton": Newton}
KNOWN = {**OF_COORDINATES, **OF_MATRICES, **OF_CURVATURE, **FROM_VALUES}
UNTUNED = ("AdamW:cosine:lr=0.001", "SpectralMuon:cosine:lr=0.06")
LONG = 200  # steps from which on a schedule is what people use


@dataclass(frozen=True)
class HandMade:
    """A baseline but for its learning rate.

    Attributes:
        make: From a learning rate and, for one that changes, ``factor=``.
        schedule: How the learning rate goes through a run.
        lr: The learning rate, if it is not to be tuned.
    """

    make: Callable[..., InnerOptimizer]
    schedule: Schedule = field(default_factory=Schedule)
    lr: float | None = None

    def __call__(self, lr: float, num_steps: int | None = None) -> InnerOptimizer:
        """The optimizer with this learning rate, for a run of so many steps, which a constant one need not know."""
        if self.schedule.is_constant:
            return self.make(lr)
        assert num_steps is not None
        return self.make(lr, factor=self.schedule.over(num_steps))


BASELINES = {name: HandMade(make) for name, make in OF_COORDINATES.items()}
sgd, nesterov, rmsprop, adam = BASELINES.values()


def default_baselines(num_steps: int) -> list[str]:
    """The names of what learned optimizers are compared with, where nothing else is said."""
    tuned = ["Adam", "AdamW:cosine", "Nesterov:cosine", "Muon:cosine"] if num_steps > LONG else [*BASELINES]
    return [*tuned, *UNTUNED]


def baseline(name: str) -> HandMade:
    """The baseline of this name.

    Args:
        name: One of those above, a class of ``torch.optim``, or the path of one in a package, MODULE.CLASS; then parts,
            each after a colon: ``cosine``, ``linear``, ``warmup``, ``warmup=PART``, ``lr=RATE`` or ``OPTION=NUMBER``.

    Raises:
        MetaOptError: If there is none.
    """
    first, *parts = name.split(":")
    shape, warmup, lr = "constant", 0.0, None
    options: dict[str, Any] = {}
    said: set[str] = set()
    for part in parts:
        key, equals, text = part.partition("=")
        what = "the schedule" if part in SHAPES else key
        if what in said:
            _refuse(name, f"{clipped(what)} is said twice")
        said.add(what)
        if part in SHAPES:
            shape = part
        elif part == "warmup":
            warmup = _WARMUP
        elif not equals or not key.isidentifier():
            there = offered(part, [*SHAPES, "warmup"], f"there are {', '.join(SHAPES)}, warmup, lr=RATE")
            _refuse(name, f"{clipped(part)!r} is no schedule; {there}")
        elif key == "warmup":
            warmup = _number(name, key, text)
        elif key == "lr":
            lr = _number(name, key, text)
        else:
            options[key] = _number(name, key, text)
    if not 0.0 <= warmup < 1.0:
        _refuse(name, f"warmup is a part of the steps, from 0 to less than 1, not {warmup:g}")
    if lr is not None and not 0.0 < lr < float("inf"):
        _refuse(name, f"lr must be more than 0, not {lr:g}")
    if first in OF_CURVATURE | FROM_VALUES and (parts and parts != [f"lr={parts[0][3:]}"]):
        _refuse(name, f"{first} takes no schedule and no options")
    make = _known(name, first, options) if first in KNOWN else _of_class(name, _class(first), options)
    if first in FROM_VALUES and lr is None:
        lr = BOX
    return HandMade(make, Schedule(shape, warmup), lr)


def _refuse(name: str, reason: str) -> NoReturn:
    raise MetaOptError(f"{clipped(name)} cannot be a baseline: {reason}")


def _number(name: str, key: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        _refuse(name, f"{clipped(key)} must be a number, not {clipped(text)!r}")


def _known(name: str, first: str, options: dict[str, Any]) -> Callable[..., InnerOptimizer]:
    make = partial(KNOWN[first], **options)
    if first in OF_COORDINATES and options:
        of_class = OF_COORDINATES[first]
        assert isinstance(of_class, partial)
        return _of_class(name, of_class.args[0], {**of_class.keywords, **options})
    try:
        make(0.1)
    except (TypeError, ValueError) as error:
        _refuse(name, clipped(error))
    return make


def _class(name: str) -> type[torch.optim.Optimizer]:
    """A class of ``torch.optim``, or of another package by its path.

    Raises:
        MetaOptError: If there is none.
    """
    if "." in name:
        return _imported(name)
    classes = {key: value for key, value in vars(torch.optim).items() if _is_optimizer(value)}
    if name not in classes:
        there = f"there are {', '.join(KNOWN)}, the classes of torch.optim, and those of other packages as MODULE.CLASS"
        raise MetaOptError(f"no baseline is called {clipped(name)!r}; {offered(name, [*classes, *KNOWN], there)}")
    return classes[name]


def _imported(path: str) -> type[torch.optim.Optimizer]:
    module, _, attribute = path.rpartition(".")
    try:
        found = getattr(importlib.import_module(module), attribute)
    except Exception as error:
        raise MetaOptError(
            f"{clipped(path)} cannot be a baseline: it cannot be imported ({type(error).__name__}: {clipped(error)})"
        ) from error
    if not _is_optimizer(found):
        raise MetaOptError(f"{clipped(path)} cannot be a baseline: it is no class of torch.optim.Optimizer")
    made: type[torch.optim.Optimizer] = found
    return made


def _is_optimizer(value: object) -> bool:
    base = torch.optim.Optimizer
    return isinstance(value, type) and issubclass(value, base) and value is not base


def _of_class(
    name: str, optimizer_class: type[torch.optim.Optimizer], options: dict[str, Any]
) -> Callable[..., InnerOptimizer]:
    """A class on all of θ at once where it works coordinate by coordinate, else on the tensors of each problem.

    Of another package's class a few steps cannot tell which it does: it gets the tensors of each problem.

    Raises:
        MetaOptError: If neither can be: found by trying.
    """
    grads = [torch.tensor([[1.0, -2.0], [0.5, 3.0]]), torch.tensor([[0.3, 1.0], [-2.0, 0.1]])]

    def run(rows: slice, columns: slice) -> Tensor:
        param = torch.zeros_like(grads[0][rows, columns]).requires_grad_()
        optimizer = optimizer_class([param], lr=0.1, **options)  # type: ignore[call-arg]
        for grad in grads:
            param.grad = grad[rows, columns].clone()
            optimizer.step()
        return param.detach()

    every = slice(None)
    try:
        together = run(every, every)
    except Exception as error:
        if "closure" in str(error):
            _refuse(name, "it evaluates the loss itself, through a closure")
        if "dense gradients" in str(error):
            _refuse(name, "it is for sparse gradients")
        if "does not require grad" in str(error):
            _refuse(name, "it differentiates gradients, which here have no graph")
        if "unexpected keyword argument 'lr'" in str(error):
            _refuse(name, f"{optimizer_class.__name__} takes no lr, the learning rate that is tuned")
        _refuse(name, clipped(error, 200))
    if vars(torch.optim).get(optimizer_class.__name__) is not optimizer_class:
        return partial(BaselineOfTensors, optimizer_class, **options)
    try:
        alone = [[run(slice(i, i + 1), slice(j, j + 1)).item() for j in range(2)] for i in range(2)]
        separate = torch.allclose(together, torch.tensor(alone))
    except Exception:  # it wants more than one coordinate
        separate = False
    return partial(Baseline if separate else BaselineOfTensors, optimizer_class, **options)
