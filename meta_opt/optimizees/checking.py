"""Whether an optimizee keeps its contract, tried on a few problems before anything is written.

What would end training in the middle, or make it silently wrong, is found here and said in one line: the method, what
it must return, and what it returned. ``meta_opt.testing`` has checks that take longer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Generator, Tensor

from meta_opt.errors import OptimizeeError
from meta_opt.messages import clipped
from meta_opt.optimizees.contract import Optimizee, OptimizeeFamily, Split, TensorDict
from meta_opt.optimizees.draws import Draw, check_alike, check_named, draw_problem, type_name
from meta_opt.optimizees.watching import Watched, same
from meta_opt.signatures import signature_problem

_NUM_DRAWS = 4  # problems, which must be alike in shape
_NUM_VARIANTS = 3  # of a family, and those of other classes among so many draws
_MOST_DRAWS = 20
TIMES = "times_adam"  # also logged: how good the learned optimizer is in validation
LOGGED = ("final_loss", "loss_sum", "objective", "not_finite")  # of curves, beside the metrics of an optimizee


def check_loss(optimizee: Optimizee, generator: Generator) -> None:
    """Draw a few problems, evaluate them at θ_0, and say what is wrong with the optimizee, if anything is.

    Global random states are left as they are.

    Args:
        optimizee: The optimizee; its data may be on any device.
        generator: Draws the problems.

    Raises:
        OptimizeeError: If a method has a wrong signature, fails, returns what it must not, changes its arguments, or
            takes randomness from elsewhere than its generator; or if the loss is not a scalar, finite and
            differentiable, or cannot be evaluated under ``torch.vmap``.
    """
    with torch.inference_mode(False), torch.enable_grad():  # whatever the caller is in
        _check(optimizee, generator)


def _check(optimizee: Optimizee, generator: Generator) -> None:
    seeds = torch.randint(2**62, (_NUM_DRAWS,), generator=generator).tolist()
    _check_class(optimizee)
    variants = variants_of(optimizee, generator)
    device = _device_of(variants[0])
    moved = Watched(optimizee).call("to", device)
    if moved is not optimizee:
        raise OptimizeeError(f"{_name(optimizee)}.to must return the object itself, found {type_name(moved)}")
    for variant in variants:
        _check_variant(Watched(variant), seeds, device)


def _check_class(optimizee: Optimizee) -> None:
    if problem := signature_problem(type(optimizee), Optimizee):
        raise OptimizeeError(problem)
    if not isinstance(optimizee.vmappable, bool):
        raise OptimizeeError(f"{_name(optimizee)}.vmappable must be True or False, not {clipped(optimizee.vmappable)}")


def variants_of(optimizee: Optimizee, generator: Generator) -> list[Optimizee]:
    """The optimizee itself or, of a family, some of its variants: of each class that is drawn one at least.

    Raises:
        OptimizeeError: If one of them cannot be drawn, or is no optimizee that has a loss.
    """
    watched, name = Watched(optimizee), _name(optimizee)
    variants: list[Optimizee] = []
    seeds = torch.randint(2**62, (_MOST_DRAWS,), generator=generator).tolist()
    for seed in seeds if isinstance(optimizee, OptimizeeFamily) else seeds[:1]:
        variant, again = (watched.call("variant", Generator().manual_seed(seed)) for _ in range(2))
        if not isinstance(variant, Optimizee) or isinstance(variant, OptimizeeFamily):
            found = f"the family {_name(variant)}" if isinstance(variant, Optimizee) else type_name(variant)
            raise OptimizeeError(f"{name}.variant must return an Optimizee that has a loss, found {found}")
        if type(variant) is not type(again):
            raise OptimizeeError(f"{name}.variant gives another optimizee with the same generator")
        seen = any(variant is other for other in variants)
        if not seen and (len(variants) < _NUM_VARIANTS or type(variant) not in map(type, variants)):
            _check_class(variant)
            variants.append(variant)
    return variants


def _check_variant(watched: Watched, seeds: Sequence[int], device: torch.device) -> None:
    draws = [draw_problem(watched, "train", seed) for seed in seeds]
    again = draw_problem(watched, "train", seeds[0])
    for field in ("init_params", "sample_problem", "sample_batch", "next_batch"):
        method = field.replace("next", "sample")
        for draw in draws[1:]:
            check_alike(watched.name, method, getattr(draws[0], field), getattr(draw, field))
        if not same(getattr(draws[0], field), getattr(again, field)):
            raise OptimizeeError(
                f"{watched.name}.{method} gives another result with the same generator: "
                "take all randomness from the generator that is handed in"
            )
        check_alike(watched.name, "sample_batch", draws[0].sample_batch, draws[0].next_batch)
    _check_groups(watched, draws[0].init_params)
    first, second = (_at(draw, device) for draw in draws[:2])
    loss = _check_one(watched, first)
    _check_metrics(watched, first, second)
    if watched.optimizee.vmappable:
        _check_vmap(watched, first, second, loss)
    for split in ("validation", "test"):
        _check_split(watched, split, seeds[:2], draws[0], device)


def _check_split(watched: Watched, split: Split, seeds: Sequence[int], train: Draw, device: torch.device) -> None:
    """Problems of this split are alike, and the loss works on them too."""
    draws = [draw_problem(watched, split, seed) for seed in seeds]
    for method in ("init_params", "sample_problem", "sample_batch"):
        check_alike(watched.name, method, getattr(draws[0], method), getattr(draws[1], method))
    check_alike(watched.name, "sample_batch", draws[0].sample_batch, draws[0].next_batch)
    check_alike(watched.name, "init_params", train.init_params, draws[0].init_params)
    _check_one(watched, _at(draws[0], device), f" on the {split} split")


# ------------------------------------------------------------------------------------------------------------- losses

_Arguments = tuple[TensorDict, TensorDict, TensorDict]  # params, problem, batch


def _at(draw: Draw, device: torch.device) -> _Arguments:
    """On this device and of the type that problems are evaluated in."""
    dtype = torch.get_default_dtype()

    def moved(tensors: TensorDict) -> TensorDict:
        return {key: value.to(device, dtype if value.is_floating_point() else None) for key, value in tensors.items()}

    return moved(draw.init_params), moved(draw.sample_problem), moved(draw.sample_batch)


def _check_one(watched: Watched, arguments: _Arguments, where: str = "") -> Tensor:
    """The loss of one problem."""
    params, problem, batch = arguments
    name = watched.name
    leaves = {key: value.clone().requires_grad_() for key, value in params.items()}
    with torch.enable_grad():
        # Copies of the leaves: changes in place, which autograd forbids of leaves, are noticed by what they change.
        loss = watched.call("loss", {key: value.clone() for key, value in leaves.items()}, problem, batch)
    if not isinstance(loss, Tensor) or loss.dim() != 0:
        found = f"shape {list(loss.shape)}" if isinstance(loss, Tensor) else type_name(loss)
        raise OptimizeeError(f"{name}.loss must return a scalar tensor (shape []), found {found}{where}")
    if loss.is_complex():
        raise OptimizeeError(f"{name}.loss must return a real number, found {loss.dtype}{where}")
    if not torch.isfinite(loss):
        raise OptimizeeError(f"{name}.loss is not finite at θ_0: {loss.item()}{where}")
    if not loss.requires_grad:
        raise OptimizeeError(f"{name}.loss is not differentiable: it does not depend on params through autograd")
    with watched.watching("loss", "cannot be differentiated:"):
        grads = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True)
    if all(grad is None for grad in grads):
        raise OptimizeeError(f"{name}.loss is not differentiable: it does not depend on params through autograd")
    for key, grad in zip(leaves, grads, strict=True):
        if grad is not None and not torch.isfinite(grad).all():
            raise OptimizeeError(
                f"{name}.loss has a gradient that is not finite at θ_0, in parameter {clipped(key)!r}{where}"
            )
    again = watched.call("loss", {key: value.clone() for key, value in leaves.items()}, problem, batch)
    alike = isinstance(again, Tensor) and again.shape == loss.shape
    if not (alike and torch.allclose(loss, again, rtol=1e-5, equal_nan=True)):
        before, after = (f"{value.item():.6g}" if alike else type_name(value) for value in (loss, again))
        raise OptimizeeError(
            f"{name}.loss gives another result when it is called again with the same arguments, {after} after "
            f"{before}: it must keep no state, and take no randomness"
        )
    return loss.detach()


def _check_vmap(watched: Watched, first: _Arguments, second: _Arguments, loss: Tensor) -> None:
    """Both problems at once."""
    params, problem, batch = (
        {key: torch.stack([value, two[key]]) for key, value in one.items()}
        for one, two in zip(first, second, strict=True)
    )
    advice = "no .item(), no bool(), no branch on a tensor's value; or set vmappable = False in the class"
    several = f"works for one problem, but not for several at once under torch.vmap ({advice}):"
    with torch.enable_grad(), watched.watching("loss", several):
        for value in params.values():
            value.requires_grad_()
        both = torch.vmap(watched.optimizee.loss)(params, problem, batch)
        torch.autograd.grad(both.sum(), list(params.values()), allow_unused=True)
    if not torch.allclose(both[0].detach(), loss, rtol=1e-3, atol=1e-5):
        raise OptimizeeError(
            f"{watched.name}.loss is {loss.item():.6g} for a problem alone, but {both[0].item():.6g} beside others, "
            f"under torch.vmap: {advice}"
        )


def _check_metrics(watched: Watched, *problems: _Arguments) -> None:
    names = []
    for arguments in problems:
        with torch.no_grad():
            metrics = watched.call("metrics", *arguments)
        check_named(watched.name, "metrics", metrics, "scalar tensors")
        for key, value in metrics.items():
            if value.shape != () or not value.is_floating_point():
                raise OptimizeeError(
                    f"{watched.name}.metrics must return named floating-point scalars (shape []), but "
                    f"{clipped(key)!r} is {value.dtype} with shape {list(value.shape)}"
                )
            if key in (*LOGGED, TIMES):
                raise OptimizeeError(f"{watched.name}.metrics must not use the name {key!r}, which is logged anyway")
        names.append(list(metrics))
    if names[0] != names[1]:
        found = " and ".join(clipped(", ".join(each) or "nothing") for each in names)
        raise OptimizeeError(f"{watched.name}.metrics must return the same names every time, found {found}")


def _check_groups(watched: Watched, params: TensorDict) -> None:
    groups = watched.call("groups")
    must = f"{watched.name}.groups must return the group of each parameter, names by names"
    if not isinstance(groups, Mapping):
        raise OptimizeeError(f"{must}, found {type_name(groups)}")
    for key, value in groups.items():
        if key not in params:
            raise OptimizeeError(
                f"{watched.name}.groups names {clipped(key)}, but the parameters are {clipped(', '.join(params))}"
            )
        if not isinstance(value, str) or not value:
            raise OptimizeeError(f"{must}, but that of {clipped(key)!r} is {clipped(repr(value))}")


def _name(optimizee: object) -> str:
    return type(optimizee).__name__


def _device_of(optimizee: Optimizee) -> torch.device:
    tensors = (value for value in vars(optimizee).values() if isinstance(value, Tensor))
    return next((tensor.device for tensor in tensors), torch.device("cpu"))
