"""Adam in the eigenbases of gradients, with step lengths that a network chooses."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from meta_opt import LearnedOptimizer
from meta_opt.errors import MetaOptError
from meta_opt.inner_loop.unroll import begin, unroll
from meta_opt.optimizees.layout import Layout
from meta_opt.optimizees.problems import Evaluation, Problems, problem_generator
from meta_opt.optimizers import learned_soap
from meta_opt.optimizers.eigenbases import Eigenbases, Side, normalized, smallest_square, turns, used_rows
from meta_opt.optimizers.learned_soap import LearnedSOAP
from meta_opt_optimizees.digits_mlp import DigitsMlp

LAYOUT = Layout.of(  # with tensors of the same shape, which are stepped as one batch
    {
        "matrix": torch.zeros(3, 4),
        "vector": torch.zeros(5),
        "filters": torch.zeros(4, 2, 2),
        "bias": torch.zeros(5),
        "again": torch.zeros(3, 4),
    }
)


def built(layout: Layout = LAYOUT, dtype: torch.dtype = torch.float64, **options: object) -> LearnedSOAP:
    optimizer = LearnedSOAP(**options)  # type: ignore[arg-type]
    optimizer.build(layout, problem_generator(7, "phi"))
    return optimizer.to(dtype)


def gradients(num_steps: int, num_problems: int = 1, size: int = LAYOUT.num_coordinates) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    mean = torch.randn(num_problems, size, generator=generator, dtype=torch.float64)
    return mean + torch.randn(num_steps, num_problems, size, generator=generator, dtype=torch.float64)


@torch.no_grad()
def updates(optimizer: LearnedSOAP, grads: Tensor, layout: Layout = LAYOUT, horizon: int | None = None) -> Tensor:
    """[T, B, N]."""
    state, collected = optimizer.init_state(layout, grads.shape[1]), []
    state = state if horizon is None else optimizer.expect(state, horizon)
    for grad in grads:
        update, state, _ = optimizer.step(Evaluation.of(grad=grad), state)
        collected.append(update)
    return torch.stack(collected)


def by_hand(optimizer: LearnedSOAP, grads: Tensor, horizon: int, basis_of: str = "iteration") -> Tensor:
    """The updates [T, N] of one problem, tensor by tensor, as Vyas et al. 2024 (algorithm 3) write them.

    Args:
        optimizer: Whose network to ask.
        grads: [T, N].
        horizon: T.
        basis_of: ``iteration``, or ``eigenvectors`` at every step.
    """
    collected = torch.zeros_like(grads)
    start = 0
    for tensor, shape in enumerate(LAYOUT.shapes):
        size = math.prod(shape)
        rows = shape[0] if len(shape) > 1 else 0
        form = (rows, size // rows) if rows else (size, 1)
        unit = math.sqrt(max(1.0, form[0] / form[1]) / max(form)) if rows else 0.15
        grams = [torch.zeros(n, n).double() for n in form]
        bases = [torch.eye(n).double() for n in form]
        mean, square, stretch = torch.zeros(form).double(), torch.zeros(form).double(), 1.0
        for t, whole in enumerate(grads, start=1):
            grad = whole[start : start + size].view(form)
            mean = optimizer.momentum * mean + (1 - optimizer.momentum) * grad
            if rows:
                for side, product in enumerate((grad @ grad.T, grad.T @ grad)):
                    grams[side] = 0.95 * grams[side] + 0.05 * product
                    n = form[side]
                    floor = 0.01 * grams[side].trace() / n * torch.diag(torch.linspace(2, 1, n).double())
                    if basis_of == "eigenvectors":
                        bases[side] = torch.linalg.eigh(grams[side] + floor).eigenvectors
                    elif t < 10 or t % 3 == 0:
                        bases[side] = torch.linalg.qr((grams[side] + floor) @ bases[side]).Q
            newest = optimizer.last_gradient
            hat = (1 - newest) * mean + newest * grad
            hat = hat / ((1 - newest) * (1 - optimizer.momentum**t) + newest)
            read, hat = (bases[0].T @ each @ bases[1] for each in (grad, hat))
            square = 0.95 * square + 0.05 * read**2
            corrected = square / (1 - 0.95**t)
            direction = hat / (corrected + 1e-3 * corrected.mean()).sqrt()
            far = math.log(t / (horizon - t + 1)) / 4
            agreement = (direction**2).mean().item()
            stretch = min(max(stretch * (1.2 if agreement > (0.7 if rows else 0.5) and t > 5 else 0.8), 1.0), 100.0)
            length = math.log(agreement + 1e-6) / 5
            fan_in = max(size // (shape[0] if shape else 1), 1)
            kind = [float(len(shape) < 2), float(len(shape) > 2), tensor / 4]
            read_by_network = [*kind, math.log(fan_in) / 5, math.log(shape[0]) / 5, far, length]
            hidden = torch.tanh(optimizer.input_weight @ torch.tensor(read_by_network).double() + optimizer.input_bias)
            factor = (optimizer.output_weight @ hidden + optimizer.output_bias).exp()
            left = math.sqrt(1000 / max(horizon, 300)) * (1 - (t - 1) / horizon) ** 1.25
            step = optimizer.base_step * unit * left * stretch * factor
            update = -step * (bases[0] @ direction @ bases[1].T)
            collected[t - 1, start : start + size] = update.flatten()
        start += size
    return collected


@pytest.mark.parametrize("last_gradient", [0.0, 0.2])
def test_updates_are_those_of_the_paper_with_a_factor(last_gradient: float):
    optimizer = built(initial_output=1.0, last_gradient=last_gradient)
    grads = gradients(25, 2)
    found = updates(optimizer, grads, horizon=25)
    for problem in range(2):
        assert torch.allclose(found[:, problem], by_hand(optimizer, grads[:, problem], 25), rtol=1e-9)


def test_the_bases_come_to_be_the_eigenvectors():
    """Where directions do not change, orthogonal iteration finds them: one turn in three steps is enough."""
    optimizer, grads = built(), gradients(1)[0]
    generator = torch.Generator().manual_seed(3)
    left, right = (torch.linalg.qr(torch.randn(n, n, generator=generator).double()).Q for n in (3, 4))
    scales = torch.tensor([[8.0, 0.0, 0.0, 0.0], [0.0, 2.0, 0.0, 0.0], [0.0, 0.0, 0.5, 0.0]]).double()
    noise = torch.randn(120, 3, 4, generator=generator).double()
    rows = grads.expand(120, 1, -1).clone()
    rows[:, 0, :12] = (left @ (scales * noise) @ right.T).flatten(1)
    found = updates(optimizer, rows, horizon=120)[:, 0, :12]
    expected = by_hand(optimizer, rows[:, 0], 120, basis_of="eigenvectors")[:, :12]
    late = slice(100, None)
    assert (found[late] - expected[late]).norm() < 0.05 * expected[late].norm()
    assert (found[0] - expected[0]).norm() > 0.05 * expected[0].norm()  # and not by accident


def test_bases_stay_orthogonal_where_gradients_have_a_rank_of_one():
    side, generator = Side.first(torch.zeros((), dtype=torch.float32), 2, 1, 40), torch.Generator().manual_seed(0)
    for _ in range(60):
        column = torch.randn(2, 1, 40, 1, generator=generator) * 1e-6
        column[0, 0, 7] = 0.0  # a coordinate that never has a gradient
        side = side.after(column, turn=True)
    assert torch.allclose(side.basis.mT @ side.basis, torch.eye(40).expand(2, 1, 1, -1, -1), atol=1e-5)
    nothing = Side.first(torch.zeros((), dtype=torch.float32), 1, 1, 5).after(torch.zeros(1, 1, 5, 3), turn=True)
    assert torch.allclose(nothing.basis.abs()[0, 0, 0], torch.eye(5))


def test_a_long_side_is_cut_into_blocks_each_with_a_basis_of_its_own():
    like, generator = torch.zeros((), dtype=torch.float64), torch.Generator().manual_seed(0)
    grads = torch.randn(4, 1, 1, 514, 3, generator=generator, dtype=torch.float64)
    side, parts = Side.first(like, 1, 1, 514), [Side.first(like, 1, 1, n) for n in (103, 103, 103, 103, 102)]
    for grad in grads:
        side = side.after(grad, turn=True)
        parts = [part.after(own, turn=True) for part, own in zip(parts, grad.split(103, dim=2), strict=True)]
    assert side.basis.shape == (1, 1, 5, 103, 103)
    expected = torch.cat([part.read(own) for part, own in zip(parts, grads[0].split(103, dim=2), strict=True)], dim=2)
    assert torch.allclose(
        side.read(grads[0])[:, :, :412], expected[:, :, :412]
    )  # the floor of a filled-up block is another
    assert torch.allclose(side.back(side.read(grads[0])), grads[0])
    assert side.basis[0, 0, 4, 102, :102].abs().max() == 0.0


def test_small_squares_count_for_more_where_few_rows_are_used():
    """By hand, of an embedding of ten rows: with six unused a fifth of the way to a tenth, with nine four fifths."""
    grad = torch.ones(3, 1, 10, 2, dtype=torch.float64)
    grad[0, 0, :5] = 0.0  # half are used
    grad[1, 0, :6] = 0.0
    grad[2, 0, :9] = 0.0
    expected = torch.tensor([0.001, 0.001 + 0.2 * 0.099, 0.001 + 0.8 * 0.099], dtype=torch.float64)
    torch.testing.assert_close(smallest_square(used_rows(grad)).flatten(), expected)
    square = torch.ones(3, 10, 2, dtype=torch.float64)
    square[:, 0] = 0.0
    directions = normalized(torch.ones_like(square), square, expected)
    torch.testing.assert_close(directions[:, 0, 0], (0.9 * expected).rsqrt(), rtol=1e-9, atol=0)


@pytest.mark.parametrize("batch_size", [4, 8])
def test_an_embedding_of_which_few_rows_are_used_learns_from_small_batches(batch_size: int):
    """A factorization of 200 users and 100 items; with a thousandth its loss rises to thousands, on batches of 4."""
    torch.manual_seed(0)
    table, start = torch.randn(300, 8) * 0.5, torch.randn(300, 8)
    pairs = torch.stack([torch.randint(200, (4000,)), torch.randint(200, 300, (4000,))], dim=1)
    targets = table[pairs].prod(1).sum(1)
    theta = torch.nn.Parameter(start)
    optimizer = LearnedOptimizer([theta], pretrained="general", num_steps=150)

    def loss(rows: Tensor) -> Tensor:
        return (theta[pairs[rows]].prod(1).sum(1) - targets[rows]).square().mean()

    first = loss(torch.arange(4000)).item()
    for _ in range(150):
        optimizer.zero_grad()
        loss(torch.randint(4000, (batch_size,))).backward()
        optimizer.step()
    assert loss(torch.arange(4000)).item() < first


@pytest.mark.parametrize(
    ("shape", "rows", "columns"),
    [((10, 784), True, True), ((1, 30), False, True), ((20_000, 8), False, True), ((9_000, 1), False, False)],
)
def test_which_sides_have_bases(shape: tuple[int, ...], rows: bool, columns: bool):
    layout = Layout.of({"it": torch.zeros(shape)})
    (segment,) = layout.segments("tensor", features=True)
    bases = Eigenbases.first(torch.zeros((), device="meta"), 1, segment)
    assert (bases.rows is not None, bases.columns is not None) == (rows, columns)
    assert bool(bases) == (rows or columns)


@pytest.mark.parametrize(
    ("horizon", "expected"),
    [
        (40, {0: (300, 1.0), 20: (300, 0.5), 39: (300, 1 / 40), 59: (300, 0.001)}),  # and after its end
        (1200, {0: (1200, 1.0), 60: (1200, 0.95)}),
        (None, {0: (300, 1.0), 60: (300, 0.8), 199: (400, 201 / 400)}),
    ],
)
def test_updates_fall_over_a_run(horizon: int | None, expected: dict[int, tuple[int, float]]):
    grads = gradients(1).expand(200, -1, -1)
    constant, found = updates(built(), grads, horizon=10**9), updates(built(), grads, horizon=horizon)
    for step, (length, left) in expected.items():
        ratio = torch.tensor(math.sqrt(10**9 / length) * left**1.25).double()
        assert torch.allclose(found[step] / constant[step], ratio, rtol=1e-4)


def test_matrices_side_by_side_are_stepped_as_if_each_were_a_tensor():
    """With bases of several blocks, of both sides."""
    together, grads = Layout.of({"experts": torch.zeros(2, 20, 130)}), gradients(5, 2, size=2 * 20 * 130)
    apart = Layout.of({"one": torch.zeros(20, 130), "other": torch.zeros(20, 130)})
    found = updates(built(), grads, replace(together, num_matrices=2), 300)
    torch.testing.assert_close(found, updates(built(), grads, apart, 300))
    turned = Layout.of({"experts": torch.zeros(2, 130, 20)})
    apart = Layout.of({"one": torch.zeros(130, 20), "other": torch.zeros(130, 20)})
    found = updates(built(), grads, replace(turned, num_matrices=2), 300)  # which are the inputs is not known
    torch.testing.assert_close(found, math.sqrt(20 / 130) * updates(built(), grads, apart, 300))


def test_a_picture_is_stepped_as_a_vector():
    grads = gradients(5, 2, size=768)
    found = updates(built(), grads, Layout.of({"picture": torch.zeros(1, 3, 8, 32)}), 300)
    torch.testing.assert_close(found, updates(built(), grads, Layout.of({"vector": torch.zeros(768)}), 300))


@pytest.mark.parametrize("far", [20.0, 200.0])
def test_a_number_that_has_far_to_go_gets_there(far: float):
    """With steps of one length it comes to 6 in 300 steps; beside a weight that has not."""
    params = [torch.nn.Parameter(torch.zeros(())), torch.nn.Parameter(torch.zeros(2))]
    optimizer = LearnedOptimizer(params, pretrained="general", num_steps=300)
    generator = torch.Generator().manual_seed(0)
    for _ in range(300):
        optimizer.zero_grad()
        noise = torch.randn(3, generator=generator)
        ((params[0] - far + noise[0]).square() + (params[1] - 1.0 + noise[1:]).square().sum()).backward()
        optimizer.step()
    assert abs(params[0].item() - far) < 0.03 * far
    assert (params[1] - 1.0).abs().max() < 0.2


def of_matrices(count: int) -> Layout:
    return Layout.of({f"{n}": torch.zeros(3, 4) for n in range(count)} | {"vector": torch.zeros(5)})


@pytest.mark.parametrize(("count", "share"), [(1, 2.0), (2, 1.0), (4, 1.0), (8, 0.5), (16, 0.25), (40, 0.25)])
def test_each_of_many_matrices_takes_its_share(count: int, share: float):
    optimizer, layout = built(), of_matrices(count)
    grads = gradients(4, size=17)
    many = torch.cat([*[grads[..., :12]] * count, grads[..., 12:]], dim=-1)
    two = torch.cat([grads[..., :12], grads], dim=-1)

    def of_two(horizon: int = 0) -> torch.Tensor:
        return updates(built(), two, of_matrices(2), horizon or None)[..., -17:]

    found = updates(optimizer, many, layout)
    torch.testing.assert_close(found[..., -17:], share * of_two())
    found = updates(built(), many, layout, 6000)
    longest = share * math.sqrt(1000 / 300)
    torch.testing.assert_close(found[..., -17:], min(max(1.0, share), longest / math.sqrt(1000 / 6000)) * of_two(6000))


def test_an_embedding_takes_longer_steps_as_far_as_its_rows_are_used(monkeypatch: pytest.MonkeyPatch):
    """Of ten rows five, which is as good as all, and one; beside a vector, and beside another matrix, too."""
    alone = Layout.of({"embedding": torch.zeros(10, 2), "vector": torch.zeros(5)})
    two = Layout.of({"embedding": torch.zeros(10, 2), "other": torch.zeros(10, 2), "vector": torch.zeros(5)})
    grads = gradients(1, 2, size=25)
    for problem, used in enumerate((5, 1)):
        grads[:, problem, 2 * used : 20] = 0.0
    grads_of_two = torch.cat([grads[..., :20], gradients(1, 2, size=20), grads[..., 20:]], dim=-1)
    found, of_two = updates(built(), grads, alone, 300), updates(built(), grads_of_two, two, 300)
    monkeypatch.setattr(learned_soap, "_borne", lambda state, used: torch.ones_like(used))
    expected = updates(built(), grads, alone, 300)
    factors = torch.ones(2, 25)
    factors[1, :20] = 1.2
    torch.testing.assert_close(of_two[..., :20], (factors * expected)[..., :20])
    torch.testing.assert_close(of_two[..., 40:], expected[..., 20:])
    factors[0], factors[1, 20:] = 2.0, 2.0
    torch.testing.assert_close(found, factors * expected)


def test_the_drop_in_counts_the_matrices_that_it_trains():
    grads = gradients(2, size=12)[:, 0].float().view(2, 3, 4)

    def moves(count: int, then: int, index: int = 0, first: int = 0, *, add: bool = False) -> list[Tensor]:
        """Of one of 8 matrices, of which so many are trained at the first and at the second step, or are there."""
        parameters = [torch.nn.Parameter(torch.zeros(3, 4)) for _ in range(8)]
        parameters[1].data = parameters[1].double()  # in a bucket of its own
        optimizer = LearnedOptimizer(
            [{"params": parameters[:4]}, *([] if add else [{"params": parameters[4:]}])],
            pretrained=built(dtype=torch.float32),
        )
        found = []
        for grad, trained in zip(grads[first:], (count, then), strict=False):
            if add and trained > 4:
                optimizer.add_param_group({"params": parameters[4:]})
            for number, parameter in enumerate(parameters):
                parameter.requires_grad_(number < trained)
                parameter.grad = grad.to(parameter) if number < trained else None
            before = parameters[index].detach().clone()
            optimizer.step()
            found.append(parameters[index].detach() - before)
        return found

    few = moves(4, 4)
    torch.testing.assert_close(moves(8, 8), [move / 2 for move in few])
    for add in (False, True):
        torch.testing.assert_close(moves(4, 8, add=add), few)  # what is there goes on as it was
        torch.testing.assert_close(moves(4, 8, 7, add=add)[1], moves(4, 4, first=1)[0] / 2)


def test_tensors_that_are_no_parameters_count_if_they_have_gradients():
    tensors = [torch.zeros(3, 4) for _ in range(8)]
    optimizer = LearnedOptimizer(tensors, pretrained=built(dtype=torch.float32))
    for tensor in tensors:
        tensor.grad = torch.ones(3, 4)
    optimizer.step()
    assert {float(state["shares"]) for state in optimizer.state.values()} == {0.5}


def test_what_never_has_a_gradient_stays():
    mask = (torch.rand(LAYOUT.num_coordinates, generator=torch.Generator().manual_seed(0)) > 0.5).double()
    moved = updates(built(), gradients(30) * mask).sum(0)
    assert not moved[:, mask == 0.0].any()
    assert moved[:, mask == 1.0].all()


def test_a_rollout_turns_the_bases_when_steps_do():
    optimizer, grads = built(initial_output=1.0), gradients(24, 2)
    expected = updates(optimizer, grads)
    with torch.no_grad():
        first = optimizer.rollout(optimizer.init_state(LAYOUT, 2))
        found = [first.step(Evaluation.of(grad=grad)) for grad in grads[:13]]
        second = optimizer.rollout(first.state)
        found += [second.step(Evaluation.of(grad=grad)) for grad in grads[13:]]
    assert torch.allclose(torch.stack(found), expected, rtol=1e-9)
    assert [step for step in range(41) if turns(step - 1)] == [*range(10), *range(12, 41, 3)]


def test_scale_of_the_loss_does_not_matter():
    grads = gradients(30)
    one = updates(built(), grads)
    for scale in (1e-6, 1e6):
        assert torch.allclose(updates(built(), scale * grads), one, rtol=1e-3)


def test_it_learns_digits_without_any_training():
    problems = Problems(DigitsMlp(), "validation", range(2), seed=0)
    optimizer = built(problems.layout, torch.float32)
    with torch.no_grad():
        losses = unroll(problems, optimizer, begin(problems, optimizer, num_steps=100), 100).losses
    assert losses[:5].mean() > 1.5
    assert losses[-10:].mean() < 0.15


def test_a_row_that_never_has_a_gradient_hardly_moves():
    grads = gradients(20)
    grads[:, :, 4:8] = 0.0  # the second row of the matrix
    moved = updates(built(), grads)[:, 0]
    assert moved[:, 4:8].abs().max() < 1e-9 * moved[:, :4].abs().max()


def test_second_derivatives_hold_the_bases_constant():
    optimizer = built()
    grad = gradients(1)[0].requires_grad_()
    update = optimizer.step(Evaluation.of(grad=grad), optimizer.init_state(LAYOUT, 1)).update
    (found,) = torch.autograd.grad(update.square().sum(), grad)
    assert found.isfinite().all()
    assert found.abs().max() > 0.0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"base_step": 0.0}, r"optimizer\.base_step must be more than 0, not 0\.0"),
        ({"momentum": 1.0}, r"optimizer\.momentum must be at least 0 and less than 1, not 1\.0"),
        ({"last_gradient": 1.5}, r"optimizer\.last_gradient must be at least 0 and at most 1, not 1\.5"),
        ({"initial_output": -1.0}, r"optimizer\.initial_output must be 0 or more, not -1\.0"),
        ({"hidden_size": 0}, r"optimizer\.hidden_size must be 1 or more, not 0"),
    ],
)
def test_values_out_of_range(options: dict[str, float], message: str):
    with pytest.raises(MetaOptError, match=message):
        LearnedSOAP(**options)  # type: ignore[arg-type]
