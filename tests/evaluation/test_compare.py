"""Tuning and comparison."""

import math
import random
from collections.abc import Callable

import numpy as np
import pytest
import torch
from problems_for_tests import Regression, Square
from torch import Tensor

from meta_opt.errors import MetaOptError, OptimizeeError
from meta_opt.evaluation import setting as setting_module
from meta_opt.evaluation.compare import Comparison, Contestant, Entry, Mean, Outcome, Validation, compare
from meta_opt.evaluation.reports import Report
from meta_opt.evaluation.setting import MERITS, Setting
from meta_opt.evaluation.tuning import tune
from meta_opt.inner_loop.episodes import run_episodes
from meta_opt.optimizees.layout import Layout
from meta_opt.optimizees.problems import Problems, layout_of, problem_generator
from meta_opt.optimizers.baseline_names import BASELINES, HandMade, adam, baseline, sgd
from meta_opt.optimizers.baselines import Baseline
from meta_opt.optimizers.coordinatewise_lstm import CoordinatewiseLSTM


def learned(layout: Layout, **options: object) -> CoordinatewiseLSTM:
    optimizer = CoordinatewiseLSTM(num_layers=0, inputs="moments", output_scale=1.0, initial_output=0.0, **options)
    optimizer.build(layout, problem_generator(0, "phi"))
    return optimizer.requires_grad_(False)


@pytest.mark.parametrize("best", [1e-6, 3e-3, 0.1, 40.0])
def test_tune_widens_until_the_best_is_not_at_an_edge(best: float) -> None:
    asked = []

    def score(lr: float) -> float:
        asked.append(lr)
        return math.nan if lr > 30 * best else abs(math.log(lr / best))

    found = tune(score, start=0.03)
    assert abs(math.log10(found / best)) <= 0.125 + 1e-9  # half a step of the grid
    assert min(asked) < found < max(asked)
    assert len(asked) == len(set(asked))


def test_tune_looks_beyond_a_plateau() -> None:
    """Gradient descent on saturated units: best at 3, but 0.03 is a little better than its neighbours."""
    found = tune(lambda lr: min(2.30 + 0.01 * abs(math.log(lr / 0.03)), 1.0 + abs(math.log(lr / 3.0))), start=0.03)
    assert found == pytest.approx(3.0)


@pytest.mark.parametrize("score", [lambda lr: lr, lambda lr: -lr, lambda lr: math.nan])
def test_tune_gives_up(score: Callable[[float], float]) -> None:
    with pytest.raises(ValueError, match="there is no best learning rate between 1e-08 and 1e\\+08"):
        tune(score, start=1.0)


def test_compare() -> None:
    setting = Setting(Regression(), [20], num_problems=16, num_validation_problems=8, seed=3)
    contestant = Contestant(learned(layout_of(Regression())))
    (comparison,) = compare(setting, {"mine": contestant}, BASELINES)
    entries = {entry.name: entry for entry in comparison.entries}
    assert list(entries) == ["mine", "SGD", "Nesterov", "RMSprop", "Adam"]
    # the learned optimizer does nothing yet, the others do
    standing = run_episodes(Regression(), contestant.optimizer, "test", 16, 20, seed=3)
    mine = entries["mine"]
    assert (mine.kind, mine.validation, mine.runs["sum"].learning_rate) == ("learned", None, None)
    assert mine.merit("sum").value == standing.sum.mean().item()
    assert mine.merit("final").value == standing.final.mean().item()
    assert mine.merit("sum").sem == pytest.approx(standing.sum.std().item() / 4)
    torch.testing.assert_close(mine.runs["final"].loss_mean, standing.losses.double().mean(1))
    torch.testing.assert_close(mine.runs["final"].loss_sem, standing.losses.double().std(1) / 4)
    for name in BASELINES:
        assert entries[name].kind == "baseline"
        for merit in MERITS:
            assert comparison.ratio(entries[name], merit) < 0.9 * comparison.ratio(mine, merit)
            # no other learning rate of the grid is better on the validation problems
            rate = entries[name].runs[merit].learning_rate
            assert rate is not None
            scores = [validated(name, rate * factor, merit) for factor in (1.0, 10**0.25, 10**-0.25)]
            assert scores[0] == min(scores)
            again = run_episodes(Regression(), BASELINES[name](rate), "test", 16, 20, seed=3)
            assert entries[name].merit(merit).value == getattr(again, merit).mean().item()
    assert min(comparison.ratio(entries[name], "sum") for name in BASELINES) == 1.0


def validated(name: str, rate: float, merit: str) -> float:
    curves = run_episodes(Regression(), BASELINES[name](rate), "validation", 8, 20, seed=3)
    return getattr(curves, merit).mean().item()


