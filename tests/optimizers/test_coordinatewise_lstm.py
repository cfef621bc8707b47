"""The coordinatewise LSTM as a function of coordinates."""

import pickle

import pytest
import torch
from problems_for_tests import Regression

from meta_opt.errors import MetaOptError
from meta_opt.inner_loop.unroll import begin, unroll
from meta_opt.meta_training.estimators.first_order import first_order
from meta_opt.meta_training.meta_loss import MetaLoss
from meta_opt.optimizees.layout import Layout, Sharing
from meta_opt.optimizees.problems import Evaluation, Problems, problem_generator
from meta_opt.optimizers.coordinatewise_lstm import CoordinatewiseLSTM

OPTIONS = [
    {},
    {"inputs": "none"},
    {"inputs": "moments", "output": "tanh"},
    {"inputs": "log_sign+moments", "base_step": 0.03},
    {"inputs": "log_sign+moments+scales", "output": "magnitude", "base_step": 0.03},
    {"anneal_after": 3},
]


def layout_of(size: int) -> Layout:
    return Layout.of({"theta": torch.zeros(size)})


def built(layout: Layout, **options: object) -> CoordinatewiseLSTM:
    optimizer = CoordinatewiseLSTM(**options)  # type: ignore[arg-type]
    optimizer.build(layout, problem_generator(7, "phi"))
    return optimizer.double()


def updates(optimizer: CoordinatewiseLSTM, grads: torch.Tensor) -> torch.Tensor:
    """The updates [T, B, N] for a given sequence of gradients [T, B, N]."""
    state = optimizer.init_state(layout_of(grads.shape[2]), grads.shape[1])
    collected = []
    for grad in grads:
        update, state, *_ = optimizer.step(Evaluation(grad.sum(1), grad, grad), state)
        collected.append(update)
    return torch.stack(collected)


@pytest.mark.parametrize("options", OPTIONS)
def test_permuting_coordinates_permutes_updates(options: dict[str, object]) -> None:
    generator = torch.Generator().manual_seed(0)
    grads = torch.randn(6, 3, 11, generator=generator, dtype=torch.float64)
    order = torch.randperm(11, generator=generator)
    optimizer = built(layout_of(11), **options)
    plain, permuted = updates(optimizer, grads), updates(optimizer, grads[..., order])
    torch.testing.assert_close(plain[..., order], permuted, rtol=1e-12, atol=1e-15)
    assert plain.std() > 1e-4


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("share", ["all", "group", "tensor"])
def test_one_problem_at_a_time_equals_all_at_once(options: dict[str, object], share: str) -> None:
    def losses(indices: list[int]) -> torch.Tensor:
        problems = Problems(Regression(), "train", indices, seed=0, dtype=torch.float64)
        optimizer = built(problems.layout, share=share, **options)
        return unroll(problems, optimizer, begin(problems, optimizer), 10).losses

    together = losses([0, 1, 2])
    alone = torch.cat([losses([index]) for index in range(3)], dim=1)
    torch.testing.assert_close(together, alone, rtol=1e-10, atol=1e-12)


def test_groups_have_networks_of_their_own() -> None:
    problems = Problems(Regression(), "train", [0], seed=0)
    optimizer = CoordinatewiseLSTM(share="group")
    optimizer.build(problems.layout, problem_generator(0, "phi"))
    assert list(optimizer.networks) == ["first", "second"]
    with torch.no_grad():
        optimizer.networks["second"].output_weight.zero_()
        optimizer.networks["second"].output_bias.zero_()
    update = problems.layout.unflatten(optimizer.step(*_args(begin(problems, optimizer)))[0])
    assert update["second.weight"].abs().max() == 0
    assert update["second.bias"].abs().max() == 0
    assert update["first.weight"].abs().min() > 0
    assert update["first.bias"].abs().min() > 0


def _args(position):  # type: ignore[no-untyped-def]
    return position.evaluation, position.state


