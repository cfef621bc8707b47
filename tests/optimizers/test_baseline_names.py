"""Baselines by name: schedules, rates that are not tuned, options, and classes of other packages."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from problems_for_tests import Regression
from torch import Tensor

from meta_opt.errors import MetaOptError
from meta_opt.evaluation.compare import compare
from meta_opt.evaluation.setting import Setting
from meta_opt.inner_loop.episodes import run_episodes
from meta_opt.optimizees.problems import Problems
from meta_opt.optimizers.baseline_names import BASELINES, LONG, UNTUNED, HandMade, baseline, default_baselines
from meta_opt.optimizers.baselines import Baseline, BaselineOfTensors, SpectralMuon
from meta_opt.optimizers.contract import InnerOptimizer
from meta_opt.optimizers.schedules import Schedule


class Whole(torch.optim.Optimizer):
    """Steps of the length lr along the gradient of everything."""

    def __init__(self, params: list[Tensor], lr: float = 0.1) -> None:
        super().__init__(params, {"lr": lr})

    @torch.no_grad()
    def step(self, closure: object = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            norm = torch.stack([each.grad.norm() for each in group["params"]]).norm()
            for each in group["params"]:
                each -= group["lr"] * each.grad / norm


def after(optimizer: InnerOptimizer, problems: Problems, steps: int) -> Tensor:
    """θ after so many steps, [B, N]."""
    params = problems.initial_params
    state = optimizer.init_state(problems.layout, len(problems))
    for _ in range(steps):
        update, state, *_ = optimizer.step(problems.evaluate(params), state)
        params = params + update
    return params


def problems(count: int = 2) -> Problems:
    return Problems(Regression(), "test", range(count), seed=3)


@pytest.mark.parametrize(
    ("shape", "warmup", "expected"),
    [
        ("constant", 0.0, [1.0, 1.0, 1.0, 1.0]),
        ("cosine", 0.0, [1.0, 0.5 * (1 + math.cos(math.pi / 4)), 0.5, 0.5 * (1 - math.cos(math.pi / 4))]),
        ("linear", 0.0, [1.0, 0.75, 0.5, 0.25]),
        ("linear", 0.5, [0.5, 1.0, 1.0, 0.5]),
        ("constant", 0.5, [0.5, 1.0, 1.0, 1.0]),
    ],
)
def test_schedules(shape: str, warmup: float, expected: list[float]) -> None:
    factor = Schedule(shape, warmup).over(4)
    assert [factor(t) for t in range(4)] == pytest.approx(expected)
    assert factor(7) == factor(3)  # going on for longer does no harm


def test_a_schedule_is_that_of_torch() -> None:
    """torch.optim with CosineAnnealingLR on each problem alone."""
    given, steps = problems(), 6
    found = after(baseline("AdamW:cosine:weight_decay=0.1")(0.05, steps), given, steps)
    for row in range(2):
        alone = Problems(Regression(), "test", [row], seed=3)
        theta = alone.initial_params.clone().requires_grad_()
        optimizer = torch.optim.AdamW([theta], lr=0.05, weight_decay=0.1)
        scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        for _ in range(steps):
            theta.grad = alone.evaluate(theta.detach()).grad
            optimizer.step()
            scheduler.step()
        torch.testing.assert_close(found[row], theta.detach()[0])


def test_a_step_of_spectral_muon() -> None:
    given = problems()
    made = baseline("SpectralMuon")(0.06)
    assert isinstance(made, SpectralMuon)
    moved = after(made, given, 1) - given.initial_params
    for name, change in given.layout.unflatten(moved).items():
        for each in change:
            if each.dim() == 2:
                rows, columns = each.shape
                assert torch.linalg.matrix_norm(each, 2).item() == pytest.approx(
                    0.06 * math.sqrt(max(1.0, rows / columns)),
                    rel=0.4,  # Newton-Schulz is rough
                ), name
            else:
                torch.testing.assert_close(each.abs(), torch.full_like(each, 0.009), rtol=1e-3, atol=0.0)


def test_optimizers_of_whole_problems_know_their_shapes() -> None:
    made = baseline("Adafactor")(0.1)
    assert isinstance(made, BaselineOfTensors)
    given, steps = problems(), 3
    found = after(made, given, steps)
    for row in range(2):
        alone = Problems(Regression(), "test", [row], seed=3)
        tensors = {name: each[0].clone() for name, each in alone.layout.unflatten(alone.initial_params).items()}
        optimizer = torch.optim.Adafactor([*tensors.values()], lr=0.1)
        for _ in range(steps):
            grad = alone.evaluate(alone.layout.flatten({name: each[None] for name, each in tensors.items()})).grad
            for name, each in alone.layout.unflatten(grad).items():
                tensors[name].grad = each[0]
            optimizer.step()
        torch.testing.assert_close(found[row], alone.layout.flatten(tensors))


def test_a_class_of_another_package() -> None:
    made = baseline(f"{__name__}.Whole:linear")(0.5, 4)
    given = problems()
    moved = after(made, given, 1) - given.initial_params
    torch.testing.assert_close(moved.norm(dim=1), torch.full((2,), 0.5))  # of each problem on its own


class Late(torch.optim.SGD):
    """SGD, but for the gradient's norm, which is clipped where it is above a thousandth from the fourth step on."""

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        self.time = getattr(self, "time", 0) + 1
        if self.time > 3:
            torch.nn.utils.clip_grad_norm_(self.param_groups[0]["params"], 1e-3)
        super().step(closure)


