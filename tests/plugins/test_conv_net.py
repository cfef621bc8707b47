import pytest
import torch

from meta_opt.api import OptimizeeError
from meta_opt_optimizees.conv_net import BatchNorm, conv_and_fc, conv_net


def test_parameters() -> None:
    network = conv_net((3, 8, 12), [4, 5], 3, [6], 2)
    assert {name: tuple(parameter.shape) for name, parameter in network.named_parameters()} == {
        "conv1.weight": (4, 3, 3, 3),
        "conv_norm1.offset": (4,),
        "conv2.weight": (5, 4, 3, 3),
        "conv_norm2.offset": (5,),
        "hidden1.weight": (6, 5 * 2 * 3),
        "norm1.offset": (6,),
        "output.weight": (2, 6),
        "output.bias": (2,),
    }
    plain = conv_net((3, 8, 12), [4], 3, [6], 2, normalize=False)
    assert [name for name, _ in plain.named_parameters()] == [
        f"{layer}.{kind}" for layer in ("conv1", "hidden1", "output") for kind in ("weight", "bias")
    ]


def test_batch_normalization_by_hand() -> None:
    norm = BatchNorm(2).double()
    torch.nn.init.constant_(norm.offset, 3.0)
    inputs = torch.randn(5, 2, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    mean, variance = inputs.mean((0, 2), keepdim=True), inputs.var((0, 2), correction=0, keepdim=True)
    torch.testing.assert_close(norm(inputs), (inputs - mean) / (variance + 1e-5).sqrt() + 3.0)


def test_layers_are_the_paper_s() -> None:
    layers = list(conv_net((3, 8, 8), [4], 3, [6], 2))
    kinds = [type(layer).__name__ for layer in layers]
    assert kinds == ["Conv2d", "BatchNorm", "MaxPool2d", "ReLU", "Flatten", "Linear", "BatchNorm", "ReLU", "Linear"]
    inputs = torch.randn(5, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    pooling, activation = layers[2:4]  # the paper's has them the other way round, which is the same
    assert torch.equal(activation(pooling(inputs)), pooling(activation(inputs)))


def test_filters_are_a_group() -> None:
    groups = conv_and_fc(conv_net((3, 8, 8), [4], 3, [6], 2))
    assert {name for name, group in groups.items() if group == "conv"} == {"conv1.weight"}
    assert {name for name, group in groups.items() if group == "fc"} == {
        "conv_norm1.offset", "hidden1.weight", "norm1.offset", "output.weight", "output.bias",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("channels", "kernel_size", "hidden_sizes", "message"),
    [
        ([4, 0], 3, [], r"^optimizee\.channels must each be at least 1, not \[4, 0\]$"),
        ([4], 3, [0], r"^optimizee\.hidden_sizes must each be at least 1, not \[0\]$"),
        ([4], 4, [], r"^optimizee\.kernel_size must be odd and at least 1, not 4$"),
        ([4] * 4, 3, [], r"^optimizee\.channels has 4 convolutions, and 8x8 cannot be halved so often$"),
    ],
)
def test_wrong_options(channels: list[int], kernel_size: int, hidden_sizes: list[int], message: str) -> None:
    with pytest.raises(OptimizeeError, match=message):
        conv_net((3, 8, 8), channels, kernel_size, hidden_sizes, 2)
