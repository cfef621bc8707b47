"""The LSTM with a matrix for a memory."""

from pathlib import Path

import pytest
import torch
from checkpoints_for_tests import save_untrained
from differences import assert_second_derivatives_are_exact
from torch import Tensor, nn

from meta_opt import LearnedOptimizer
from meta_opt.errors import MetaOptError
from meta_opt.inner_loop.unroll import begin, unroll
from meta_opt.meta_training.meta_loss import MetaLoss
from meta_opt.optimizees.layout import Layout
from meta_opt.optimizees.problems import Evaluation, Problems, problem_generator
from meta_opt.optimizers.memory import LowRankMemory
from meta_opt.optimizers.ntm_bfgs import NTMBFGS
from meta_opt_optimizees.quadratic import Quadratic

LAYOUT = Layout.of({"theta": torch.zeros(10)})


def built(layout: Layout = LAYOUT, **options: object) -> NTMBFGS:
    optimizer = NTMBFGS(**{"hidden_size": 5, **options})  # type: ignore[arg-type]
    optimizer.build(layout, problem_generator(7, "phi"))
    return optimizer.double()


def losses(optimizer: NTMBFGS, num_steps: int) -> Tensor:
    problems = Problems(Quadratic(), "test", range(8), seed=0, dtype=torch.float64)
    return unroll(problems, optimizer, begin(problems, optimizer), num_steps).losses


def by_hand(num_steps: int) -> Tensor:
    """BFGS with steps of one, each at most four times as long as the last; the first has a root mean square of 0.3."""
    problems = Problems(Quadratic(), "test", range(8), seed=0, dtype=torch.float64)
    theta, eye, collected = problems.initial_params, torch.eye(10, dtype=torch.float64), []
    size = problems.evaluate(theta).grad.square().mean(1).sqrt()
    inverse, step, last = 0.3 / size[:, None, None] * eye, None, None
    for _ in range(num_steps):
        grad = problems.evaluate(theta).grad
        if step is not None:
            s, y = step.unsqueeze(2), (grad - last).unsqueeze(2)
            rho = 1.0 / (y.mT @ s)
            left = eye - rho * s @ y.mT
            usable = (1.0 / rho > 1e-3 * s.norm(dim=1, keepdim=True) * y.norm(dim=1, keepdim=True)).expand(8, 10, 10)
            inverse = torch.where(usable, left @ inverse @ left.mT + rho * s @ s.mT, inverse)
        new = -(inverse @ grad.unsqueeze(2)).squeeze(2)
        if step is not None:
            new = new * (4.0 * step.norm(dim=1, keepdim=True) / new.norm(dim=1, keepdim=True)).clamp_max(1.0)
        step, last, theta = new, grad, theta + new
        collected.append(problems.evaluate(theta).loss)
    return torch.stack(collected)


def test_without_outputs_it_is_bfgs() -> None:
    expected = by_hand(15)
    torch.testing.assert_close(losses(built(initial_output=0.0), 15), expected, rtol=1e-6, atol=1e-8)
    assert expected[-1].median() < 0.05 * expected[0].median()
    torch.testing.assert_close(losses(built(initial_output=0.0, rank=15), 15), expected, rtol=1e-6, atol=1e-8)


def test_without_base_write_and_outputs_it_is_gradient_descent() -> None:
    problems = Problems(Quadratic(), "test", range(2), seed=0, dtype=torch.float64)
    optimizer = built(initial_output=0.0, base_write=0.0, first_step=0.01)
    trajectory = unroll(problems, optimizer, begin(problems, optimizer), 3)
    theta = problems.initial_params
    size = trajectory.evaluations[0].grad.square().mean(1, keepdim=True).sqrt()
    for evaluation in trajectory.evaluations[:-1]:
        theta = theta - 0.01 / size * evaluation.grad
    torch.testing.assert_close(trajectory.end.evaluation.params, theta, rtol=1e-6, atol=1e-8)