class Each(torch.optim.SGD):
    """A group for each tensor."""

    def __init__(self, params: list[Tensor], lr: float) -> None:
        super().__init__([{"params": [param]} for param in params], lr=lr)


class Eta(torch.optim.SGD):
    """Calls its rate something else."""

    def __init__(self, params: list[Tensor], lr: float) -> None:
        super().__init__(params, lr=lr)
        for group in self.param_groups:
            group["eta"] = group.pop("lr")

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for param in group["params"]:
                param.data.sub_(group["eta"] * param.grad)


def test_problems_do_not_meet_in_a_class_of_another_package() -> None:
    """Whatever a few steps look like."""
    make = baseline(f"{__name__}.Late")
    torch.testing.assert_close(after(make(0.1), problems(3), 6)[:1], after(make(0.1), problems(1), 6))


def test_a_schedule_reaches_every_group() -> None:
    one, each = (after(baseline(name)(0.1, 5), problems(), 5) for name in ("SGD:cosine", f"{__name__}.Each:cosine"))
    torch.testing.assert_close(one, each)


def test_a_class_whose_rate_has_another_name() -> None:
    torch.testing.assert_close(
        after(baseline(f"{__name__}.Eta")(0.1), problems(), 4), after(baseline("SGD")(0.1), problems(), 4)
    )
    with pytest.raises(MetaOptError, match="Eta takes no schedule: its groups have no lr"):
        after(baseline(f"{__name__}.Eta:cosine")(0.1, 4), problems(), 4)


class PassesOver(torch.optim.SGD):
    """SGD of what requires gradients."""

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for param in group["params"]:
                if param.requires_grad:
                    self.move(param, group["lr"])

    def move(self, param: Tensor, lr: float) -> None:
        param -= lr * param.grad


class Replaces(PassesOver):
    """Puts new tensors in the place of the old ones."""

    def move(self, param: Tensor, lr: float) -> None:
        param.data = param.data - lr * param.grad


class Clears(PassesOver):
    """Leaves no gradients behind."""

    def move(self, param: Tensor, lr: float) -> None:
        super().move(param, lr)
        param.grad = None


class Keeps(PassesOver):
    """Steps along the gradient before, which it has not copied, from the second step on."""

    def move(self, param: Tensor, lr: float) -> None:
        kept = self.state[param].get("kept", param.grad)
        self.state[param]["kept"] = param.grad
        param -= lr * kept


