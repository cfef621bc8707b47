"""What every optimizee has to fulfil, one check a function. A family is checked through one of its variants."""

from __future__ import annotations

import copy
import inspect
import pickle
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Generator, Tensor

from meta_opt import registry
from meta_opt.errors import OptimizeeError
from meta_opt.optimizees.checking import check_loss
from meta_opt.optimizees.contract import SPLITS, Optimizee, Split, TensorDict
from meta_opt.optimizees.draws import check_named
from meta_opt.optimizees.held_back import check_held_back
from meta_opt.optimizees.problems import Problems
from meta_opt.optimizees.watching import NO_STATE, changed_since, written

OptimizeeCheck = Callable[[Optimizee], None]

_LEARNING_RATES = (0.001, 0.01, 0.1)
_NUM_STEPS = 20
_NUM_BATCHES = 20
_DRAWN = ("init_params", "sample_problem", "sample_batch")  # methods


def check_optimizee(optimizee: Optimizee) -> None:
    """Run every check.

    Args:
        optimizee: What to check; it is left as it is.

    Raises:
        AssertionError: If the optimizee breaks its contract; the message says how.
    """
    for check in optimizee_checks():
        check(optimizee)


def optimizee_checks() -> tuple[OptimizeeCheck, ...]:
    """All checks, for ``pytest.mark.parametrize``, which calls each by its name."""
    return (
        shapes,
        finite_loss_and_gradient,
        randomness_from_the_generator,
        pure_loss,
        problems_side_by_side,
        separate_splits,
        held_back_batches,
        device_moves,
        pickling,
        groups_of_all_parameters,
        adam_lowers_the_loss,
        recommended_settings,
        plain_arguments,
    )


def shapes(optimizee: Optimizee) -> None:
    """Draws are named tensors, of the same shapes every time; losses and metrics are scalars."""
    optimizee, name = _variant(optimizee)
    try:
        for method, found in zip(_DRAWN, _drawn(optimizee, 0, "train"), strict=True):
            check_named(name, method, found, "tensors")
    except OptimizeeError as error:
        raise AssertionError(str(error)) from error
    first, second = ([*_draw(optimizee, seed)] for seed in range(2))
    for method, one, other in zip(_DRAWN, first, second, strict=True):
        assert one.keys() == other.keys(), f"{name}.{method} returns {list(one)} once and {list(other)} another time"
        for key, value in one.items():
            assert value.shape == other[key].shape, (
                f"{name}.{method} returns {key!r} with shape {list(value.shape)} once and {list(other[key].shape)} "
                "another time; if problems differ in shape, make a family (OptimizeeFamily)"
            )
    for split in SPLITS:
        arguments = _draw(optimizee, 0, split)
        for what, value in {"loss": optimizee.loss(*arguments), **optimizee.metrics(*arguments)}.items():
            scalar = isinstance(value, Tensor) and value.shape == ()
            assert scalar, f"{name}: {what} must be a scalar tensor (shape []) on the {split} split, found {value!r}"


def finite_loss_and_gradient(optimizee: Optimizee) -> None:
    """Loss and gradient are finite at θ_0, the gradient is not zero."""
    optimizee, name = _variant(optimizee)
    try:
        check_loss(optimizee, _generator(0))
    except OptimizeeError as error:
        raise AssertionError(str(error)) from error
    for split in SPLITS:
        evaluation = Problems(optimizee, split, [0], seed=0).evaluate(_problems(optimizee).initial_params[:1])
        finite = bool(evaluation.loss.isfinite().all() and evaluation.grad.isfinite().all())
        assert finite, f"{name}.loss or its gradient is not finite at θ_0 on the {split} split"
        assert evaluation.grad.any(), (
            f"{name}.loss has a gradient of zero at θ_0 on the {split} split: nothing can move"
        )


def randomness_from_the_generator(optimizee: Optimizee) -> None:
    """The same generator gives the same draws, and no other source of randomness is used."""
    optimizee, name = _variant(optimizee)
    states = torch.get_rng_state(), np.random.get_state(), random.getstate()
    try:
        draws = []
        for seed in range(2):
            torch.manual_seed(seed)
            np.random.seed(seed)
            random.seed(seed)
            before = torch.get_rng_state()
            draws.append(_draw(optimizee, 0))
            untouched = torch.equal(torch.get_rng_state(), before)
            assert untouched, f"{name} draws from PyTorch's global generator: draw from the one that is handed in"
    finally:
        torch.set_rng_state(states[0])
        np.random.set_state(states[1])
        random.setstate(states[2])
    for method, one, other in zip(_DRAWN, *draws, strict=True):
        assert _same(one, other), f"{name}.{method} gives another result with the same generator"


