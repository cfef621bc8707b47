import math

import pytest
import torch

from meta_opt.optimizees.layout import NUM_FEATURES, Layout, Segment, features_of, matrices_in

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


def test_segments_by_kind_need_not_be_neighbours() -> None:
    layout = Layout.of(
        {"w1": torch.zeros(2, 3), "b1": torch.zeros(3), "k": torch.zeros(1, 1, 2, 2), "b2": torch.zeros(())}
    )
    assert [(s.name, s.start, s.stop) for s in layout.segments("kind")] == [
        ("matrix", 0, 6), ("vector", 6, 9), ("matrix", 9, 13), ("vector", 13, 14),
    ]  # fmt: skip


def test_features_are_of_the_tensor_and_its_place_in_the_model() -> None:
    params = {"w1": torch.zeros(20, 100), "b1": torch.zeros(20), "w2": torch.zeros(10, 20)}
    layout = Layout.of(params, {"w1": "first", "b1": "rest", "w2": "first"})  # grouping moves w2, not its place
    segments = {(s.start, s.stop): s for s in layout.segments("all", features=True)}
    assert [s.name for s in segments.values()] == ["all"] * 3
    assert segments[0, 2000].features == pytest.approx((0.0, 0.0, 0.0, math.log(100) / 5, math.log(20) / 5))
    assert segments[2000, 2200].features == pytest.approx((0.0, 0.0, 1.0, math.log(20) / 5, math.log(10) / 5))
    assert segments[2200, 2220].features == pytest.approx((1.0, 0.0, 0.5, 0.0, math.log(20) / 5))
    assert features_of(torch.Size([]), 0.0) == (1.0, 0.0, 0.0, 0.0, 0.0)
    assert len(features_of(torch.Size([1]), 0.0)) == NUM_FEATURES


def test_a_layout_survives_as_plain_values() -> None:
    layout = Layout.of({"a": torch.zeros(2, 3), "b": torch.zeros(4), "c": torch.zeros(1)}, {"b": "late"})
    assert Layout.from_plain(layout.to_plain()) == layout


@pytest.mark.parametrize(
    ("shape", "held"),
    [
        ((), (0, 0, 0)),
        ((7,), (0, 0, 0)),
        ((0, 4), (0, 0, 0)),
        ((3, 0, 40), (0, 0, 0)),
        ((5, 3), (1, 5, 3)),
        ((1, 40), (1, 1, 40)),
        ((8, 3, 5, 5), (1, 8, 75)),
        ((1, 8, 3, 3), (1, 1, 72)),  # filters with one output channel
        ((8, 1, 7), (1, 8, 7)),
        ((64, 3, 32, 32), (1, 64, 3072)),  # of large patches
        ((64, 1, 80), (1, 64, 80)),
        ((8, 196, 32), (8, 196, 32)),  # experts
        ((1, 17, 36), (1, 17, 36)),  # positions
        ((1, 1, 36), (0, 0, 0)),
        ((1, 3, 32, 32), (0, 0, 0)),
        ((16, 1, 1), (1, 16, 1)),
    ],
)
def test_the_matrices_that_a_tensor_holds(shape: tuple[int, ...], held: tuple[int, int, int]) -> None:
    assert matrices_in(torch.Size(shape)) == held
    assert Layout.of({"it": torch.zeros(shape)}).num_matrices == (held[0] > 0)