class Returns(PassesOver):
    """Half of the way back to where it was made."""

    def __init__(self, params: list[Tensor], lr: float) -> None:
        super().__init__(params, lr=lr)
        for param in params:
            self.state[param]["first"] = param.detach().clone()

    def move(self, param: Tensor, lr: float) -> None:
        super().move(param, lr)
        param.lerp_(self.state[param]["first"], 0.5)


@pytest.mark.parametrize("made", [PassesOver, Replaces, Clears, Keeps, Returns])
def test_a_class_does_what_it_does_in_a_loop(made: type[torch.optim.SGD]) -> None:
    given, steps = problems(), 4
    found = after(baseline(f"{__name__}.{made.__name__}")(0.02), given, steps)
    assert (found != given.initial_params).any(1).all()
    for row in range(2):
        alone = Problems(Regression(), "test", [row], seed=3)
        tensors = {name: each[0].clone() for name, each in alone.layout.unflatten(alone.initial_params).items()}
        optimizer = made([each.requires_grad_() for each in tensors.values()], lr=0.02)
        for _ in range(steps):
            theta = alone.layout.flatten({name: each.detach()[None] for name, each in tensors.items()})
            for name, each in alone.layout.unflatten(alone.evaluate(theta).grad).items():
                tensors[name].grad = each[0]
            optimizer.step()
        torch.testing.assert_close(found[row], alone.layout.flatten(tensors).detach())


class Curved(PassesOver):
    """Wants the graph of gradients."""

    def move(self, param: Tensor, lr: float) -> None:
        (curvature,) = torch.autograd.grad(param.grad.sum(), param)
        param -= lr * param.grad / curvature


class Moves(PassesOver):
    """Works elsewhere from the first."""

    def __init__(self, params: list[Tensor], lr: float) -> None:
        super().__init__(params, lr=lr)
        for param in params:
            param.data = param.data.clone()


def test_classes_that_cannot_work_here() -> None:
    with pytest.raises(MetaOptError, match="Curved cannot be a baseline: it differentiates gradients, which here have"):
        baseline(f"{__name__}.Curved")
    with pytest.raises(MetaOptError, match="Moves cannot be a baseline: it moves the parameters that it"):
        after(baseline(f"{__name__}.Moves")(0.1), problems(), 1)


class Tires(PassesOver):
    """Fails in its third step, after those that it is tried with."""

    def move(self, param: Tensor, lr: float) -> None:
        count = self.state[param]["count"] = self.state[param].get("count", 0) + 1
        if count == 3:
            raise ValueError("no more of this")


def test_an_error_in_a_step_is_no_want_of_a_rate() -> None:
    with pytest.raises(MetaOptError, match="^Tires cannot be a baseline here: ValueError: no more of this$"):
        compare(
            Setting(Regression(), [3], 2, 2, seed=3),
            {},
            {"Tires": baseline(f"{__name__}.Tires"), "SGD": baseline("SGD")},
        )


def test_a_scheduled_baseline_runs_for_each_horizon() -> None:
    setting = Setting(Regression(), [6, 12], num_problems=3, num_validation_problems=2, seed=3)
    make = baseline("Adam:cosine")
    comparisons = compare(setting, {}, {"Adam:cosine": make})
    for comparison in comparisons:
        (entry,) = comparison.entries
        rate = entry.runs["final"].learning_rate
        assert rate is not None
        steps = comparison.num_steps
        alone = run_episodes(Regression(), make(rate, steps), "test", 3, steps, seed=3)
        assert entry.merit("final").value == alone.final.mean().item()
        scores = [
            run_episodes(
                Regression(), baseline("Adam:cosine")(each, steps), "validation", 2, steps, seed=3
            ).final.mean()
            for each in (rate, rate * 10**0.25, rate * 10**-0.25)
        ]
        assert scores[0] == min(scores)


