"""The LSTM that combines whole gradients."""

import math
from itertools import combinations
from pathlib import Path

import pytest
import torch
from checkpoints_for_tests import save_untrained
from differences import assert_second_derivatives_are_exact
from problems_for_tests import Regression
from torch import Tensor, nn

from meta_opt import LearnedOptimizer
from meta_opt.errors import MetaOptError
from meta_opt.inner_loop.unroll import begin, unroll
from meta_opt.meta_training.meta_loss import MetaLoss
from meta_opt.optimizees.layout import Layout
from meta_opt.optimizees.problems import Evaluation, Problems, problem_generator
from meta_opt.optimizers.subspace_lstm import SubspaceLSTM, SubspaceState
from meta_opt.saved.pretrained import pretrained_path
from meta_opt.saved.recipes import load_optimizer


def layout_of(size: int) -> Layout:
    return Layout.of({"theta": torch.zeros(size)})


def built(size: int = 7, *, noise: float = 0.2, **options: float) -> SubspaceLSTM:
    optimizer = SubspaceLSTM(**{"history": 3, "hidden_size": 5, **options})  # type: ignore[arg-type]
    optimizer.build(layout_of(size), problem_generator(7, "phi"))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in optimizer.parameters():
            parameter.add_(noise * torch.randn(parameter.shape, generator=generator))
    return optimizer.double()


def gradients(num_steps: int, num_problems: int = 2, size: int = 7) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(num_steps, num_problems, size, generator=generator, dtype=torch.float64)


def run(optimizer: SubspaceLSTM, grads: Tensor) -> tuple[Tensor, SubspaceState]:
    """The updates [T, B, N] for a given sequence of gradients, and the last state."""
    state = optimizer.init_state(layout_of(grads.shape[2]), grads.shape[1])
    collected = []
    with torch.no_grad():
        for grad in grads:
            update, state, *_ = optimizer.step(Evaluation(grad.sum(1), grad, grad), state)
            collected.append(update)
    return torch.stack(collected), state


def l_bfgs(grad: Tensor, steps: list[Tensor], changes: list[Tensor]) -> Tensor:
    """The two loops of Nocedal and Wright (2006), algorithm 7.4; newest pair first."""
    pairs = [(s, y, cosine(s, y) > 1e-3) for s, y in zip(steps, changes, strict=True)]
    pairs_used = [(s, y) for s, y, use in pairs if use]
    direction, first = grad, []
    for s, y in pairs_used:
        first.append((s @ direction) / (s @ y))
        direction = direction - first[-1] * y
    if pairs and pairs[0][2]:
        s, y, _ = pairs[0]
        direction = direction * (s @ y) / (y @ y)
    for (s, y), alpha in reversed([*zip(pairs_used, first, strict=True)]):
        direction = direction + s * (alpha - (y @ direction) / (s @ y))
    return direction


def cosine(one: Tensor, other: Tensor) -> float:
    """0 where one of them is 0."""
    return float(one @ other / (one.norm() * other.norm())) if one.any() and other.any() else 0.0


def paper(optimizer: SubspaceLSTM, grads: Tensor) -> Tensor:
    """The updates [T, N] of one problem from the formula, vector by vector, with PyTorch's own LSTM cell."""
    history, size = optimizer.history, grads.shape[1]
    network, (weight,), (bias,) = optimizer.network, optimizer.network.weights, optimizer.network.biases
    num_inputs = weight.shape[1] - network.size
    cell = nn.LSTMCell(num_inputs, network.size).double()
    input_gate, forget_gate, output_gate, candidate = weight.detach().chunk(4)
    rows = torch.cat([input_gate, forget_gate, candidate, output_gate])  # PyTorch's order
    of_bias = bias.detach().chunk(4)
    with torch.no_grad():
        cell.weight_ih.copy_(rows[:, :num_inputs])
        cell.weight_hh.copy_(rows[:, num_inputs:])
        cell.bias_ih.copy_(torch.cat([of_bias[0], of_bias[1], of_bias[3], of_bias[2]])[:, 0])
        cell.bias_hh.zero_()
    state, steps, changes, updates, unit = None, [], [], [], 0.0
    zeros = [torch.zeros(size, dtype=torch.float64)] * history
    for number, grad in enumerate(grads):
        if number == 0:
            unit = optimizer.base_step * math.sqrt(size) / float(grad.norm())
        else:
            changes.insert(0, grad - grads[number - 1])
            secant = float(steps[0].norm() / changes[0].norm())
            unit = min(max(secant, unit / 10.0), unit * 10.0)
        filled = [
            (steps + zeros)[:history],
            (changes + zeros)[:history],
        ]
        vectors = [unit * grad, *filled[0], *(unit * change for change in filled[1])]
        direction = l_bfgs(vectors[0], steps[:history], [unit * change for change in changes[:history]])
        if steps:
            longest = max(float(step.norm()) for step in steps[:history])
            direction = direction * min(1.0, 2.0 * longest / float(direction.norm()))
        inputs = [cosine(one, other) for one, other in combinations(vectors, 2)]
        inputs += [cosine(direction, vector) for vector in vectors]
        last = float(steps[0].norm() if steps else vectors[0].norm())
        for vector in [*vectors, direction]:
            inputs.append(min(max(math.log(float(vector.norm()) / last) / 3.0, -3.0), 3.0) if vector.any() else 0.0)
        state = cell(torch.tensor([inputs], dtype=torch.float64), state)
        outputs = network.output_weight @ state[0].T + network.output_bias
        written = 2.0 * torch.tanh(outputs[:, 0])
        update = -written[0] * vectors[0] - written[-1] * direction
        for index in range(history):
            update = update + written[1 + index] * vectors[1 + index]
            update = update - written[1 + history + index] * vectors[1 + history + index]
        steps.insert(0, update.detach())
        updates.append(update.detach())
    return torch.stack(updates)


