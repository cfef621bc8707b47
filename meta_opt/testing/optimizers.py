"""What every learned optimizer has to fulfil, one check a function."""

from __future__ import annotations

import copy
import inspect
import pickle
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Generator, Tensor

from meta_opt import registry
from meta_opt.drop_in.parameter_states import ParameterStates, Place
from meta_opt.errors import MetaOptError
from meta_opt.inner_loop.unroll import begin, unroll
from meta_opt.optimizees.contract import Optimizee, Split, TensorDict
from meta_opt.optimizees.layout import Layout, kind_of
from meta_opt.optimizees.problems import Evaluation, Problems
from meta_opt.optimizers.contract import OptimizerNetwork
from meta_opt.optimizers.sharing import SharedNetworks
from meta_opt.optimizers.state import map_state, named_tensors

OptimizerCheck = Callable[[OptimizerNetwork], None]

_NUM_STEPS = 6


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
        states_of_parameters,
        noise_from_the_generator,
        functional_calls,
        segments_equal_the_whole,
        save_and_reload,
        gradient_reaches_every_weight,
        replay_is_backpropagation,
        replay_of_some_coordinates,
        state_follows_the_weights,
        recommended_settings,
        plain_arguments,
    )


def weights_from_the_generator(optimizer: OptimizerNetwork) -> None:
    """``build`` makes weights, from the generator alone."""
    name = type(optimizer).__name__
    state = torch.get_rng_state()
    try:
        weights = []
        for seed in range(2):
            torch.manual_seed(seed)
            weights.append(dict(_built(optimizer, noise=0.0).named_parameters()))
    finally:
        torch.set_rng_state(state)
    assert weights[0], f"{name}.build makes no weights"
    for key, value in weights[0].items():
        assert torch.equal(value, weights[1][key]), f"{name}.build makes another {key} from the same generator"


def update_shape(optimizer: OptimizerNetwork) -> None:
    """Updates are [B, N], like gradients."""
    optimizer = _built(optimizer)
    evaluation = _evaluations(3)[0]
    update, *_ = optimizer.step(evaluation, optimizer.init_state(_LAYOUT, 3))
    found = list(update.shape)
    assert update.shape == evaluation.grad.shape, (
        f"{type(optimizer).__name__}.step must return an update [B, N], {list(evaluation.grad.shape)}, not {found}"
    )


def pure_step(optimizer: OptimizerNetwork) -> None:
    """``step`` gives the same result at the same arguments, which it leaves unchanged."""
    optimizer = _built(optimizer)
    name = type(optimizer).__name__
    first, second = _evaluations(2)[:2]
    _, state, _ = optimizer.step(first, optimizer.init_state(_LAYOUT, 2))
    before = copy.deepcopy((_tensors(map_state(Tensor.detach, state)), second))
    update, *_ = optimizer.step(second, state)
    again, *_ = optimizer.step(second, state)
    for key, value in _tensors(state).items():
        assert torch.equal(value, before[0][key]), f"{name}.step changes {key} of the state in place: see rollout"
    for field in ("loss", "grad", "params"):
        same = torch.equal(getattr(second, field), getattr(before[1], field))
        assert same, f"{name}.step changes {field} of the evaluation in place"
    assert torch.equal(update, again), f"{name}.step gives another update when it is called again: keep no state in it"


def rollout_is_step_after_step(optimizer: OptimizerNetwork) -> None:
    """``rollout`` gives the updates of ``step``, and leaves the state that it begins at unchanged."""
    optimizer = _built(optimizer)
    name = type(optimizer).__name__
    first, *rest = _evaluations(2)
    with torch.no_grad():
        _, state, _ = optimizer.step(first, optimizer.init_state(_LAYOUT, 2))
        before = copy.deepcopy(_tensors(map_state(Tensor.detach, state)))
        rollout = optimizer.rollout(state)
        updates = [rollout.step(evaluation) for evaluation in rest]
        for key, value in _tensors(state).items():
            assert torch.equal(value, before[key]), f"{name}.rollout changes {key} of the state that it begins at"
        for update, evaluation in zip(updates, rest, strict=True):
            expected, state, _ = optimizer.step(evaluation, state)
            assert _close(update, expected), f"{name}.rollout gives other updates than step"
        for key, value in _tensors(rollout.state).items():
            assert _close(value, _tensors(state)[key]), f"{name}.rollout ends at another state than step"


