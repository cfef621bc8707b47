import pytest
import torch
from torch import nn

from meta_opt.api import OptimizeeError
from meta_opt_optimizees.mlp import mlp


def test_layers() -> None:
    network = mlp(5, [4, 3], 2, "tanh")
    assert {name: tuple(parameter.shape) for name, parameter in network.named_parameters()} == {
        "hidden1.weight": (4, 5),
        "hidden1.bias": (4,),
        "hidden2.weight": (3, 4),
        "hidden2.bias": (3,),
        "output.weight": (2, 3),
        "output.bias": (2,),
    }
    assert [name for name, _ in network.named_children()] == [
        "hidden1",
        "activation1",
        "hidden2",
        "activation2",
        "output",
    ]


def test_no_hidden_layer() -> None:
    assert isinstance(mlp(5, [], 2, "tanh").output, nn.Linear)
    assert len(mlp(5, [], 2, "tanh")) == 1


@pytest.mark.parametrize(
    ("activation", "expected"),
    [
        ("sigmoid", [0.2689414, 0.7310586]),
        ("tanh", [-0.7615942, 0.7615942]),
        ("relu", [0.0, 1.0]),
        ("leaky_relu", [-0.01, 1.0]),
    ],
)
def test_activations(activation: str, expected: list[float]) -> None:
    network = mlp(1, [1], 1, activation)  # type: ignore[arg-type]
    for name, parameter in network.named_parameters():
        nn.init.constant_(parameter, 1.0 if name.endswith("weight") else 0.0)
    torch.testing.assert_close(network(torch.tensor([[-1.0], [1.0]])).flatten(), torch.tensor(expected))


@pytest.mark.parametrize(
    ("hidden_sizes", "activation", "message"),
    [
        ([20, 0], "relu", r"^optimizee\.hidden_sizes must each be at least 1, not \[20, 0\]$"),
        ([20], "gelu", r"^optimizee\.activation must be one of sigmoid, tanh, relu, leaky_relu, not 'gelu'$"),
    ],
)
def test_wrong_options(hidden_sizes: list[int], activation: str, message: str) -> None:
    with pytest.raises(OptimizeeError, match=message):
        mlp(5, hidden_sizes, 2, activation)  # type: ignore[arg-type]
