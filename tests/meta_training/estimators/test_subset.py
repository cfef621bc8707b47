"""The meta-gradient from a part of the coordinates."""

from itertools import combinations

import pytest
import torch
from problems_for_tests import Regression

from meta_opt.errors import MetaOptError
from meta_opt.inner_loop.unroll import begin, unroll
from meta_opt.meta_training.estimators.first_order import FirstOrder, first_order
from meta_opt.meta_training.estimators.subset import SMALL, Subset, draw_subset
from meta_opt.meta_training.meta_loss import MetaLoss
from meta_opt.optimizees.layout import Layout
from meta_opt.optimizees.problems import Problems, problem_generator
from meta_opt.optimizers.contract import OptimizerNetwork
from meta_opt.optimizers.coordinatewise_lstm import CoordinatewiseLSTM, Engine

LOSS = MetaLoss("sum", "constant")


def layout(*sizes: int) -> Layout:
    return Layout.of({f"w{index}": torch.empty(size) for index, size in enumerate(sizes)})


def test_every_coordinate_counts_alike_on_average() -> None:
    shape, generator = layout(5000, 3, 2000), torch.Generator().manual_seed(0)
    total = torch.zeros(shape.num_coordinates)
    for _ in range(400):
        drawn = draw_subset(shape, 0.5, generator)
        assert torch.equal(drawn.columns, drawn.columns.unique(sorted=True))
        total.index_add_(0, drawn.columns, drawn.weights)
    torch.testing.assert_close(total / 400, torch.ones_like(total), rtol=0, atol=0.25)
    assert torch.equal(total[5000:5003], torch.full((3,), 400.0))


def test_small_tensors_are_whole_and_large_ones_cut() -> None:
    drawn = draw_subset(layout(SMALL, 10 * SMALL, 0, 5), 0.25, torch.Generator().manual_seed(0))
    counts = [int(((drawn.columns >= a) & (drawn.columns < b)).sum()) for a, b in ((0, SMALL), (SMALL, 11 * SMALL))]
    assert counts == [SMALL, round(2.5 * SMALL)]
    assert len(drawn.columns) == sum(counts) + 5


@pytest.mark.parametrize("engine", ["torch", "auto"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"share": "group", "inputs": "log_sign+moments", "base_step": 0.03},
        {"inputs": "log_sign+moments+scales", "output": "magnitude"},
        {"inputs": "log_sign+moments+scales+orthogonal", "output": "magnitude", "base_step": 0.03},
        {"inputs": "log_sign+moments", "base_step": 0.03, "anneal_after": 5},
    ],
)
def test_the_mean_over_all_subsets_is_the_meta_gradient(options: dict[str, object], engine: Engine) -> None:
    """All pairs out of five blocks of coordinates, from a state that is not zero."""
    problems = Problems(Regression(), "train", range(2), seed=3, dtype=torch.float64)
    optimizer = CoordinatewiseLSTM(hidden_size=5, **options)  # type: ignore[arg-type]
    optimizer.build(problems.layout, problem_generator(1, "phi"))
    optimizer.double().engine = engine
    before = unroll(problems, optimizer, begin(problems, optimizer), 3)
    trajectory = unroll(problems, optimizer, before.end, 6)
    whole = first_order(trajectory, optimizer, LOSS)
    blocks = torch.arange(problems.layout.num_coordinates).tensor_split(5)
    sums = [torch.zeros_like(grad) for grad in whole.grads]
    pairs = list(combinations(blocks, 2))
    for pair in pairs:
        columns = torch.cat(pair)
        estimate = first_order(trajectory, optimizer, LOSS, Subset(columns, torch.full((len(columns),), 2.5)))
        assert torch.equal(estimate.loss, whole.loss)
        torch._foreach_add_(sums, estimate.grads)
    for ours, theirs in zip(sums, whole.grads, strict=True):
        torch.testing.assert_close(ours / len(pairs), theirs, rtol=1e-9, atol=1e-12)


def test_architectures_that_cannot_say_so() -> None:
    class Whole(OptimizerNetwork):
        build = init_state = step = None  # type: ignore[assignment]

    network = Whole()
    assert not network.replays_columns
    with pytest.raises(MetaOptError, match="Whole replays all coordinates or none: its scope is problem"):
        network.replay([], None, [], torch.arange(2))
    with pytest.raises(MetaOptError, match="model.estimator.replay_fraction must be 1 with Whole"):
        FirstOrder(replay_fraction=0.5).check(network, 10)