def finite_updates(optimizer: OptimizerNetwork) -> None:
    """Updates are finite at gradients of zero, tiny and huge."""
    optimizer = _built(optimizer, dtype=torch.float32)
    name = type(optimizer).__name__
    state = optimizer.init_state(_LAYOUT, 1)
    for size in (0.0, 1e-30, 1e8, 1.0, 0.0):
        like = torch.full((1, _LAYOUT.num_coordinates), size)
        update, state, _ = optimizer.step(Evaluation(like.sum(1), like, torch.zeros_like(like)), state)
        assert update.isfinite().all(), f"{name}.step gives an update that is not finite at gradients of {size:g}"


def problems_side_by_side(optimizer: OptimizerNetwork) -> None:
    """Several problems at once get the updates that each gets alone."""
    optimizer = _built(optimizer)
    together = _updates(optimizer, _evaluations(3))
    for index in range(3):
        rows = slice(index, index + 1)
        alone = _updates(optimizer, [_rows(evaluation, rows) for evaluation in _evaluations(3)])
        assert _close(together[:, rows], alone), (
            f"{type(optimizer).__name__} gives a problem beside others another update than alone"
        )


def rest_without_gradient(optimizer: OptimizerNetwork) -> None:
    """Where it ``rests``, a coordinate whose gradients have all been zero is never moved."""
    optimizer = _built(optimizer)
    if not optimizer.rests:
        return
    name = type(optimizer).__name__
    still = torch.tensor([0, 5, _LAYOUT.num_coordinates - 1])
    evaluations = [
        replace(each, grad=each.grad.index_fill(1, still, 0.0)) if "grad" in vars(each) else each
        for each in _evaluations(2)
    ]
    moved = _updates(optimizer, evaluations)[..., still]
    assert not moved.any(), f"{name} rests, but moves a coordinate whose gradients have all been zero"


def permuted_coordinates(optimizer: OptimizerNetwork) -> None:
    """Permuting the coordinates of a tensor permutes its updates."""
    layout = Layout.of({"theta": torch.zeros(7)})
    optimizer = _built(optimizer, layout)
    order = torch.randperm(7, generator=_generator(3))
    evaluations = _evaluations(2, layout)
    permuted = [Evaluation(each.loss, each.grad[:, order], each.params[:, order]) for each in evaluations]
    plain, moved = (_updates(optimizer, each, layout) for each in (evaluations, permuted))
    assert _close(plain[..., order], moved), (
        f"{type(optimizer).__name__} gives other updates to the same coordinates in another order"
    )


def influence_within_the_scope(optimizer: OptimizerNetwork) -> None:
    """The gradient, or θ, of one coordinate changes no update beyond ``scope``; problems never influence each other."""
    optimizer = _built(optimizer)
    name, evaluations = type(optimizer).__name__, _evaluations(2)
    plain = _updates(optimizer, evaluations)
    start = sum(_LAYOUT.sizes[:-1])
    within = {"coordinate": slice(start, start + 1), "tensor": slice(start, None), "problem": slice(None)}
    for field in optimizer.reads & {"grad", "params"}:
        changed = copy.deepcopy(evaluations)
        for evaluation in changed:
            getattr(evaluation, field)[0, start] += 1.5
        moved = (_updates(optimizer, changed) - plain).abs().amax(0) > 1e-12  # [B, N]
        moved[0, within[optimizer.scope]] = False
        assert not moved[1].any(), f"{name}: the {field} of one problem changes the updates of another"
        assert not moved.any(), (
            f"{name}: the {field} of a coordinate changes updates beyond its {optimizer.scope}: the class must say "
            "how far, as its scope"
        )


def what_is_not_read_has_no_influence(optimizer: OptimizerNetwork) -> None:
    """``step`` works, and gives the same, where only what ``reads`` names is known."""
    optimizer = _built(optimizer)
    name, evaluations = type(optimizer).__name__, _evaluations(2)
    unknown = optimizer.reads - {"loss", "grad", "params"}
    assert not unknown, f"{name}.reads names {', '.join(sorted(unknown))}; there are loss, grad and params"
    try:
        found = _updates(optimizer, [each.only(optimizer.reads) for each in evaluations])
    except MetaOptError as error:
        raise AssertionError(f"{name}: {error}") from error
    same = torch.equal(found, _updates(optimizer, evaluations))
    assert same, f"{name}.step gives other updates where what it does not read is missing"