def test_a_comparison_over_several_horizons_is_the_same_as_each_alone() -> None:
    layout = layout_of(Regression())
    contestants = {
        "mine": Contestant(learned(layout, base_step=0.02)),
        "knows how long it runs": Contestant(learned(layout, base_step=0.02, horizon=True)),
    }

    def compared(*horizons: int) -> list[Comparison]:
        return compare(Setting(Regression(), horizons, 4, 4), contestants, {"Adam": adam, "SGD": sgd})

    for one, (alone,) in zip(compared(25, 8), (compared(25), compared(8)), strict=True):
        assert one.num_steps == alone.num_steps
        for entry, expected in zip(one.entries, alone.entries, strict=True):
            for merit in MERITS:
                assert entry.merit(merit) == expected.merit(merit)
                assert entry.runs[merit].learning_rate == expected.runs[merit].learning_rate
                assert torch.equal(entry.runs[merit].loss_mean, expected.runs[merit].loss_mean)


def test_every_run_is_made_once(monkeypatch: pytest.MonkeyPatch) -> None:
    made = []

    def recorded(optimizee, optimizer, split, num_problems, num_steps, **options):  # type: ignore[no-untyped-def]
        if num_steps > 1:  # not what warms up
            rate = optimizer.options["lr"] if isinstance(optimizer, Baseline) else None
            made.append((type(optimizer), rate, split, num_problems, num_steps))
        return run_episodes(optimizee, optimizer, split, num_problems, num_steps, **options)

    monkeypatch.setattr(setting_module, "run_episodes", recorded)

    class Counting(setting_module.Progress):
        expected = done = 0

        def expect(self, steps: int) -> None:
            self.expected += steps

        def advance(self, steps: int) -> None:
            self.done += steps

    progress = Counting()
    setting = Setting(Regression(), [15, 30], 3, 4, progress=progress)
    optimizers = {name: Contestant(learned(layout_of(Regression()))) for name in ("one", "two")}
    compare(setting, optimizers, {"Adam": adam})
    assert made[:2] == [(CoordinatewiseLSTM, None, "test", 3, 30)] * 2
    assert len(made[2:]) == len(set(made[2:]))
    assert progress.expected == progress.done


def test_validation_is_that_of_training() -> None:
    optimizer = learned(layout_of(Regression()), base_step=0.02)
    contestant = Contestant(optimizer, Validation(num_steps=11, num_problems=3, seed=7))
    (comparison,) = compare(Setting(Regression(), [20], 4, 4, seed=0), {"mine": contestant}, {})
    expected = run_episodes(Regression(), optimizer, "validation", 3, 11, seed=7)
    assert comparison.entries[0].validation == pytest.approx(
        {
            "sum": expected.sum.mean().item(),
            "final": expected.final.mean().item(),
        },
        rel=1e-6,
    )
    assert math.isnan(comparison.ratio(comparison.entries[0], "sum"))  # there is no baseline
    assert comparison.steps_to_best_baseline_final(comparison.entries[0]) is None


