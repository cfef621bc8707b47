"""The inner loop."""

from typing import Any

import pytest
import torch
from problems_for_tests import Regression

from meta_opt.errors import MetaOptError
from meta_opt.inner_loop.unroll import begin, joined, unroll
from meta_opt.optimizees.problems import Problems, problem_generator
from meta_opt.optimizers.contract import Rollout, Step
from meta_opt.optimizers.coordinatewise_lstm import CoordinatewiseLSTM
from meta_opt.optimizers.state import map_state


def tensors(state: object) -> list[torch.Tensor]:
    found: list[torch.Tensor] = []
    map_state(lambda tensor: found.append(tensor) or tensor, state)  # type: ignore[func-returns-value]
    return found


def setup() -> tuple[Problems, CoordinatewiseLSTM]:
    problems = Problems(Regression(), "train", range(2), seed=0, dtype=torch.float64)
    optimizer = CoordinatewiseLSTM(inputs="log_sign+moments", base_step=0.03)
    optimizer.build(problems.layout, problem_generator(0, "phi"))
    return problems, optimizer.double()


def test_segments_equal_the_whole() -> None:
    problems, optimizer = setup()
    whole = unroll(problems, optimizer, begin(problems, optimizer), 10)
    problems, optimizer = setup()
    first = unroll(problems, optimizer, begin(problems, optimizer), 4)
    second = unroll(problems, optimizer, first.end.detach(), 6)
    assert torch.equal(whole.losses, torch.cat([first.losses, second.losses]))
    assert torch.equal(whole.end.evaluation.params, second.end.evaluation.params)
    both = joined([first, second])
    assert both.start is first.start
    assert both.end is second.end
    assert torch.equal(whole.losses, both.losses)
    for ours, theirs in zip(both.evaluations, whole.evaluations, strict=True):
        assert torch.equal(ours.grad, theirs.grad)


@pytest.mark.parametrize("share", ["all", "group"])
def test_the_state_at_the_start_is_left_alone(share: str) -> None:
    problems, optimizer = setup()
    optimizer.share = share  # type: ignore[assignment]
    optimizer.build(problems.layout, problem_generator(0, "phi"))
    optimizer.double()
    before = unroll(problems, optimizer, begin(problems, optimizer), 3).end
    kept = map_state(torch.clone, before.state)
    trajectory = unroll(problems, optimizer, before, 5)
    for ours, theirs in zip(tensors(before.state), tensors(kept), strict=True):
        assert torch.equal(ours, theirs)
    state = before.state
    for evaluation in trajectory.evaluations[:-1]:
        _, state, *_ = optimizer.step(evaluation, state)
    for ours, theirs in zip(tensors(trajectory.end.state), tensors(state), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-14)


def test_keeps_params_only_for_optimizers_that_read_them() -> None:
    problems, optimizer = setup()
    for reads in ({"grad"}, {"grad", "params"}):
        optimizer.reads = frozenset(reads)
        trajectory = unroll(problems, optimizer, begin(problems, optimizer), 3)
        assert {frozenset(vars(evaluation)) for evaluation in trajectory.evaluations[1:]} == {
            frozenset(reads | {"loss"})
        }
        assert trajectory.end.evaluation.params.shape == problems.initial_params.shape


def test_steps_are_theta_plus_update_and_nothing_is_evaluated_twice() -> None:
    problems, optimizer = setup()
    calls = []
    evaluate = problems.evaluate
    problems.evaluate = lambda params, **options: calls.append(params) or evaluate(params, **options)  # type: ignore[method-assign,assignment,func-returns-value]
    optimizer.reads = frozenset({"grad", "params"})
    start = begin(problems, optimizer)
    trajectory = unroll(problems, optimizer, start, 3)
    trajectory = unroll(problems, optimizer, trajectory.end.detach(), 3)
    assert len(calls) == 7  # θ_0 ... θ_6
    state = trajectory.start.state
    for before, after in zip(trajectory.evaluations, trajectory.evaluations[1:], strict=False):
        update, state, *_ = optimizer.step(before, state)
        torch.testing.assert_close(after.params, before.params + update.detach(), rtol=1e-13, atol=1e-13)


def test_keeps_a_graph_only_when_asked() -> None:
    problems, optimizer = setup()
    start = begin(problems, optimizer)
    assert not unroll(problems, optimizer, start, 2).losses.requires_grad
    graph = unroll(problems, optimizer, start, 2, keep_graph=True)
    assert graph.losses.requires_grad
    end = graph.end.detach()
    assert not end.evaluation.grad.requires_grad
    assert not end.state.hidden[0][0].requires_grad
    assert not end.state.moments.mean.requires_grad


class Late(CoordinatewiseLSTM):
    """Keeps its contract in the first step only."""

    wrong: str
    taken: int = 0

    def rollout(self, state: Any, noise: Any = None) -> Rollout:
        return Rollout(self, state, noise)

    def step(self, evaluation: Any, state: Any, noise: Any = None) -> Any:
        self.taken += 1
        update, after, record = super().step(evaluation, state, noise)
        if self.taken == 1:
            return Step(update, after, record)
        if self.wrong == "a tensor":
            return update
        changed = {"one column": update[:, :1], "float64": update.double(), "nothing": None}[self.wrong]
        return Step(changed, after)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("wrong", "found"),
    [
        ("a tensor", r"Late.step must return Step\(update, state\), found Tensor"),
        ("one column", r"Late.step must return an update \[B, N\], here .*, found \[2, 1\] of torch.float32"),
        ("float64", r"Late.step must return an update \[B, N\], here .* of torch.float32, found .* of torch.float64"),
        ("nothing", r"Late.step must return an update \[B, N\], here .*, found NoneType"),
    ],
)
def test_what_a_later_step_must_not_return_is_said(wrong: str, found: str) -> None:
    problems = Problems(Regression(), "train", range(2), seed=0)
    network = Late()
    network.wrong = wrong
    network.build(problems.layout, torch.Generator())
    with pytest.raises(MetaOptError, match=f"^{found}$"):
        unroll(problems, network, begin(problems, network), 3)
