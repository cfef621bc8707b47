"""What every estimator of the meta-gradient has to fulfil, one check a function.

Whether an estimate is right depends on what it estimates: see ``meta_gradients``.
"""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable

import torch

from meta_opt.meta_training.estimators.contract import Estimator
from meta_opt.testing.episodes import NUM_PROBLEMS, NUM_STEPS, UNROLL_LENGTH, episode_of, momentum, run, same

EstimatorCheck = Callable[[Estimator], None]


def check_estimator(estimator: Estimator) -> None:
    """Run every check.

    Args:
        estimator: What to check; it is left as it is. An unroll of 4 steps must be possible.

    Raises:
        AssertionError: If the estimator breaks its contract; the message says how.
    """
    for check in estimator_checks():
        check(estimator)


def estimator_checks() -> tuple[EstimatorCheck, ...]:
    """All checks, for ``pytest.mark.parametrize``, which calls each by its name."""
    return (
        shapes,
        losses_of_every_step_once,
        as_many_whatever_the_values,
        phi_is_left_alone,
        phi_of_the_moment,
        equal_generators,
        pickling,
        reloading,
        plain_arguments,
    )


def shapes(estimator: Estimator) -> None:
    """There is a finite gradient, without a graph, for each weight of φ and of the estimator, and a scalar loss."""
    name, network = type(estimator).__name__, momentum()
    estimates = run(estimator, network)
    assert estimates, f"{name}.estimates gives no meta-gradient"
    for estimate in estimates:
        assert estimate.loss.shape == (), f"{name}: a meta-gradient's loss must be a scalar, not {estimate.loss.shape}"
        for what, grads, parameters in (
            ("grads", estimate.grads, network.trained_parameters()),
            ("own_grads", estimate.own_grads, list(estimator.parameters())),
        ):
            found, expected = ([list(each.shape) for each in some] for some in (grads, parameters))
            assert found == expected, f"{name}: {what} must have the shapes {expected}, not {found}"
            assert all(grad.isfinite().all() for grad in grads), f"{name}: {what} are not finite"
            assert not any(grad.requires_grad for grad in grads), f"{name}: {what} hold a graph: detach them"


def losses_of_every_step_once(estimator: Estimator) -> None:
    """The losses of all estimates together are those of the episode's steps, [steps, B]."""
    name = type(estimator).__name__
    for num_steps in (1, UNROLL_LENGTH, NUM_STEPS):
        estimates = run(estimator, momentum(), num_steps=num_steps)
        losses = torch.cat([torch.zeros(0, NUM_PROBLEMS), *(each.losses for each in estimates)])
        found, expected = list(losses.shape), [num_steps, NUM_PROBLEMS]
        assert found == expected, (
            f"{name}: the losses of an episode of {num_steps} steps of {NUM_PROBLEMS} problems must have the shape "
            f"{expected} together, not {found}"
        )


def as_many_whatever_the_values(estimator: Estimator) -> None:
    """The number of estimates depends on lengths alone: processes that average them would wait for each other."""
    counts = [len(run(estimator, momentum(rate), factor=factor)) for rate, factor in ((0.1, 1.0), (0.0, 1e3))]
    assert counts[0] == counts[1], (
        f"{type(estimator).__name__} gives {counts[0]} meta-gradients of one episode and {counts[1]} of another of "
        "the same length"
    )


def phi_is_left_alone(estimator: Estimator) -> None:
    """φ is what it was, whenever an estimate is given: the meta-learner alone steps it."""
    network = momentum()
    before = [weight.detach().clone() for weight in network.parameters()]
    for _ in copy.deepcopy(estimator).double().estimates(episode_of(network)):
        left = all(torch.equal(one, other) for one, other in zip(network.parameters(), before, strict=True))
        assert left, f"{type(estimator).__name__}.estimates changes φ"


def phi_of_the_moment(estimator: Estimator) -> None:
    """What follows an estimate is made with the φ that the meta-learner then has."""
    runs = []
    for change in (0.0, 0.05):
        network, losses = momentum(), []
        for estimate in copy.deepcopy(estimator).double().estimates(episode_of(network)):
            losses.append(estimate.losses)
            with torch.no_grad():
                for weight in network.trained_parameters():
                    weight.add_(change)
        runs.append(losses)
    name = type(estimator).__name__
    assert all(runs), f"{name}.estimates gives no meta-gradient"
    assert torch.equal(runs[0][0], runs[1][0]), f"{name}: a step of φ changes the losses before it"
    following = [torch.cat(run[1:]) if len(run) > 1 else run[0][:0] for run in runs]
    if len(following[0]):
        differ = not torch.equal(*following)
        assert differ, f"{name} goes on with the φ of the episode's beginning after φ has changed"


def equal_generators(estimator: Estimator) -> None:
    """The same episode with the same streams of randomness gives the same estimates, and no other is used."""
    state, runs = torch.get_rng_state(), []
    try:
        for seed in range(2):
            torch.manual_seed(seed)
            runs.append(run(estimator, momentum()))
    finally:
        torch.set_rng_state(state)
    assert same(*runs), (
        f"{type(estimator).__name__} gives other estimates of the same episode: draw from episode.generator only"
    )


def pickling(estimator: Estimator) -> None:
    """A pickled copy gives the same estimates."""
    name = type(estimator).__name__
    try:
        twin = pickle.loads(pickle.dumps(estimator))  # noqa: S301 its own
    except Exception as error:
        raise AssertionError(f"{name} cannot be pickled: {error}") from error
    assert same(run(estimator, momentum()), run(twin, momentum())), f"{name} is another once it is pickled and back"


def reloading(estimator: Estimator) -> None:
    """After an episode, ``state_dict`` holds all that the next depends on: parameters and buffers."""
    used, fresh = copy.deepcopy(estimator).double(), copy.deepcopy(estimator).double()
    list(used.estimates(episode_of(momentum())))
    fresh.load_state_dict(used.state_dict())
    one, other = (list(each.estimates(episode_of(momentum()))) for each in (used, fresh))
    assert same(one, other), (
        f"{type(estimator).__name__} gives other estimates once its state_dict is loaded into a new one: keep what "
        "lasts longer than an episode in buffers"
    )


def plain_arguments(estimator: Estimator) -> None:
    """The constructor's arguments are plain values, from which a checkpoint can make the estimator again."""
    odd = estimator.odd_argument()
    assert odd is None, (
        f"{type(estimator).__name__} was made from an argument that is no plain value "
        f"(number, string, list or dict), {odd}, so that no checkpoint could make it again"
    )