def test_what_is_kept_of_the_memory_is_all_of_it_at_first() -> None:
    dense, kept = (built(rank=rank, initial_output=1.0) for rank in (None, 4))
    first, second = losses(dense, 9), losses(kept, 9)
    torch.testing.assert_close(first[:5], second[:5], rtol=1e-9, atol=1e-9)  # the fifth step reads four writes
    assert (first[8] - second[8]).abs().max() > 1e-6


def test_the_secant_equation_holds_when_writes_are_forgotten() -> None:
    """M y = s, after each step, of the kept writes and those of the step."""
    optimizer, curvature = built(rank=3, initial_output=0.0), torch.logspace(0, 2, 10, dtype=torch.float64)
    theta = torch.randn(4, 10, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    state, forgotten = optimizer.init_state(LAYOUT, 4), []
    with torch.no_grad():
        for number in range(9):  # as long as no problem loses its memory
            last = state
            update, state, _ = optimizer.step(Evaluation.of(grad=theta * curvature), last)
            theta = theta + update
            if number == 0:
                continue
            scale, change = optimizer.log_first.exp() / state.first, last.asked - state.asked
            newest = LowRankMemory(state.memory.lefts[:, :3], state.memory.rights[:, :3])
            read = last.memory.read(change, scale) + newest.read(change, torch.zeros_like(scale))
            torch.testing.assert_close(read, last.update, rtol=0, atol=1e-9)
            forgotten.append(float((state.memory.read(change, scale) - read).abs().max()))
    assert max(forgotten[:3]) < 1e-12
    assert min(forgotten[3:]) > 1e-3


@pytest.mark.parametrize("rank", [None, 2])
def test_second_derivatives_are_exact(rank: int | None) -> None:
    assert_second_derivatives_are_exact(built(rank=rank, initial_output=0.5), MetaLoss("log_sum", "constant"))


def test_a_gradient_of_zero_moves_nothing() -> None:
    optimizer = built(initial_output=1.0)
    grad = torch.randn(1, 10, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    state = optimizer.init_state(LAYOUT, 1)
    for each, moves in ((0.0, False), (1.0, True), (0.0, False), (2.0, True)):
        update, state, _ = optimizer.step(Evaluation.of(grad=each * grad), state)
        assert bool(update.any()) == moves
        assert update.isfinite().all()


def test_as_torch_optimizer_it_refuses_more_than_a_matrix_can_be_for(tmp_path: Path) -> None:
    for rank, moves in ((None, False), (3, True)):
        path = save_untrained(tmp_path / f"{rank}.ckpt", Quadratic(), NTMBFGS, hidden_size=4, rank=rank)
        parameters = [nn.Parameter(torch.ones(1500)), nn.Parameter(torch.ones(700))]
        optimizer = LearnedOptimizer(parameters, checkpoint=path)
        torch.stack([each.square().sum() for each in parameters]).sum().backward()
        if moves:
            optimizer.step()
            assert all(bool((each < 1.0).all()) for each in parameters)
            continue
        with pytest.raises(MetaOptError, match=r"here are 2,200: set optimizer\.rank"):
            optimizer.step()


def drop_in(tmp_path: Path, *sizes: int, rank: int | None = None) -> tuple[list[nn.Parameter], LearnedOptimizer]:
    """Parameters of ones, in float64, and the dense memory as it was built."""
    path = save_untrained(tmp_path / "memory.ckpt", Quadratic(), NTMBFGS, hidden_size=4, rank=rank)
    parameters = [nn.Parameter(torch.ones(size, dtype=torch.float64)) for size in sizes]
    return parameters, LearnedOptimizer(parameters, checkpoint=path)


def height(theta: Tensor) -> Tensor:
    """A quadratic function of all coordinates together."""
    return (theta * torch.arange(1.0, len(theta) + 1)).square().sum() + theta.sum().square()


def descend(parameters: list[nn.Parameter], optimizer: LearnedOptimizer, without: int | None = None) -> None:
    """One step down."""
    optimizer.zero_grad()
    height(torch.cat([parameter.flatten() for parameter in parameters])).backward()
    if without is not None:
        parameters[without].grad = None
    optimizer.step()


def test_several_parameters_are_one_vector(tmp_path: Path) -> None:
    ends = []
    for sizes in ((5,), (2, 0, 3)):
        parameters, optimizer = drop_in(tmp_path, *sizes)
        for _ in range(6):
            descend(parameters, optimizer)
            assert len(optimizer.state) == len(sizes)  # looked at, so that states are cut and joined
        ends.append(torch.cat([parameter.detach() for parameter in parameters]))
    assert torch.equal(*ends)
    assert ends[0].norm() < 1.0
    assert [state["memory.written"].shape for state in optimizer.state.values()] == [(1, 2, 5), (1, 0, 5), (1, 3, 5)]


def test_a_late_gradient_finds_nothing_written_for_its_parameter(tmp_path: Path) -> None:
    parameters, optimizer = drop_in(tmp_path, 2, 2, 3)
    for _ in range(4):
        descend(parameters, optimizer, without=1)
    before = {index: optimizer.state[parameters[index]]["memory.written"].clone() for index in (0, 2)}
    assert parameters[1] not in optimizer.state
    written = optimizer._states.buckets(
        {each: optimizer._place(each, "all", depth, 0) for each, depth in zip(parameters, (0.0, 0.5, 1.0), strict=True)}
    )[0].state.memory.written
    old = torch.tensor([0, 1, 4, 5, 6])
    assert torch.equal(written[0][old][:, old], torch.cat([before[0], before[2]], dim=1)[0])
    assert before[0].abs().max() > 1e-6
    assert not written[0, 2:4].any()
    assert not written[0, :, 2:4].any()
    start = torch.cat([parameter.detach() for parameter in parameters])
    for _ in range(20):
        descend(parameters, optimizer)
    end = torch.cat([parameter.detach() for parameter in parameters])
    assert height(end) < 0.1 * height(start)
    assert (end[2:4] - 1.0).abs().min() > 0.1


def test_a_dense_memory_is_saved_and_loaded(tmp_path: Path) -> None:
    parameters, optimizer = drop_in(tmp_path, 2, 3)
    for _ in range(3):
        descend(parameters, optimizer)
    others, fresh = drop_in(tmp_path, 2, 3)
    for other, parameter in zip(others, parameters, strict=True):
        other.data.copy_(parameter.data)
    saved = optimizer.state_dict()
    fresh.load_state_dict(saved)
    for _ in range(3):
        descend(parameters, optimizer)
        descend(others, fresh)
    assert all(map(torch.equal, parameters, others))
    del saved["state"][1]
    with pytest.raises(MetaOptError, match="the state of parameter 0 is not one of this learned optimizer's"):
        fresh.load_state_dict(saved)
    del fresh.state[others[1]]
    with pytest.raises(MetaOptError, match="one matrix over 5 coordinates, and the parameters with a state have 2"):
        descend(others, fresh)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_writes": 0, "base_write": 0.0}, "optimizer.num_writes must be 1 or more, not 0"),
        ({"rank": 0}, "optimizer.rank must be 1 or more, not 0"),
        ({"num_averaging": 6}, "optimizer.num_averaging must be from 0 to optimizer.hidden_size, 5, not 6"),
        ({"num_writes": 2}, "optimizer.base_write needs optimizer.num_writes of 3 or more, not 2; 0 leaves it out"),
        ({"first_step": 0.0}, "optimizer.first_step must be more than 0, not 0.0"),
    ],
)
def test_says_what_is_out_of_range(options: dict[str, object], message: str) -> None:
    with pytest.raises(MetaOptError, match=message):
        built(**options)
