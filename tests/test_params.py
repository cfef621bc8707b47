import pytest
import torch

from meta_opt.params import Layout, Segment

PARAMS = {
    "conv.weight": torch.arange(6.0).reshape(2, 3),
    "fc.weight": torch.arange(10.0, 14.0).reshape(2, 2),
    "conv.bias": torch.tensor([20.0, 21.0]),
    "scale": torch.tensor(30.0),
}
GROUPS = {"conv.weight": "conv", "conv.bias": "conv", "fc.weight": "fc"}


def test_tensors_lie_in_the_order_given_when_there_is_one_group() -> None:
    layout = Layout.of(PARAMS)
    assert layout.names == ("conv.weight", "fc.weight", "conv.bias", "scale")
    assert layout.groups == ("all",) * 4
    assert layout.sizes == (6, 4, 2, 1)
    assert layout.num_coordinates == 13


def test_tensors_of_one_group_become_neighbours() -> None:
    layout = Layout.of(PARAMS, GROUPS)
    assert layout.names == ("conv.weight", "conv.bias", "fc.weight", "scale")
    assert layout.groups == ("conv", "conv", "fc", "all")
    assert layout.flatten(PARAMS).tolist() == [0, 1, 2, 3, 4, 5, 20, 21, 10, 11, 12, 13, 30]


@pytest.mark.parametrize("groups", [{}, GROUPS])
@pytest.mark.parametrize("leading", [(), (3,), (2, 3)])
def test_unflatten_undoes_flatten(groups: dict[str, str], leading: tuple[int, ...]) -> None:
    layout = Layout.of(PARAMS, groups)
    generator = torch.Generator().manual_seed(0)
    params = {name: torch.randn(leading + tensor.shape, generator=generator) for name, tensor in PARAMS.items()}
    vector = layout.flatten(params)
    assert vector.shape == (*leading, 13)
    back = layout.unflatten(vector)
    assert set(back) == set(params)
    for name, tensor in params.items():
        torch.testing.assert_close(back[name], tensor, rtol=0, atol=0)


def test_unflatten_makes_views() -> None:
    vector = torch.zeros(13)
    for tensor in Layout.of(PARAMS).unflatten(vector).values():
        tensor += 1
    assert vector.tolist() == [1.0] * 13


def test_segments() -> None:
    layout = Layout.of(PARAMS, GROUPS)
    assert layout.segments("all") == (Segment("all", 0, 13),)
    assert layout.segments("group") == (Segment("conv", 0, 8), Segment("fc", 8, 12), Segment("all", 12, 13))
    assert layout.segments("tensor") == (
        Segment("conv.weight", 0, 6),
        Segment("conv.bias", 6, 8),
        Segment("fc.weight", 8, 12),
        Segment("scale", 12, 13),
    )


def test_no_parameters() -> None:
    with pytest.raises(ValueError, match=r"^an optimizee needs at least one parameter, found none$"):
        Layout.of({})


def test_groups_of_unknown_parameters() -> None:
    with pytest.raises(ValueError, match=r"^groups names fc\.wieght, but the parameters are conv\.weight, fc\."):
        Layout.of(PARAMS, {"fc.wieght": "fc"})


def test_equal_layouts_are_equal() -> None:
    assert Layout.of(PARAMS, GROUPS) == Layout.of({name: tensor + 1 for name, tensor in PARAMS.items()}, GROUPS)
    assert Layout.of(PARAMS, GROUPS) != Layout.of(PARAMS)