def states_of_parameters(optimizer: OptimizerNetwork) -> None:
    """In the drop-in, cutting the state into those of parameters and joining it again, or autocast, changes nothing."""
    optimizer = _built(optimizer, dtype=torch.float32).requires_grad_(False)
    plain = _drop_in(optimizer, cut=False)
    with torch.autocast("cpu", torch.bfloat16):
        under_autocast = _drop_in(optimizer, cut=False)
    name = type(optimizer).__name__
    assert torch.equal(under_autocast, plain), f"{name}: torch.autocast around a step of the drop-in changes it"
    assert torch.equal(_drop_in(optimizer, cut=True), plain), (
        f"{name}: a state that is cut into those of parameters and joined again gives other updates: see axis"
    )


def axes_of_the_state(optimizer: OptimizerNetwork) -> None:
    """Every tensor of the state says what its last axis goes through, and has the size that it says."""
    optimizer = _built(optimizer)
    name, num_problems = type(optimizer).__name__, 2
    _, state, _ = optimizer.step(_evaluations(num_problems)[0], optimizer.init_state(_LAYOUT, num_problems))
    for each in (optimizer.init_state(_LAYOUT, num_problems), state):
        for path, tensor, axis in named_tensors(each):
            assert axis is not None, (
                f"{name}: state.{path} does not say what its last axis goes through: make it a field of a dataclass, "
                f'{path}: Tensor = axis("coordinate")'
            )
            if axis == "problem":
                continue
            size = {"coordinate": _LAYOUT.num_coordinates, "tensor": len(_LAYOUT.names)}[axis]
            fits = tensor.dim() > 0 and (tensor.shape[-1] in (size, num_problems * size) or "." in path)
            assert fits, (
                f"{name}: the last axis of state.{path} goes through each {axis}, {size} of them, but its shape is "
                f"{list(tensor.shape)}"
            )


def noise_from_the_generator(optimizer: OptimizerNetwork) -> None:
    """Equal generators give equal steps; without one there is no randomness."""
    optimizer, evaluation = _built(optimizer), _evaluations(2)[0]
    name, state, before = type(optimizer).__name__, optimizer.init_state(_LAYOUT, 2), torch.get_rng_state()
    for noise in (lambda: None, lambda: _generator(7)):
        one, other = (optimizer.step(evaluation, state, noise()).update for _ in range(2))
        assert torch.equal(one, other), f"{name}.step gives another update with an equal source of noise"
    untouched = torch.equal(torch.get_rng_state(), before)
    assert untouched, f"{name}.step draws from PyTorch's global generator: draw from noise"


def functional_calls(optimizer: OptimizerNetwork) -> None:
    """``torch.func.functional_call`` steps with other weights, and ``vmap`` with several at once."""
    one, two = (_built(optimizer, seed=seed) for seed in (0, 5))
    name, evaluation = type(optimizer).__name__, _evaluations(2)[0]
    state = one.init_state(_LAYOUT, 2)

    def update(phi: TensorDict) -> Tensor:
        return torch.func.functional_call(one, phi, (evaluation, state)).update

    weights = [{key: weight.detach() for key, weight in each.named_parameters()} for each in (one, two)]
    with torch.enable_grad():
        expected = [each.step(evaluation, state).update.detach() for each in (one, two)]
        called = [update(phi).detach() for phi in weights]
        stacked = {key: torch.stack([phi[key] for phi in weights]) for key in weights[0]}
        mapped = torch.vmap(update)(stacked).detach()
    assert _close(torch.stack(called), torch.stack(expected)), f"{name}: functional_call does not use the weights given"
    assert _close(mapped, torch.stack(expected)), f"{name}: vmap over φ gives other updates than one φ after the other"


def segments_equal_the_whole(optimizer: OptimizerNetwork) -> None:
    """An episode in two unrolls is the same as in one: all that is remembered is in the state."""
    losses = []
    for lengths in ((_NUM_STEPS,), (2, _NUM_STEPS - 2)):
        built, problems = _built(optimizer), _problems(2)
        position = begin(problems, built)
        parts = []
        for length in lengths:
            parts.append(unroll(problems, built, position, length))
            position = parts[-1].end.detach()
        losses.append(torch.cat([part.losses for part in parts]))
    assert _close(*losses), f"{type(optimizer).__name__} optimizes otherwise when an episode is cut into unrolls"


def save_and_reload(optimizer: OptimizerNetwork) -> None:
    """Other weights, loaded from the ``state_dict`` or pickled, give the same updates."""
    one, two = _built(optimizer), _built(optimizer, seed=5)
    name, evaluations = type(optimizer).__name__, _evaluations(2)
    two.load_state_dict(one.state_dict())
    expected = _updates(one, evaluations)
    assert torch.equal(_updates(two, evaluations), expected), f"{name} has weights that its state_dict does not hold"
    twin = pickle.loads(pickle.dumps(one))  # noqa: S301 its own
    assert torch.equal(_updates(twin, evaluations), expected), f"{name} gives other updates once it is pickled and back"


