"""Recurrent networks for coordinates, tensors and the problem."""

import math

import pytest
import torch
from torch import Tensor, nn

from meta_opt.errors import MetaOptError
from meta_opt.optimizees.layout import Layout
from meta_opt.optimizees.problems import Evaluation, problem_generator
from meta_opt.optimizers.hierarchical_rnn import GRU, HierarchicalRNN

LAYOUT = Layout.of({"first": torch.zeros(5), "second": torch.zeros(3)})
RANGES = (slice(0, 5), slice(5, 8))


def built(**options: object) -> HierarchicalRNN:
    optimizer = HierarchicalRNN(**{"hidden_size": 4, "tensor_size": 5, "problem_size": 6, **options})  # type: ignore[arg-type]
    optimizer.build(LAYOUT, problem_generator(7, "phi"))
    nn.init.constant_(optimizer.output_weight[1], options.get("initial_output", 0.1))  # else step sizes never change
    return optimizer.double()


def gradients(num_steps: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(num_steps, 2, 8, generator=generator, dtype=torch.float64)


def updates(optimizer: HierarchicalRNN, grads: Tensor) -> Tensor:
    """[T, B, N]."""
    state, collected = optimizer.init_state(LAYOUT, grads.shape[1]), []
    with torch.no_grad():
        for grad in grads:
            update, state, _ = optimizer.step(Evaluation.of(grad=grad), state)
            collected.append(update)
    return torch.stack(collected)


def cell(gru: GRU) -> nn.GRUCell:
    """PyTorch's own, whose inputs end with the units above."""
    weights = [gru.of_inputs] if gru.of_above is None else [gru.of_inputs, gru.of_above]
    found = nn.GRUCell(sum(weight.shape[1] for weight in weights), gru.size).double()
    with torch.no_grad():
        found.weight_ih.copy_(torch.cat(weights, dim=1))
        found.weight_hh.copy_(gru.of_hidden)
        found.bias_ih.copy_(gru.bias[:, 0])
        found.bias_hh.zero_()
    return found


def by_hand(optimizer: HierarchicalRNN, grads: Tensor) -> Tensor:
    """The updates [T, N] of one problem, coordinate by coordinate."""
    of_coordinate, of_tensor, of_problem = map(cell, (optimizer.coordinates, optimizer.tensors, optimizer.problem))
    h = [torch.zeros(1, optimizer.hidden_size).double()] * 8
    above = [torch.zeros(1, optimizer.tensor_size).double()] * 2
    top = torch.zeros(1, optimizer.problem_size).double()
    scales = range(optimizer.num_scales)
    mean, square = ([[0.0] * 8 for _ in scales] for _ in range(2))
    log_step, collected = [0.0] * 8, []
    for number, grad in enumerate(grads.tolist()):
        update, old_above, old_steps = [0.0] * 8, list(above), list(log_step)
        for tensor, part in enumerate(RANGES):
            for i in range(part.start, part.stop):
                said = optimizer.output_weight @ h[i][0] + optimizer.output_bias[:, 0]
                decays = torch.sigmoid(said[2:]).tolist()
                momenta, logs = [], []
                for s in scales:
                    a, b = (decay ** (0.5**s) if number else 0.0 for decay in decays)
                    mean[s][i] = a * mean[s][i] + (1.0 - a) * grad[i]
                    square[s][i] = b * square[s][i] + (1.0 - b) * mean[s][i] ** 2
                    momenta.append(mean[s][i] / math.sqrt(square[s][i]))
                    logs.append(math.log(square[s][i]))
                relative = [(log - sum(logs) / len(logs)) / 2 for log in logs]
                own = old_steps[i] - sum(old_steps[part]) / (part.stop - part.start)
                inputs = torch.tensor([[*momenta, *relative, own]], dtype=torch.float64)
                h[i] = of_coordinate(torch.cat([inputs, old_above[tensor]], dim=1), h[i])
                out, change, *_ = (optimizer.output_weight @ h[i][0] + optimizer.output_bias[:, 0]).tolist()
                direction = optimizer.output_scale * out - sum(momenta) / len(momenta)
                update[i] = optimizer.base_step * math.exp(log_step[i] + change) * direction
                log_step[i] += 0.04 * change
            seen = torch.cat(h[part]).mean(0, keepdim=True)
            above[tensor] = of_tensor(torch.cat([seen, top], dim=1), above[tensor])
        top = of_problem(torch.cat(above).mean(0, keepdim=True), top)
        collected.append(torch.tensor(update, dtype=torch.float64))
    return torch.stack(collected)


def test_follows_the_formula() -> None:
    optimizer = built(initial_output=2.0)
    found = updates(optimizer, gradients(5))
    for index in range(2):
        torch.testing.assert_close(found[:, index], by_hand(optimizer, gradients(5)[:, index]), rtol=1e-8, atol=1e-12)
    assert found.std() > 1e-3


def test_a_coordinate_is_told_of_all_others_two_steps_later() -> None:
    """What another tensor's gradient is goes up to the problem in one step, and down again in two."""
    optimizer, grads = built(initial_output=2.0), gradients(4)
    other = grads.clone()
    other[0, :, 6] += 1.0
    apart = (updates(optimizer, grads) - updates(optimizer, other)).abs()[:, :, RANGES[0]].amax((1, 2))
    assert apart[:2].max() == 0.0
    assert apart[3] > 1e-9


def test_untrained_it_steps_along_the_scaled_momentum() -> None:
    optimizer = built(initial_output=0.0)
    found = updates(optimizer, gradients(1))[0]
    torch.testing.assert_close(found, -0.03 * gradients(1)[0].sign(), rtol=1e-9, atol=0)


def test_the_scale_of_the_loss_does_not_matter() -> None:
    optimizer = built(initial_output=2.0)
    expected = updates(optimizer, gradients(5))
    torch.testing.assert_close(updates(optimizer, 1e6 * gradients(5)), expected, rtol=1e-6, atol=1e-9)


def test_a_coordinate_without_a_gradient_stays() -> None:
    grads = gradients(3)
    grads[:, :, 2] = 0.0
    found = updates(built(initial_output=2.0), grads)
    assert not found[:, :, 2].any()
    assert found[:, :, 3].all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"hidden_size": 0}, "optimizer.hidden_size must be 1 or more, not 0"),
        ({"num_scales": 0}, "optimizer.num_scales must be 1 or more, not 0"),
        ({"base_step": 0.0}, "optimizer.base_step must be more than 0, not 0.0"),
    ],
)
def test_says_what_is_out_of_range(options: dict[str, object], message: str) -> None:
    with pytest.raises(MetaOptError, match=message):
        built(**options)
