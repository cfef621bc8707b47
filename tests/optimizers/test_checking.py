"""What is wrong with a learned optimizer is said in one line that names the method."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Generator, nn

from meta_opt.errors import MetaOptError
from meta_opt.meta_training.meta_learner import MetaLearner
from meta_opt.optimizees.layout import Layout
from meta_opt.optimizers.checking import check_class, check_step
from meta_opt.optimizers.contract import OptimizerNetwork, Step

LAYOUT = Layout.of({"w": torch.zeros(2, 3), "b": torch.zeros(2)})


class Descent(OptimizerNetwork):
    """Gradient descent with a learned rate."""

    def build(self, layout: Any, generator: Any) -> None:
        self.rate = nn.Parameter(torch.tensor(0.1))

    def init_state(self, layout: Any, num_problems: Any) -> Any:
        return ()

    def step(self, evaluation: Any, state: Any, noise: Any = None) -> Any:
        return Step(-self.rate * evaluation.grad, state)


def descent(**attributes: Any) -> Callable[[], OptimizerNetwork]:
    return type("Mine", (Descent,), attributes)


def stepping(step: Callable[..., Any]) -> Callable[[], OptimizerNetwork]:
    return descent(step=lambda self, evaluation, state, noise=None: step(self, evaluation))


def fails(self: Any, *arguments: Any) -> Any:
    raise IndexError("of mine")


BROKEN: dict[str, tuple[Callable[[], OptimizerNetwork], str]] = {
    "step": (
        descent(step=lambda self, evaluation, state: None),
        "Mine.step must take (evaluation, state, noise), it takes (evaluation, state)",
    ),
    "init_state": (
        descent(init_state=lambda self, layout: ()),
        "Mine.init_state must take (layout, num_problems), it takes (layout)",
    ),
    "reads": (descent(reads={"gradient"}), "Mine.reads must be a frozenset of loss, grad, params, found {'gradient'}"),
    "reads a list": (descent(reads=["grad"]), "Mine.reads must be a frozenset of loss, grad, params, found ['grad']"),
    "reads a text": (descent(reads="grad"), "Mine.reads must be a frozenset of loss, grad, params, found grad"),
    "scope": (descent(scope="all"), "Mine.scope must be one of coordinate, tensor, problem, found all"),
    "no weights": (descent(build=lambda self, layout, generator: None), "Mine.build must make weights to train (nn.Pa"),
    "None": (stepping(lambda self, e: None), "Mine.step must return Step(update, state), found NoneType"),
    "a pair": (stepping(lambda self, e: (e.grad, ())), "Mine.step must return Step(update, state), found a tuple of 2"),
    "shape": (
        stepping(lambda self, e: Step(e.grad.T, ())),
        "Mine.step must return an update [B, N], here [1, 8] of torch.float32, found [8, 1] of torch",
    ),
    "list": (
        stepping(lambda self, e: Step([1.0], ())),
        "Mine.step must return an update [B, N], here [1, 8] of torch.float32, found list",
    ),
    "type": (
        stepping(lambda self, e: Step(e.grad.double(), ())),
        "Mine.step must return an update [B, N], here [1, 8] of torch.float32, found [1, 8] of torch.float64",
    ),
    "state in place": (
        descent(
            init_state=lambda self, layout, num_problems: {"steps": torch.zeros(num_problems, 1)},
            step=lambda self, evaluation, state, noise=None: Step(evaluation.grad, {"steps": state["steps"].add_(1)}),
        ),
        "Mine.step changes its state (steps) in place: it must return a new one",
    ),
    "nan": (stepping(lambda self, e: Step(e.grad * torch.nan, ())), "Mine.step returns an update that is not finite"),
    "in place": (stepping(lambda self, e: Step(e.grad.mul_(-1), ())), "Mine.step changes grad of its evaluation in pl"),
    "fails": (descent(step=lambda self, evaluation, state, noise=None: fails(self)), "Mine.step fails with IndexError"),
    "state fails": (
        descent(init_state=lambda self, layout, num_problems: fails(self)),
        "Mine.init_state fails with IndexError: of mine (tests",
    ),
    "reads what it must not": (
        stepping(lambda self, e: Step(e.grad * e.loss, ())),
        "the optimizer reads loss, which is not known here",
    ),
}


def building(build: Callable[..., Any], **attributes: Any) -> Callable[[], OptimizerNetwork]:
    def build_all(self: Any, layout: Any, generator: Generator) -> None:
        Descent.build(self, layout, generator)
        build(self, generator)

    return descent(build=build_all, **attributes)


def scaled(self: Any, evaluation: Any, state: Any, noise: Any = None) -> Step:
    return Step(-self.rate * self.factor * evaluation.grad, state)


NOT_KEPT: dict[str, tuple[Callable[[], OptimizerNetwork], str]] = {
    "float64": (
        building(lambda self, generator: self.register_buffer("ones", torch.ones(2, dtype=torch.float64))),
        "Mine cannot be kept in a checkpoint: its weights are of torch.float32 and torch.float64",
    ),
    "lazy": (
        building(lambda self, generator: self.add_module("hidden", nn.LazyLinear(3))),
        "Mine.build must give every weight a shape, and hidden.weight has none",
    ),
    "extra state": (
        descent(get_extra_state=lambda self: {"steps": 1}, set_extra_state=lambda self, state: None),
        "Mine cannot be kept in a checkpoint: its weight 'average.module._extra_state' is a dict of 1",
    ),
    "infinite": (
        building(lambda self, generator: self.register_buffer("most", torch.full((1,), torch.inf))),
        "Mine cannot be kept in a checkpoint: average.module.most is not finite",
    ),
    "drawn": (
        building(lambda self, generator: setattr(self, "factor", torch.randn(1, generator=generator)), step=scaled),
        "Mine makes other updates after it was kept in a checkpoint and read again",
    ),
    "no weight of its own": (
        building(
            lambda self, generator: self.register_buffer("factor", torch.randn(1, generator=generator), False),
            step=scaled,
        ),
        "Mine makes other updates after it was kept in a checkpoint and read again",
    ),
    "chance": (
        descent(step=lambda self, evaluation, state, noise=None: Step(-torch.rand(()) * evaluation.grad, state)),
        "Mine makes other updates after it was kept in a checkpoint and read again",
    ),
    "a lock": (
        building(lambda self, generator: setattr(self, "lock", threading.Lock())),
        "Mine cannot be copied: TypeError",
    ),
    "computed": (
        building(lambda self, generator: setattr(self, "factor", 2 * self.rate), step=scaled),
        "Mine cannot be copied: RuntimeError",
    ),
}


def check(make: Callable[[], OptimizerNetwork]) -> None:
    network = make()
    check_class(network)
    network.build(LAYOUT, Generator())
    check_step(network, LAYOUT, Generator().manual_seed(0))


@pytest.mark.parametrize("case", BROKEN)
def test_what_is_wrong_is_said(case: str) -> None:
    make, message = BROKEN[case]
    with pytest.raises(MetaOptError) as caught:
        check(make)
    assert message in str(caught.value)


@pytest.mark.parametrize("case", NOT_KEPT)
def test_meta_training_does_not_begin_with_what_a_checkpoint_cannot_keep(case: str) -> None:
    make, message = NOT_KEPT[case]
    with pytest.raises(MetaOptError) as caught:
        MetaLearner("quadratic", make())
    assert message in str(caught.value)


def test_buffers_that_a_checkpoint_keeps_pass() -> None:
    MetaLearner(
        "quadratic",
        building(
            lambda self, generator: self.register_buffer("factor", torch.randn(1, generator=generator)), step=scaled
        )(),
    )


def test_what_is_right_passes() -> None:
    check(Descent)
    check(descent(reads=frozenset({"grad", "params"}), scope="coordinate"))