class Noisy(torch.optim.SGD):
    """SGD that draws from every global generator."""

    def step(self, closure: object = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for param in group["params"]:
                noise = torch.randn_like(param) + np.random.standard_normal() + random.gauss(0.0, 1.0)
                param.data -= group["lr"] * (param.grad + noise)


def test_baselines_that_draw_random_numbers() -> None:
    """The same seed gives the same numbers, another one others; who draws after that gets what he would have got."""
    made = {name: baseline(f"{__name__}.{name}") for name in ("Noisy", "Noisy:lr=0.1")}
    found = []
    for seed in (0, 0, 1):
        before = torch.get_rng_state().tolist(), str(np.random.get_state()), random.getstate()
        (comparison,) = compare(Setting(Square(), [3], 2, 2, seed), {}, made)
        found.append(
            [(one.runs[merit].learning_rate, *one.merit(merit)) for one in comparison.entries for merit in MERITS]
        )
        assert (torch.get_rng_state().tolist(), str(np.random.get_state()), random.getstate()) == before
    assert found[0] == found[1] != found[2]


def entry(name: str, kind: str, finals: list[float]) -> Entry:
    curve = torch.tensor(finals, dtype=torch.float64)
    merits = {"sum": Mean(float(curve.sum()), 0.0), "final": Mean(finals[-1], 0.0)}
    run = Outcome(0.1, curve, torch.zeros_like(curve), curve, merits, 0.0)  # type: ignore[arg-type]
    return Entry(name, kind, {"sum": run, "final": run})  # type: ignore[arg-type]


def test_steps_and_ratio_to_the_best_baseline() -> None:
    mine = entry("mine", "learned", [9.0, 4.0, 3.0, 1.0])
    good = entry("good", "baseline", [9.0, 8.0, 7.0, 4.0])
    bad = entry("bad", "baseline", [9.0, 8.0, 3.5, 6.0])
    lost = entry("lost", "baseline", [9.0, 8.0, math.inf, math.nan])
    comparison = Comparison(3, [mine, good, bad, lost])
    assert [comparison.steps_to_best_baseline_final(one) for one in comparison.entries] == [1, 3, 2, None]
    assert [comparison.ratio(one, "final") for one in (mine, good, bad)] == [0.25, 1.0, 1.5]
    assert comparison.ratio(mine, "sum") == 17 / 26.5


def test_the_best_baseline_reaches_its_own_final_loss() -> None:
    """Also where the final loss is the mean of the last ten."""
    setting = Setting(Regression(), [7, 25], 4, 4)
    for comparison in compare(setting, {}, BASELINES):
        best = min(comparison.entries, key=lambda entry: entry.merit("final").value)
        assert comparison.ratio(best, "final") == 1.0
        steps = comparison.steps_to_best_baseline_final(best)
        assert steps is not None
        assert steps <= comparison.num_steps


def test_a_baseline_that_cannot_be_tuned() -> None:
    """The others are compared; with no others that is an error."""
    setting, idle = Setting(Square(), [5, 6], 2, 2), HandMade(lambda lr: sgd(0.0))
    for comparison in compare(setting, {}, {"idle": idle, **BASELINES}):
        assert [entry.name for entry in comparison.entries] == list(BASELINES)
        (reason,) = comparison.not_tuned.values()
        assert reason.startswith("for its sum of losses over 5 steps there is no best learning rate between 3e-10 and")
    reports = Report("square", 2, compare(setting, {}, {"idle": idle, **BASELINES}), {}, {}, "")
    assert "\nidle: not tuned; for its sum of losses over 5 steps there is no best" in reports.table()
    assert list(reports.results()["not_tuned"]) == ["idle"]
    with pytest.raises(
        MetaOptError, match="^also cannot be tuned: for its sum of losses over 5 steps there is no best"
    ):
        compare(setting, {}, {"idle": idle, "also": idle})  # the last one is named


def test_an_optimizer_without_weights_for_a_group() -> None:
    optimizer = learned(layout_of(Square()), share="group")
    with pytest.raises(MetaOptError, match="has no network for first, second; it has all"):
        compare(Setting(Regression(), [5], 2, 2), {"mine": Contestant(optimizer)}, BASELINES)


def test_an_optimizee_that_is_broken() -> None:
    class Broken(Square):
        def loss(self, params: dict[str, Tensor], problem: dict[str, Tensor], batch: dict[str, Tensor]) -> Tensor:
            return params["x"]

    with pytest.raises(OptimizeeError, match="must return a scalar"):
        compare(Setting(Broken(), [5], 2, 2), {}, BASELINES)


@pytest.mark.parametrize("name", ["AdamW", "Adagrad", "Adadelta", "NAdam", "Rprop"])
def test_a_class_of_torch_optim_is_a_baseline(name: str) -> None:
    made = baseline(name)(0.25)
    assert isinstance(made, Baseline)
    assert made.optimizer_class is getattr(torch.optim, name)
    assert made.options == {"lr": 0.25}


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="this version of PyTorch has none")
def test_muon_is_that_of_torch_on_each_problem() -> None:
    problems = Problems(Regression(), "test", range(2), seed=3)
    optimizer = baseline("Muon")(0.05)
    layout, params = problems.layout, problems.initial_params
    assert {segment.num_rows > 0 for segment in layout.segments("tensor", tensors=True)} == {True, False}
    state, alone = optimizer.init_state(layout, 2), []
    for theta in params:
        tensors = [
            part.clone().view(shape) for part, shape in zip(theta.split(layout.sizes), layout.shapes, strict=True)
        ]
        matrices, others = ([each for each in tensors if (each.dim() > 1) == which] for which in (True, False))
        muon = torch.optim.Muon(matrices, 0.05, weight_decay=0.0, adjust_lr_fn="match_rms_adamw")
        alone.append((tensors, [muon, torch.optim.Adam(others, 0.05)]))
    for _ in range(3):
        evaluation = problems.evaluate(params)
        for grad, (tensors, optimizers) in zip(evaluation.grad, alone, strict=True):
            for tensor, part in zip(tensors, grad.split(layout.sizes), strict=True):
                tensor.grad = part.view(tensor.shape)
            for each in optimizers:
                each.step()
        update, state, *_ = optimizer.step(evaluation, state)
        params = params + update
        expected = torch.stack([torch.cat([tensor.flatten() for tensor in tensors]) for tensors, _ in alone])
        torch.testing.assert_close(params, expected)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("lbfgs", "did you mean 'LBFGS'?"),
        ("SparseAdam", "it is for sparse gradients"),
        ("adam", "did you mean 'Adam'?"),
        ("Nesterof", "did you mean 'Nesterov'?"),
        ("Optimizer", "no baseline is called 'Optimizer'"),
        ("lr_scheduler", "no baseline is called 'lr_scheduler'"),
    ],
)
def test_what_is_no_baseline(name: str, message: str) -> None:
    with pytest.raises(MetaOptError, match=message.replace("?", "\\?")):
        baseline(name)