def test_follows_the_formula() -> None:
    optimizer, grads = built(), gradients(8)
    updates, _ = run(optimizer, grads)
    for index in range(2):
        torch.testing.assert_close(updates[:, index], paper(optimizer, grads[:, index]), rtol=1e-9, atol=1e-12)
    assert updates.std() > 0.01


def test_rotated_gradients_give_rotated_steps() -> None:
    rotation, _ = torch.linalg.qr(gradients(1, 7)[0])
    optimizer, grads = built(), gradients(8)
    plain, rotated = run(optimizer, grads)[0], run(optimizer, grads @ rotation)[0]
    torch.testing.assert_close(plain @ rotation, rotated, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("scale", [1e-12, 1e12])
def test_the_scale_of_the_loss_does_not_matter(scale: float) -> None:
    optimizer, grads = built(), gradients(8)
    torch.testing.assert_close(run(optimizer, grads * scale)[0], run(optimizer, grads)[0], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("size", [1e-25, 1e25])
def test_squares_neither_overflow_nor_vanish(size: float) -> None:
    optimizer, grads = built().float(), gradients(8).float()
    torch.testing.assert_close(run(optimizer, grads * size)[0], run(optimizer, grads)[0], rtol=1e-3, atol=1e-5)


def test_the_first_step_has_the_size_of_the_base_step() -> None:
    grads = torch.cat([torch.zeros(2, 1, 7), gradients(1, 1)]).double()
    updates, _ = run(built(base_step=0.2), grads)
    assert not updates[:2].any(), "there is nothing to go by before the first gradient that is not zero"
    optimizer = SubspaceLSTM(history=1, base_step=0.2)
    optimizer.build(layout_of(7), problem_generator(0, "phi"))
    with torch.no_grad():
        optimizer.network.output_weight.zero_()
    updates, _ = run(optimizer.double(), gradients(1, 1))
    assert float(updates.square().mean().sqrt()) == pytest.approx(0.2)


def test_a_step_lost_in_rounding_tells_nothing() -> None:
    grads = gradients(3, 1)
    grads[2] = grads[1]  # a change of zero, and so a secant without bound
    _, before = run(built(), grads[:2])
    _, after = run(built(), grads)
    assert float(after.unit) == pytest.approx(10.0 * float(before.unit))


def test_second_derivatives_are_exact() -> None:
    assert_second_derivatives_are_exact(built(17, noise=0.05), MetaLoss("sum", "constant"))


def test_as_torch_optimizer_it_combines_all_parameters(tmp_path: Path) -> None:
    optimizee = Regression()
    path = save_untrained(tmp_path / "untrained.ckpt", optimizee, SubspaceLSTM, history=2)
    generator = problem_generator(0, "test", 0)
    problem = {name: tensor.double() for name, tensor in optimizee.sample_problem("test", generator).items()}
    start = optimizee.init_params(generator)
    tensors = {name: tensor.double().requires_grad_() for name, tensor in start.items()}
    optimizer = LearnedOptimizer(tensors.values(), checkpoint=path)
    losses = []
    for number in range(20):
        if number == 10:
            saved = optimizer.state_dict()
            optimizer = LearnedOptimizer(tensors.values(), checkpoint=path)
            optimizer.load_state_dict(saved)
        optimizer.zero_grad()
        batch = {name: tensor.double() for name, tensor in optimizee.sample_batch("test", generator).items()}
        loss = optimizee.loss(tensors, problem, batch)
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    problems, learned = Problems(optimizee, "test", [0], seed=0, dtype=torch.float64), load_optimizer(path).double()
    expected = unroll(problems, learned, begin(problems, learned), 19).losses[:, 0]
    torch.testing.assert_close(torch.stack(losses[1:]), expected, rtol=1e-9, atol=1e-12)
    assert expected.std() > 1e-3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"history": 0}, "optimizer.history must be 1 or more, not 0"),
        ({"hidden_size": 0}, "optimizer.hidden_size must be 1 or more, not 0"),
        ({"base_step": 0.0}, "optimizer.base_step must be more than 0, not 0.0"),
    ],
)
def test_says_what_is_out_of_range(options: dict[str, float], message: str) -> None:
    with pytest.raises(MetaOptError, match=message):
        SubspaceLSTM(**options)  # type: ignore[arg-type]