def test_what_is_not_tuned_is_no_measure() -> None:
    setting = Setting(Regression(), [6], num_problems=3, num_validation_problems=2, seed=3)
    names = ["SGD", "SGD:lr=1e-9"]
    (comparison,) = compare(setting, {}, {name: baseline(name) for name in names})
    tuned, fixed = comparison.entries
    assert (tuned.tuned, fixed.tuned) == (True, False)
    assert fixed.runs["sum"].learning_rate == fixed.runs["final"].learning_rate == 1e-9
    assert comparison.ratio(tuned, "final") == 1.0
    assert comparison.ratio(fixed, "final") > 1.0
    (alone,) = compare(setting, {}, {"SGD:lr=1e-9": baseline("SGD:lr=1e-9")})
    assert alone.ratio(alone.entries[0], "final") == 1.0  # there is nothing else


def test_defaults() -> None:
    assert default_baselines(LONG) == ["SGD", "Nesterov", "RMSprop", "Adam", *UNTUNED]
    assert default_baselines(LONG + 1) == ["Adam", "AdamW:cosine", "Nesterov:cosine", "Muon:cosine", *UNTUNED]
    assert all(isinstance(baseline(name), HandMade) for name in default_baselines(LONG + 1))
    assert [baseline(name).lr for name in UNTUNED] == [0.001, 0.06]


def test_options() -> None:
    made = baseline("Nesterov:weight_decay=0.1:momentum=0.5")(0.2)
    assert isinstance(made, Baseline)
    assert made.options == {"lr": 0.2, "momentum": 0.5, "nesterov": True, "weight_decay": 0.1}
    assert baseline("Adam:warmup").schedule == Schedule("constant", 0.05)
    assert baseline("Adam:cosine:warmup=0.2").schedule == Schedule("cosine", 0.2)
    assert BASELINES["Adam"].lr is None


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("Adam:cosin", "'cosin' is no schedule; did you mean 'cosine'?"),
        ("Adam:", "'' is no schedule"),
        ("Adam:lr=fast", "lr must be a number, not 'fast'"),
        ("Adam:lr=-1", "lr must be more than 0, not -1"),
        ("Adam:lr=nan", "lr must be more than 0, not nan"),
        ("Adam:warmup=1", "warmup is a part of the steps, from 0 to less than 1, not 1"),
        ("Adam:momentum=0.9", "unexpected keyword argument 'momentum'"),
        ("Adam:weight_decay=-1", "Invalid weight_decay value"),
        ("Muon:momentum=0.9", "unexpected keyword argument 'momentum'"),
        ("Muon:weight_decay=-1", "weight_decay must be at least 0, not -1"),
        ("SpectralMuon:cosine:weight_decay=nan", "weight_decay must be at least 0, not nan"),
        ("LBFGS:cosine", "LBFGS takes no schedule and no options"),
        ("Adm:cosine", "no baseline is called 'Adm'; did you mean 'Adam'?"),
        ("no_such_package.SOAP", "cannot be imported (ModuleNotFoundError: No module named 'no_such_package')"),
        ("torch.nothing", "cannot be imported"),
        ("os.system", "it is no class of torch.optim.Optimizer"),
        (".Adam", "cannot be imported"),
        ("SparseAdam:cosine", "it is for sparse gradients"),
    ],
)
def test_what_is_no_baseline(name: str, message: str) -> None:
    with pytest.raises(MetaOptError) as error:
        baseline(name)
    assert message in str(error.value)


def test_a_class_without_lr_is_no_baseline(monkeypatch: pytest.MonkeyPatch) -> None:
    class Stepped(torch.optim.SGD):
        def __init__(self, params: Any, step_size: float = 0.1) -> None:
            super().__init__(params, lr=step_size)

    monkeypatch.setattr(torch.optim, "Stepped", Stepped, raising=False)
    with pytest.raises(
        MetaOptError, match=r"Stepped cannot be a baseline: Stepped takes no lr, the learning rate that"
    ):
        baseline("torch.optim.Stepped")
