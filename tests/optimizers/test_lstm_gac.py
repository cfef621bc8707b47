"""The LSTM with global averaging cells."""

import pytest
import torch
from torch import Tensor, nn

from meta_opt.errors import MetaOptError
from meta_opt.optimizees.layout import Layout
from meta_opt.optimizees.problems import Evaluation, problem_generator
from meta_opt.optimizers.coordinatewise_lstm import CoordinatewiseLSTM
from meta_opt.optimizers.lstm_gac import LSTMGAC

LAYOUT = Layout.of({"first": torch.zeros(5), "second": torch.zeros(3)})


def built(**options: object) -> LSTMGAC:
    optimizer = LSTMGAC(**{"hidden_size": 6, "num_averaging": 2, **options})  # type: ignore[arg-type]
    optimizer.build(LAYOUT, problem_generator(7, "phi"))
    return optimizer.double()


def gradients(num_steps: int, num_problems: int = 2) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(num_steps, num_problems, 8, generator=generator, dtype=torch.float64)


def updates(optimizer: LSTMGAC | CoordinatewiseLSTM, grads: Tensor) -> Tensor:
    """[T, B, N]."""
    state, collected = optimizer.init_state(LAYOUT, grads.shape[1]), []
    with torch.no_grad():
        for grad in grads:
            update, state, _ = optimizer.step(Evaluation.of(grad=grad), state)  # type: ignore[arg-type]
            collected.append(update)
    return torch.stack(collected)


def paper(optimizer: LSTMGAC, grads: Tensor, ranges: list[slice]) -> Tensor:
    """The updates [T, N] of one problem without base step, by PyTorch's own cells, averaged after each layer."""
    network, cells = optimizer.network, []
    for weight, bias in zip(network.weights, network.biases, strict=True):
        width, size = weight.shape[1] - network.size, network.size
        cell = nn.LSTMCell(width, size).double()
        order = torch.arange(4 * size).view(4, size)[[0, 1, 3, 2]].flatten()  # PyTorch has the candidate third
        with torch.no_grad():
            cell.weight_ih.copy_(weight[order, :width])
            cell.weight_hh.copy_(weight[order, width:])
            cell.bias_ih.copy_(bias[order, 0])
            cell.bias_hh.zero_()
        cells.append(cell)
    states = [(torch.zeros(8, optimizer.hidden_size).double(),) * 2 for _ in cells]
    collected = []
    for grad in grads:
        read = grad.unsqueeze(1)
        for layer, cell in enumerate(cells):
            outgoing, inner = cell(read, states[layer])
            outgoing = outgoing.clone()
            for part in ranges:
                outgoing[part, : optimizer.num_averaging] = outgoing[part, : optimizer.num_averaging].mean(0)
            states[layer] = outgoing, inner
            read = outgoing
        out = read @ network.output_weight.T + network.output_bias.T
        collected.append(optimizer.output_scale * out[:, 0] * out[:, 1].exp())
    return torch.stack(collected).detach()


@pytest.mark.parametrize(("average", "ranges"), [("problem", [slice(0, 8)]), ("tensor", [slice(0, 5), slice(5, 8)])])
def test_outgoing_activations_are_averaged(average: str, ranges: list[slice]) -> None:
    optimizer = built(average=average, inputs="none", base_step=0.0, initial_output=1.0)
    assert optimizer.scope == average
    found = updates(optimizer, gradients(4))
    for index in range(2):
        expected = paper(optimizer, gradients(4)[:, index], ranges)
        torch.testing.assert_close(found[:, index], expected, rtol=1e-12, atol=1e-14)
    assert found.std() > 1e-4


def test_without_averaging_it_is_the_coordinatewise_lstm() -> None:
    ours = built(num_averaging=0)
    theirs = CoordinatewiseLSTM(
        hidden_size=6, inputs="log_sign+moments", output="magnitude", initial_output=0.1, base_step=0.01, engine="torch"
    )
    theirs.build(LAYOUT, problem_generator(7, "phi"))
    torch.testing.assert_close(updates(ours, gradients(5)), updates(theirs.double(), gradients(5)), rtol=0, atol=1e-15)


def directions(count: int, generator: torch.Generator) -> Tensor:
    """Unit vectors, [count, 8]."""
    return nn.functional.normalize(torch.randn(count, 8, generator=generator))


def trained_to_clip(num_averaging: int) -> LSTMGAC:
    """A network whose first update is trained to be minus the gradient, clipped at a length of 1."""
    optimizer = LSTMGAC(2, 8, num_averaging, inputs="none", output_scale=1.0, initial_output=1.0, base_step=0.0)
    optimizer.build(LAYOUT, problem_generator(0, "phi"))
    adam, generator = torch.optim.Adam(optimizer.parameters(), lr=0.01), torch.Generator().manual_seed(1)
    for _ in range(400):
        units, lengths = directions(256, generator), 0.3 + 4.7 * torch.rand(256, 1, generator=generator)
        update, *_ = optimizer.step(Evaluation.of(grad=units * lengths), optimizer.init_state(LAYOUT, 256))
        adam.zero_grad()
        (update + units * lengths.clamp_max(1.0)).square().sum(1).mean().backward()
        adam.step()
    return optimizer


def test_averages_are_enough_to_clip_by_norm_and_without_them_it_cannot_be() -> None:
    coupled, single = trained_to_clip(4), trained_to_clip(0)
    units = directions(100, torch.Generator().manual_seed(2))

    def error(optimizer: LSTMGAC) -> float:
        """Mean distance from minus the unit vector, of the updates of gradients that differ only in length."""
        found = [updates(optimizer, (length * units).unsqueeze(0))[0] for length in (2.0, 4.0)]
        return float(torch.stack([(update + units).norm(dim=1) for update in found]).mean())

    assert error(coupled) < 0.1
    assert error(single) > 0.2
    # Not for want of training: where a coordinate is 1 in gradients of length 2 and 4, it should move by 1/2 and 1/4,
    # and on its own it moves by the same in both.
    rest = directions(2, torch.Generator().manual_seed(3))[:, 1:]
    rest = nn.functional.normalize(rest) * torch.tensor([[3.0], [15.0]]).sqrt()
    both = torch.cat([torch.ones(2, 1), rest], dim=1).unsqueeze(0)
    short, long = updates(single, both)[0, :, 0]
    assert short == long
    short, long = updates(coupled, both)[0, :, 0]
    torch.testing.assert_close(torch.stack([short, long]), torch.tensor([-0.5, -0.25]), rtol=0, atol=0.08)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_layers": 0}, "optimizer.num_layers must be 1 or more, not 0"),
        ({"hidden_size": 0}, "optimizer.hidden_size must be 1 or more, not 0"),
        ({"num_averaging": 7}, "optimizer.num_averaging must be from 0 to optimizer.hidden_size, 6, not 7"),
        ({"inputs": "scales"}, r"optimizer.inputs must be none, log_sign, moments or log_sign\+moments, not 'scales'"),
    ],
)
def test_says_what_is_out_of_range(options: dict[str, object], message: str) -> None:
    with pytest.raises(MetaOptError, match=message):
        built(**options)