def test_where_the_gradient_is_zero_a_problem_stands_still() -> None:
    """And then goes on as if nothing had been: one of two problems alone, for 50 steps."""
    optimizer, grads = built(), gradients(8)
    pause = torch.stack([torch.zeros(50, 7, dtype=torch.float64), gradients(50)[:, 1]], dim=1)
    paused, _ = run(optimizer, torch.cat([grads[:4], pause, grads[4:]]))
    whole, _ = run(optimizer, grads)
    assert not paused[4:54, 0].any()
    assert paused[4:54, 1].abs().amax(1).min() > 0.0
    assert torch.equal(torch.cat([paused[:4, 0], paused[54:, 0]]), whole[:, 0])


@pytest.mark.parametrize("size", [0.0, 1e-35, 1e-25, 1e-12])
def test_a_gradient_that_vanishes_once_costs_a_step(size: float) -> None:
    optimizer, grads = built(), gradients(8)
    paused, _ = run(optimizer, torch.cat([grads[:4], size * grads[4:5], grads[4:]]))
    whole, _ = run(optimizer, grads)
    assert not paused[4].any()
    assert torch.equal(torch.cat([paused[:4], paused[5:]]), whole)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("size", [1e20, 1e30, 1e38, torch.inf])
def test_a_huge_gradient_costs_a_few_steps(size: float, dtype: torch.dtype) -> None:
    """f = Σ a θ² with the shipped network; the problem beside it does not notice."""
    optimizer = load_optimizer(pretrained_path("quadratic")).to(dtype)
    curvature = torch.arange(1.0, 8.0, dtype=dtype)
    ends = []
    for factor in (1.0, size):
        theta = torch.ones(2, 7, dtype=dtype)
        state = optimizer.init_state(layout_of(7), 2)
        for number in range(60):
            grad = curvature * theta
            if number == 5:
                grad = grad * torch.tensor([[factor], [1.0]])
            with torch.no_grad():
                update, state, _ = optimizer.step(Evaluation(grad.sum(1), grad, theta), state)
            theta = theta + update
            assert theta.isfinite().all()
        ends.append(theta)
    torch.testing.assert_close(ends[0][1], ends[1][1], rtol=1e-6, atol=1e-7)
    assert ends[1][0].norm() < 1e-3


def test_a_gradient_that_never_changes_does_not_make_steps_without_end() -> None:
    grads = torch.ones(100, 1, 4)
    optimizer = SubspaceLSTM(history=2)
    optimizer.build(layout_of(4), problem_generator(0, "phi"))
    updates, state = run(optimizer, grads)
    assert updates.isfinite().all()
    assert 0.0 < float(updates.norm(dim=2).max()) <= 1.001 * 1e6 * 0.3 * math.sqrt(4)
    assert state.unit.isfinite().all()


def test_steps_that_noise_makes_ever_shorter_do_not_begin_again() -> None:
    optimizer = load_optimizer(pretrained_path("quadratic"))
    updates, state = run(optimizer, 1e29 * gradients(250, 8, 4).float())
    assert updates.isfinite().all()
    assert bool((state.unit > 0.0).all())
    assert updates[200:].norm(dim=2).max() < 1e-6


def test_no_coordinates() -> None:
    updates, _ = run(built(), torch.zeros(3, 2, 0, dtype=torch.float64))
    assert updates.shape == (3, 2, 0)


def test_not_a_number_stays_one() -> None:
    grads = gradients(3)
    grads[1, 0, 2] = torch.nan
    updates, _ = run(built(), grads)
    assert updates[1, 0].isnan().any()
    assert updates[:, 1].isfinite().all()