def gradient_reaches_every_weight(optimizer: OptimizerNetwork) -> None:
    """Every weight has a part in the updates."""
    optimizer = _built(optimizer)
    grads = _replay(optimizer, OptimizerNetwork.replay)
    parameters = {id(parameter): key for key, parameter in optimizer.named_parameters()}
    idle = [
        parameters[id(parameter)]
        for parameter, grad in zip(optimizer.trained_parameters(), grads, strict=True)
        if not grad.any()
    ]
    assert not idle, f"{type(optimizer).__name__}: no gradient reaches {', '.join(idle)}"


def replay_is_backpropagation(optimizer: OptimizerNetwork) -> None:
    """An own ``replay`` gives the gradients of the one that all learned optimizers have."""
    optimizer = _built(optimizer)
    name = type(optimizer).__name__
    own, plain = (_replay(optimizer, replay) for replay in (type(optimizer).replay, OptimizerNetwork.replay))
    for key, one, other in zip(dict(optimizer.named_parameters()), own, plain, strict=False):
        assert _close(one, other), f"{name}.replay gives another gradient of {key} than backpropagation"


def replay_of_some_coordinates(optimizer: OptimizerNetwork) -> None:
    """``replay`` of some columns is that of all with coefficients of zero elsewhere, or a ``MetaOptError``."""
    optimizer = _built(optimizer)
    problems = _problems(2)
    trajectory = unroll(problems, optimizer, begin(problems, optimizer, grads=True), _NUM_STEPS, grads=True)
    recorded = trajectory.evaluations[:-1], trajectory.start.state
    columns = torch.tensor([0, 3, _LAYOUT.num_coordinates - 1])
    some = [evaluation.grad[:, columns] for evaluation in _evaluations(2)]
    zeros = torch.zeros(2, _LAYOUT.num_coordinates, dtype=torch.float64)
    name = type(optimizer).__name__
    assert "columns" in inspect.signature(optimizer.replay).parameters, f"{name}.replay must take columns"
    try:
        found = optimizer.replay(*recorded, some, columns)
    except MetaOptError:
        return
    expected = OptimizerNetwork.replay(optimizer, *recorded, [zeros.index_copy(1, columns, part) for part in some])
    for key, one, other in zip(dict(optimizer.named_parameters()), found, expected, strict=False):
        assert _close(one, other), f"{name}.replay of some columns gives another gradient of {key} than they have"


def state_follows_the_weights(optimizer: OptimizerNetwork) -> None:
    """``init_state`` makes tensors of the type, and on the device, of the weights."""
    name = type(optimizer).__name__
    built = _built(optimizer)
    for place in (torch.float32, torch.device("meta")):
        built = built.to(place)
        weight = next(built.parameters())
        for key, value in _tensors(built.init_state(_LAYOUT, 2)).items():
            if value.is_floating_point():
                fits = value.dtype == weight.dtype and value.device == weight.device
                assert fits, (
                    f"{name}.init_state makes {key} in {value.dtype} on {value.device}, but the weights are in "
                    f"{weight.dtype} on {weight.device}"
                )


def recommended_settings(optimizer: OptimizerNetwork) -> None:
    """What is recommended are options of meta-training that there are."""
    from meta_opt.meta_training.meta_learner import MetaLearner  # which takes seconds

    name, parameters = type(optimizer).__name__, inspect.signature(MetaLearner.__init__).parameters
    for option in optimizer.recommended_settings():
        part, _, argument = option.partition(".")
        known = part == "model" and argument in parameters
        assert known, f"{name} recommends a setting {option}, but there is no such option"


def plain_arguments(optimizer: OptimizerNetwork) -> None:
    """The constructor's arguments are plain values, from which a checkpoint can make the optimizer again."""
    name = type(optimizer).__name__
    plain = optimizer.plain_init_args(registry.name_of)
    assert plain is not None, (
        f"{name} was made from an argument that is no plain value (number, string, list or dict), so that no "
        "checkpoint could make it again"
    )