def pure_loss(optimizee: Optimizee) -> None:
    """Loss and metrics are the same at the same arguments, which they leave unchanged, as they do what is kept."""
    optimizee, name = _variant(optimizee)
    arguments = _draw(optimizee, 0)
    own = written(optimizee)
    untouched = copy.deepcopy(arguments)
    for what in (optimizee.loss, optimizee.metrics):
        results = []
        for _ in range(2):
            results.append(copy.deepcopy(what(*arguments)))
            for argument, one, other in zip(("params", "problem", "batch"), arguments, untouched, strict=True):
                assert _same(one, other), f"{name}.{what.__name__} changes its argument {argument} in place"
        first, second = ({"": result} if isinstance(result, Tensor) else result for result in results)
        assert _same(first, second), f"{name}.{what.__name__} gives another result when it is called again"
        changed = changed_since(optimizee, own)
        assert changed is None, f"{name}.{what.__name__} changes {changed} in place: {NO_STATE}"


def problems_side_by_side(optimizee: Optimizee) -> None:
    """Several problems at once have the losses and gradients that each has alone."""
    optimizee, name = _variant(optimizee)
    try:
        together = _problems(optimizee)
        evaluation = together.evaluate(together.initial_params)
    except Exception as error:
        raise AssertionError(
            f"{name} cannot evaluate several problems at once ({type(error).__name__}: {_first_line(error)}): no "
            ".item() and no branch on a tensor's value; vmappable = False where torch.vmap lacks a rule"
        ) from error
    for index in range(len(together)):
        problem = Problems(optimizee, "train", [index], seed=0)
        alone = problem.evaluate(problem.initial_params)
        loss, expected = evaluation.loss[index].item(), alone.loss.item()
        close = abs(loss - expected) <= 1e-4 * abs(expected) + 1e-6
        assert close, f"{name}.loss is {expected} for a problem alone, but {loss} beside others"
        grad = evaluation.grad[index]
        close = bool((grad - alone.grad[0]).norm() <= 1e-2 * alone.grad.norm() + 1e-6)
        assert close, f"{name}.loss has another gradient for a problem alone than beside others"


def separate_splits(optimizee: Optimizee) -> None:
    """Mini-batches of different splits have no examples in common, as far as they hold examples."""
    optimizee, name = _variant(optimizee)
    rows = {split: _examples(optimizee, split, 0) for split in SPLITS}
    again = {split: _examples(optimizee, split, _NUM_BATCHES) for split in SPLITS}  # as often as within one split
    for one, other in (("train", "validation"), ("train", "test"), ("validation", "test")):
        shared = len(rows[one] & rows[other])  # type: ignore[index]
        within = min(len(rows[split] & again[split]) for split in (one, other))  # type: ignore[index]
        # A few may be twice in a data set.
        assert shared <= 0.02 * within, (
            f"{name}.sample_batch draws {shared} of the same examples for the splits {one} and {other}: what is "
            "tested on must not be trained on"
        )


def held_back_batches(optimizee: Optimizee) -> None:
    """Held-back batches, if there are any, are alike on every split, and what counts on them is a finite scalar."""
    optimizee, _ = _variant(optimizee)
    if not any(optimizee.sample_held_back(split, _generator(0)) for split in SPLITS):
        return
    try:
        check_held_back(optimizee, _generator(0))
    except OptimizeeError as error:
        raise AssertionError(str(error)) from error


def device_moves(optimizee: Optimizee) -> None:
    """``to`` returns the object, and moves all that losses are made of."""
    name = type(optimizee).__name__
    device = torch.device("cuda" if torch.cuda.is_available() else "meta")  # meta tensors have shapes and no content
    moved = copy.deepcopy(optimizee)
    assert moved.to(device) is moved, f"{name}.to must return the object itself"
    moved = moved.variant(_generator(0))
    drawn = [{key: value.to(device) for key, value in tensors.items()} for tensors in _draw(moved, 0)]
    try:
        loss = moved.loss(*drawn)
    except (RuntimeError, NotImplementedError) as error:
        raise AssertionError(f"{name}.loss does not work on another device, {device}: {_first_line(error)}") from error
    assert loss.device.type == device.type, f"{name}.loss is on the device {loss.device}, not {device}"


def pickling(optimizee: Optimizee) -> None:
    """A pickled copy is the same optimizee, for processes that train together."""
    name = type(optimizee).__name__
    try:
        twin = pickle.loads(pickle.dumps(optimizee))  # noqa: S301 its own
    except Exception as error:
        raise AssertionError(
            f"{name} cannot be pickled ({_first_line(error)}): keep no lambda, but functools.partial of a function"
        ) from error
    losses = []
    for each in (optimizee, twin):
        variant = each.variant(_generator(0))
        losses.append(variant.loss(*_draw(variant, 0)).item())
    assert losses[0] == losses[1], f"{name} has the loss {losses[0]}, but {losses[1]} once it is pickled and back"


def groups_of_all_parameters(optimizee: Optimizee) -> None:
    """``groups`` names every parameter, or none."""
    optimizee, name = _variant(optimizee)
    groups, params = optimizee.groups(), _draw(optimizee, 0)[0]
    unknown, missing = sorted(set(groups) - set(params)), sorted(set(params) - set(groups))
    assert not unknown, f"{name}.groups names {', '.join(unknown)}, but the parameters are {', '.join(params)}"
    assert not (groups and missing), f"{name}.groups leaves out {', '.join(missing)}"


