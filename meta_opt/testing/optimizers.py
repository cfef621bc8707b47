"""What every learned optimizer has to fulfil, one check a function."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable

import torch
from torch import Tensor

from meta_opt.optimizees.contract import TensorDict
from meta_opt.optimizees.problems import Evaluation
from meta_opt.optimizers.contract import InnerOptimizer, OptimizerNetwork
from meta_opt.optimizers.state import map_state
from meta_opt.testing.drop_in import (
    added_parameters,
    missing_gradients,
    saved_states,
    several_types,
    states_of_parameters,
    steps_of_the_drop_in,
)
from meta_opt.testing.given import LAYOUT, built, close, draw_evaluations, seeded, tensors_of
from meta_opt.testing.replays import (
    gradient_reaches_every_weight,
    replay_is_backpropagation,
    replay_of_some_coordinates,
)
from meta_opt.testing.scopes import (
    influence_within_the_scope,
    permuted_coordinates,
    problems_side_by_side,
    rest_without_gradient,
    what_is_not_read_has_no_influence,
)
from meta_opt.testing.states import (
    autocast_changes_nothing,
    axes_of_the_state,
    save_and_reload,
    segments_equal_the_whole,
    state_follows_the_weights,
    states_of_tensors,
)

OptimizerCheck = Callable[[OptimizerNetwork], None]


def check_optimizer(optimizer: OptimizerNetwork) -> None:
    """Run every check.

    Args:
        optimizer: What to check, not built yet; it is left as it is.

    Raises:
        AssertionError: If the learned optimizer breaks its contract; the message says how.
    """
    for check in optimizer_checks():
        check(optimizer)


def optimizer_checks() -> tuple[OptimizerCheck, ...]:
    """All checks, for ``pytest.mark.parametrize``, which calls each by its name."""
    return (
        plain_arguments,
        weights_from_the_generator,
        update_shape,
        pure_step,
        rollout_is_step_after_step,
        finite_updates,
        problems_side_by_side,
        permuted_coordinates,
        rest_without_gradient,
        influence_within_the_scope,
        what_is_not_read_has_no_influence,
        axes_of_the_state,
        states_of_tensors,
        autocast_changes_nothing,
        noise_from_the_generator,
        functional_calls,
        segments_equal_the_whole,
        save_and_reload,
        gradient_reaches_every_weight,
        replay_is_backpropagation,
        replay_of_some_coordinates,
        state_follows_the_weights,
        recommended_settings,
        steps_of_the_drop_in,
        states_of_parameters,
        saved_states,
        missing_gradients,
        added_parameters,
        several_types,
    )


def inner_optimizer_checks() -> tuple[Callable[[InnerOptimizer], None], ...]:
    """The checks that ask for no weights, and so are for hand-made optimizers too."""
    return (
        update_shape,
        finite_updates,
        problems_side_by_side,
        permuted_coordinates,
        rest_without_gradient,
        influence_within_the_scope,
        what_is_not_read_has_no_influence,
        noise_from_the_generator,
        segments_equal_the_whole,
        autocast_changes_nothing,
    )


def weights_from_the_generator(optimizer: OptimizerNetwork) -> None:
    """``build`` makes weights, from the generator alone."""
    name = type(optimizer).__name__
    state = torch.get_rng_state()
    try:
        weights = []
        for seed in range(2):
            torch.manual_seed(seed)
            weights.append(dict(built(optimizer, noise=0.0).named_parameters()))
    finally:
        torch.set_rng_state(state)
    assert weights[0], f"{name}.build makes no weights"
    for key, value in weights[0].items():
        assert torch.equal(value, weights[1][key]), f"{name}.build makes another {key} from the same generator"


def update_shape(optimizer: InnerOptimizer) -> None:
    """Updates are [B, N], like gradients."""
    optimizer = built(optimizer)
    evaluation = draw_evaluations(3)[0]
    update, *_ = optimizer.step(evaluation, optimizer.init_state(LAYOUT, 3))
    found = list(update.shape)
    assert update.shape == evaluation.grad.shape, (
        f"{type(optimizer).__name__}.step must return an update [B, N], {list(evaluation.grad.shape)}, not {found}"
    )


def pure_step(optimizer: OptimizerNetwork) -> None:
    """``step`` gives the same result at the same arguments, which it leaves unchanged."""
    optimizer = built(optimizer)
    name = type(optimizer).__name__
    first, second = draw_evaluations(2)[:2]
    _, state, _ = optimizer.step(first, optimizer.init_state(LAYOUT, 2))
    before = copy.deepcopy((tensors_of(map_state(Tensor.detach, state)), second))
    update, *_ = optimizer.step(second, state)
    again, *_ = optimizer.step(second, state)
    for key, value in tensors_of(state).items():
        assert torch.equal(value, before[0][key]), f"{name}.step changes {key} of the state in place: see rollout"
    for field in ("loss", "grad", "params"):
        same = torch.equal(getattr(second, field), getattr(before[1], field))
        assert same, f"{name}.step changes {field} of the evaluation in place"
    assert torch.equal(update, again), f"{name}.step gives another update when it is called again: keep no state in it"


def rollout_is_step_after_step(optimizer: OptimizerNetwork) -> None:
    """``rollout`` gives the updates of ``step``, and leaves the state that it begins at unchanged."""
    optimizer = built(optimizer)
    name = type(optimizer).__name__
    first, *rest = draw_evaluations(2)
    with torch.no_grad():
        _, state, _ = optimizer.step(first, optimizer.init_state(LAYOUT, 2))
        before = copy.deepcopy(tensors_of(map_state(Tensor.detach, state)))
        rollout = optimizer.rollout(state)
        updates = [rollout.step(evaluation) for evaluation in rest]
        for key, value in tensors_of(state).items():
            assert torch.equal(value, before[key]), f"{name}.rollout changes {key} of the state that it begins at"
        for update, evaluation in zip(updates, rest, strict=True):
            expected, state, _ = optimizer.step(evaluation, state)
            assert close(update, expected), f"{name}.rollout gives other updates than step"
        for key, value in tensors_of(rollout.state).items():
            assert close(value, tensors_of(state)[key]), f"{name}.rollout ends at another state than step"


def finite_updates(optimizer: InnerOptimizer) -> None:
    """Updates are finite at gradients of zero, tiny and huge."""
    optimizer = built(optimizer, dtype=torch.float32)
    name = type(optimizer).__name__
    state = optimizer.init_state(LAYOUT, 1)
    for size in (0.0, 1e-30, 1e8, 1.0, 0.0):
        like = torch.full((1, LAYOUT.num_coordinates), size)
        update, state, _ = optimizer.step(Evaluation(like.sum(1), like, torch.zeros_like(like)), state)
        assert update.isfinite().all(), f"{name}.step gives an update that is not finite at gradients of {size:g}"


def noise_from_the_generator(optimizer: InnerOptimizer) -> None:
    """Equal generators give equal steps; without one there is no randomness."""
    optimizer, evaluation = built(optimizer), draw_evaluations(2)[0]
    name, state, before = type(optimizer).__name__, optimizer.init_state(LAYOUT, 2), torch.get_rng_state()
    for noise in (lambda: None, lambda: seeded(7)):
        one, other = (optimizer.step(evaluation, state, noise()).update for _ in range(2))
        assert torch.equal(one, other), f"{name}.step gives another update with an equal source of noise"
    untouched = torch.equal(torch.get_rng_state(), before)
    assert untouched, f"{name}.step draws from PyTorch's global generator: draw from noise"


def functional_calls(optimizer: OptimizerNetwork) -> None:
    """``torch.func.functional_call`` steps with other weights, and ``vmap`` with several at once."""
    one, two = (built(optimizer, seed=seed) for seed in (0, 5))
    name, evaluation = type(optimizer).__name__, draw_evaluations(2)[0]
    state = one.init_state(LAYOUT, 2)

    def update(phi: TensorDict) -> Tensor:
        return torch.func.functional_call(one, phi, (evaluation, state)).update

    weights = [{key: weight.detach() for key, weight in each.named_parameters()} for each in (one, two)]
    with torch.enable_grad():
        expected = [each.step(evaluation, state).update.detach() for each in (one, two)]
        called = [update(phi).detach() for phi in weights]
        stacked = {key: torch.stack([phi[key] for phi in weights]) for key in weights[0]}
        mapped = torch.vmap(update)(stacked).detach()
    assert close(torch.stack(called), torch.stack(expected)), f"{name}: functional_call does not use the weights given"
    assert close(mapped, torch.stack(expected)), f"{name}: vmap over φ gives other updates than one φ after the other"


def recommended_settings(optimizer: OptimizerNetwork) -> None:
    """What is recommended are options of meta-training, of the default estimator, and of its own, that there are."""
    from meta_opt.meta_training.estimators.first_order import FirstOrder
    from meta_opt.meta_training.meta_learner import MetaLearner  # which takes seconds

    name = type(optimizer).__name__
    known: dict[str, type] = {"model": MetaLearner, "model.estimator": FirstOrder, "optimizer": type(optimizer)}
    for option in optimizer.recommended_settings():
        part, _, argument = option.rpartition(".")
        there = part in known and argument in inspect.signature(known[part].__init__).parameters  # type: ignore[misc]
        assert there, f"{name} recommends a setting {option}, but there is no such option"


def plain_arguments(optimizer: OptimizerNetwork) -> None:
    """The constructor's arguments are plain values, from which a checkpoint can make the optimizer again."""
    odd = optimizer.odd_argument()
    assert odd is None, (
        f"{type(optimizer).__name__} was made from an argument that is no plain value "
        f"(number, string, list or dict), {odd}, so that no checkpoint could make it again"
    )