class _Valleys(Optimizee):
    """Random valleys whose parameters are tensors of all kinds, in two groups."""

    def init_params(self, generator: Generator) -> TensorDict:
        sizes = {"filters": (2, 1, 2, 2), "matrix": (2, 3), "vector": (3,)}
        return {name: torch.randn(size, generator=generator) for name, size in sizes.items()}

    def sample_problem(self, split: Split, generator: Generator) -> TensorDict:
        return {"steepness": torch.rand(2, generator=generator) + 0.5}

    def sample_batch(self, split: Split, generator: Generator) -> TensorDict:
        return {"noise": 0.1 * torch.randn((), generator=generator)}

    def loss(self, params: TensorDict, problem: TensorDict, batch: TensorDict) -> Tensor:
        first, second = problem["steepness"]
        squares = {name: (value - batch["noise"]).square().sum() for name, value in params.items()}
        return first * squares["filters"] + second * (squares["matrix"] + squares["vector"]).cosh().log()

    def groups(self) -> dict[str, str]:
        return {"filters": "conv", "matrix": "fc", "vector": "fc"}


def _problems(num_problems: int) -> Problems:
    return Problems(_Valleys(), "train", range(num_problems), seed=0, dtype=torch.float64)


_LAYOUT = _problems(1).layout


def _generator(seed: int) -> Generator:
    return Generator().manual_seed(seed)


def _built(
    optimizer: OptimizerNetwork,
    layout: Layout = _LAYOUT,
    *,
    seed: int = 0,
    noise: float = 0.03,
    dtype: torch.dtype = torch.float64,
) -> OptimizerNetwork:
    """A copy with weights; noise is added to them, as some may be zero at first."""
    assert not any(True for _ in optimizer.parameters()), "check_optimizer wants a learned optimizer before its build"
    optimizer = copy.deepcopy(optimizer)
    optimizer.build(layout, _generator(seed))
    generator = _generator(seed + 1)
    with torch.no_grad():
        for parameter in optimizer.parameters():
            parameter.add_(noise * torch.randn(parameter.shape, generator=generator))
    return optimizer.to(dtype)


def _evaluations(num_problems: int, layout: Layout = _LAYOUT) -> list[Evaluation]:
    generator = _generator(2)

    def draw(*size: int) -> Tensor:
        return torch.randn(size, generator=generator, dtype=torch.float64)

    shape = (num_problems, layout.num_coordinates)
    return [Evaluation(draw(num_problems).exp(), draw(*shape), draw(*shape)) for _ in range(_NUM_STEPS)]


def _rows(evaluation: Evaluation, rows: slice) -> Evaluation:
    return Evaluation(evaluation.loss[rows], evaluation.grad[rows], evaluation.params[rows])


def _updates(optimizer: OptimizerNetwork, evaluations: list[Evaluation], layout: Layout = _LAYOUT) -> Tensor:
    """The updates at a given sequence of evaluations, [T, B, N]."""
    state = optimizer.init_state(layout, len(next(iter(vars(evaluations[0]).values()))))
    updates = []
    with torch.no_grad():
        for evaluation in evaluations:
            update, state, _ = optimizer.step(evaluation, state)
            updates.append(update)
    return torch.stack(updates)


def _drop_in(optimizer: OptimizerNetwork, *, cut: bool) -> Tensor:
    """The updates of three parameters as the drop-in makes them, [T, N]; with ``cut``, one by one between steps."""
    names = optimizer.network_names(_LAYOUT) if isinstance(optimizer, SharedNetworks) else ["all"]
    params = [torch.zeros(shape) for shape in _LAYOUT.shapes]
    places = {
        param: Place.of(param, kind_of(param.shape) if set(names) <= {"matrix", "vector"} else names[0])
        for param in params
    }
    states, updates = ParameterStates(optimizer), []
    for evaluation in _evaluations(1):
        for param, grad in zip(params, _LAYOUT.unflatten(evaluation.grad[0]).values(), strict=True):
            param.grad = grad.float()
        parts = {
            id(param): part
            for bucket in states.buckets(places)
            for param, part in zip(bucket.params, bucket.step(evaluation.loss[0]), strict=True)
        }
        updates.append(torch.cat([parts[id(param)].flatten() for param in params]).clone())
        if cut:
            states.one_by_one()
    return torch.stack(updates)


def _replay(optimizer: OptimizerNetwork, replay: Callable[..., tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
    problems = _problems(2)
    trajectory = unroll(problems, optimizer, begin(problems, optimizer, grads=True), _NUM_STEPS, grads=True)
    evaluations = trajectory.evaluations[:-1]
    coefficients = [evaluation.grad for evaluation in _evaluations(2)]
    return replay(optimizer, evaluations, trajectory.start.state, coefficients)


def _close(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and bool((one - other).norm() <= 1e-8 * other.norm() + 1e-12)


def _tensors(state: Any, path: str = "state") -> dict[str, Tensor]:
    """The tensors of a state by their names."""
    return {f"{path}.{named.name}": named.tensor for named in named_tensors(state)}