def test_tensors_have_networks_of_their_own() -> None:
    problems = Problems(Regression(), "train", [0], seed=0)
    optimizer = CoordinatewiseLSTM(share="tensor")
    optimizer.build(problems.layout, problem_generator(0, "phi"))
    assert sorted(optimizer.networks) == ["first/bias", "first/weight", "second/bias", "second/weight"]


def test_a_group_without_a_network_is_an_error() -> None:
    optimizer = CoordinatewiseLSTM(share="group")
    optimizer.build(layout_of(3), problem_generator(0, "phi"))
    layout = Problems(Regression(), "train", [0], seed=0).layout
    with pytest.raises(MetaOptError, match="no network for first, second; it has all"):
        optimizer.init_state(layout, 1)


def test_another_network_stands_in_for_a_group_without_one() -> None:
    problems = Problems(Regression(), "train", [0, 1], seed=0)
    one, by_group = CoordinatewiseLSTM(), CoordinatewiseLSTM(share="group")
    for optimizer in (one, by_group):
        optimizer.build(layout_of(3), problem_generator(0, "phi"))
    by_group.network_for = {"first": "all", "second": "all"}
    curves, grads = [], []
    for optimizer in (one, by_group):
        trajectory = unroll(problems, optimizer, begin(problems, optimizer), 5)
        curves.append(trajectory.losses)
        grads.append(first_order(trajectory, optimizer, MetaLoss("sum", "constant")).grads)
        problems = Problems(Regression(), "train", [0, 1], seed=0)
    assert torch.equal(*curves)
    torch.testing.assert_close(*grads, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("engine", ["native", "torch", "fused"])
@pytest.mark.parametrize("frozen", [slice(None, None, 2), slice(4)])  # some of each network; all of the first
def test_frozen_weights_have_no_gradient(frozen: slice, engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    problems = Problems(Regression(), "train", [0, 1], seed=0, dtype=torch.float64)
    optimizer = built(problems.layout, share="group", num_layers=1, engine="native" if engine == "native" else "torch")
    if engine == "fused":
        monkeypatch.setattr(CoordinatewiseLSTM, "_fuses", lambda *_: True)
    trajectory = unroll(problems, optimizer, begin(problems, optimizer), 5)
    weights = [*optimizer.parameters()]
    whole = first_order(trajectory, optimizer, MetaLoss("sum", "constant")).grads
    for weight in weights[frozen]:
        weight.requires_grad_(False)
    expected = [grad for grad, weight in zip(whole, weights, strict=True) if weight.requires_grad]
    part = first_order(trajectory, optimizer, MetaLoss("sum", "constant")).grads
    torch.testing.assert_close([*part], expected, rtol=1e-10, atol=1e-12)


def test_starts_from_the_network_of_the_same_name_or_the_only_one_or_that_of_matrices() -> None:
    layout = Problems(Regression(), "train", [0], seed=0).layout
    names: tuple[Sharing, ...] = ("all", "group")
    one, groups = (CoordinatewiseLSTM(share=share) for share in names)
    other = CoordinatewiseLSTM(share="group")
    for number, optimizer in enumerate((one, groups, other)):
        optimizer.build(layout, problem_generator(number, "phi"))
    other.start_from(groups)
    assert all(map(torch.equal, other.parameters(), groups.parameters()))
    other.start_from(one)
    assert all(map(torch.equal, other.parameters(), [*one.parameters(), *one.parameters()]))
    kinds = CoordinatewiseLSTM(share="kind")
    kinds.build(layout, problem_generator(3, "phi"))
    assert {*kinds.networks} == {"matrix", "vector"}
    other.start_from(kinds)
    matrix = [*kinds.networks["matrix"].parameters()]
    assert all(map(torch.equal, other.parameters(), [*matrix, *matrix]))
    for source, message in (
        (CoordinatewiseLSTM(hidden_size=5), "differ in num_layers, hidden_size, output or tensor_features"),
        (CoordinatewiseLSTM(inputs="moments"), "do not read the same inputs"),
        (CoordinatewiseLSTM(share="tensor"), "no network first, second to start from, only first/"),
    ):
        source.build(layout, problem_generator(0, "phi"))
        with pytest.raises(MetaOptError, match=message):
            other.start_from(source)


def test_untrained_with_a_base_step_is_adam_with_beta_095() -> None:
    grads = torch.randn(8, 2, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    optimizer = built(layout_of(5), inputs="log_sign+moments", base_step=0.03, initial_output=0.0)
    theta = torch.zeros(2, 5, dtype=torch.float64, requires_grad=True)
    adam = torch.optim.Adam([theta], lr=0.03, betas=(0.95, 0.95))
    for grad, update in zip(grads, updates(optimizer, grads), strict=True):
        before = theta.detach().clone()
        theta.grad = grad
        adam.step()
        torch.testing.assert_close(update.detach(), theta.detach() - before, rtol=1e-9, atol=1e-12)


def test_annealed_updates_shrink_with_the_root_of_time() -> None:
    grads = torch.randn(9, 2, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    plain, annealed = (
        updates(built(layout_of(5), base_step=0.03, anneal_after=after), grads).flatten(1) for after in (None, 4)
    )
    torch.testing.assert_close(annealed[:4], plain[:4], rtol=0, atol=0)
    torch.testing.assert_close(annealed[4], plain[4] * (4 / 5) ** 0.5)
    torch.testing.assert_close(annealed[8], plain[8] * (4 / 9) ** 0.5)


def test_tanh_bounds_the_update() -> None:
    grads = 1e3 * torch.randn(4, 1, 50, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    optimizer = built(layout_of(50), inputs="none", output="tanh", output_scale=0.2, initial_output=100.0)
    largest = updates(optimizer, grads).abs().max().item()
    assert 0.15 < largest <= 0.2


def test_build_depends_on_the_generator_alone() -> None:
    torch.manual_seed(1)
    one = built(layout_of(2))
    torch.manual_seed(2)
    two = built(layout_of(2))
    for ours, theirs in zip(one.parameters(), two.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_save_and_reload() -> None:
    one, two = built(layout_of(2)), CoordinatewiseLSTM()
    two.build(layout_of(2), problem_generator(99, "phi"))
    two.double().load_state_dict(one.state_dict())
    grads = torch.randn(3, 1, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert torch.equal(updates(one, grads), updates(two, grads))
    assert torch.equal(updates(one, grads), updates(pickle.loads(pickle.dumps(one)), grads))


def test_gradient_reaches_every_weight() -> None:
    grads = torch.randn(3, 1, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    optimizer = built(layout_of(4), inputs="log_sign+moments", base_step=0.1)
    updates(optimizer, grads).square().sum().backward()
    assert all(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in optimizer.parameters())


def test_sizes_out_of_range() -> None:
    with pytest.raises(MetaOptError, match="optimizer.num_layers must be 0 or more, not -1"):
        CoordinatewiseLSTM(num_layers=-1)
    with pytest.raises(MetaOptError, match="optimizer.hidden_size must be 1 or more, not 0"):
        CoordinatewiseLSTM(hidden_size=0)
    with pytest.raises(MetaOptError, match="optimizer.anneal_after must be 1 or more, not 0"):
        CoordinatewiseLSTM(anneal_after=0)
    for p in (0.0, 80.5, float("nan")):
        with pytest.raises(MetaOptError, match="optimizer.p must be more than 0 and at most 80, not"):
            CoordinatewiseLSTM(p=p)


def test_does_not_start_from_a_network_that_reads_another_p() -> None:
    one, two = built(layout_of(2), p=10.0), built(layout_of(2), p=4.0)
    with pytest.raises(MetaOptError, match="do not read the same inputs"):
        one.start_from(two)