def adam_lowers_the_loss(optimizee: Optimizee) -> None:
    """A few steps of Adam, with a suitable learning rate, lower the loss."""
    optimizee, name = _variant(optimizee)
    start, best = 0.0, float("inf")
    for lr in _LEARNING_RATES:
        problems = _problems(optimizee)
        params = problems.initial_params.clone()
        adam = torch.optim.Adam([params], lr=lr)
        same, losses, at_start = _problems(optimizee), [], []  # the same mini-batches, once more at θ_0
        for _ in range(_NUM_STEPS):
            evaluation = problems.evaluate(params)
            losses.append(evaluation.loss.mean().item())
            at_start.append(same.evaluate(same.initial_params, grad=False).loss.mean().item())
            params.grad = evaluation.grad
            adam.step()
        start, best = sum(at_start[-5:]) / 5, min(best, sum(losses[-5:]) / 5)
    assert best < start, (
        f"{name}: {_NUM_STEPS} steps of Adam with learning rates {_LEARNING_RATES} leave the loss at {best:.4g}, from "
        f"{start:.4g} at θ_0"
    )


def recommended_settings(optimizee: Optimizee) -> None:
    """What is recommended are options that there are, for learned optimizers that are installed."""
    from meta_opt.meta_training.meta_learner import MetaLearner  # which takes seconds
    from meta_opt.meta_training.recommended import DEFAULT_OPTIMIZER, argument_names

    name, parameters = type(optimizee).__name__, inspect.signature(MetaLearner.__init__).parameters
    for option in optimizee.recommended_settings():
        optimizer, _, setting = option.rpartition(":")
        part, _, argument = setting.partition(".")
        assert not optimizer or optimizer in registry.names("optimizer"), (
            f"{name} recommends a setting {option}, but no optimizer is called {optimizer!r}; there are "
            f"{', '.join(registry.names('optimizer'))}"
        )
        known = part in ("optimizer", "trainer", "early_stopping") or argument.startswith("estimator.")
        known = known or (part == "model" and argument in parameters)
        if part == "optimizer":
            known = argument in argument_names(registry.load("optimizer", optimizer or DEFAULT_OPTIMIZER))
        assert known, f"{name} recommends a setting {option}, but there is no such option"


def plain_arguments(optimizee: Optimizee) -> None:
    """The constructor's arguments are plain values, from which a checkpoint can make the optimizee again."""
    odd = optimizee.odd_argument()
    assert odd is None, (
        f"{type(optimizee).__name__} was made from an argument that is no plain value "
        f"(number, string, list, dict or optimizee), {odd}, so that no checkpoint could make it again"
    )


def _variant(optimizee: Optimizee) -> tuple[Optimizee, str]:
    variant = optimizee.variant(_generator(0))
    name = type(variant).__name__
    return variant, name if variant is optimizee else f"{type(optimizee).__name__}, variant {name}"


def _generator(seed: int) -> Generator:
    return Generator().manual_seed(seed)


def _draw(optimizee: Optimizee, seed: int, split: Split = "train") -> tuple[TensorDict, TensorDict, TensorDict]:
    """θ_0, problem and mini-batch, as problems are evaluated: without what they were made by, in one type."""
    dtype = torch.get_default_dtype()
    first, second, third = (
        {key: value.detach().to(dtype if value.is_floating_point() else None) for key, value in part.items()}
        for part in _drawn(optimizee, seed, split)
    )
    return first, second, third


def _drawn(optimizee: Optimizee, seed: int, split: Split) -> tuple[TensorDict, TensorDict, TensorDict]:
    """What the methods of ``_DRAWN`` return."""
    generator = _generator(seed)
    params = optimizee.init_params(generator)
    return params, optimizee.sample_problem(split, generator), optimizee.sample_batch(split, generator)


def _problems(optimizee: Optimizee) -> Problems:
    return Problems(optimizee, "train", range(3), seed=0)


def _same(one: TensorDict, other: TensorDict) -> bool:
    equal = (
        value.shape == other[key].shape and torch.allclose(value, other[key], rtol=0.0, atol=0.0, equal_nan=True)
        for key, value in one.items()
        if key in other
    )
    return one.keys() == other.keys() and all(equal)


def _examples(optimizee: Optimizee, split: Split, first: int) -> set[bytes]:
    """The examples in some mini-batches: the rows of their largest floating-point tensor of two dimensions or more."""
    rows: set[bytes] = set()
    for seed in range(first, first + _NUM_BATCHES):
        # Another stream for each split: what is drawn afresh is different then.
        batch = optimizee.sample_batch(split, _generator(10 * seed + SPLITS.index(split)))
        tensors = [value for value in batch.values() if value.is_floating_point() and value.dim() > 1]
        if tensors:
            rows |= {row.cpu().numpy().tobytes() for row in max(tensors, key=Tensor.numel)}
    return rows


def _first_line(error: Any) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)
