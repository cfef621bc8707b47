"""Whether an optimizer network keeps its contract, tried in one step before anything is written."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Generator, Tensor

from meta_opt.errors import MetaOptError
from meta_opt.messages import clipped, described
from meta_opt.optimizees.layout import Layout
from meta_opt.optimizees.problems import Evaluation
from meta_opt.optimizers.contract import InnerOptimizer, OptimizerNetwork, Rollout
from meta_opt.optimizers.state import named_tensors
from meta_opt.signatures import signature_problem

_READS = ("loss", "grad", "params")
_SCOPES = ("coordinate", "tensor", "problem")


def check_class(network: OptimizerNetwork) -> None:
    """Say what is wrong with signatures and attributes of a network, if anything is.

    Raises:
        MetaOptError: If a method has a wrong signature, or an attribute is not what the contract allows.
    """
    name = type(network).__name__
    if problem := signature_problem(type(network), OptimizerNetwork):
        raise MetaOptError(problem)
    if not isinstance(network.reads, frozenset | set) or not network.reads <= set(_READS):
        raise MetaOptError(f"{name}.reads must be a frozenset of {', '.join(_READS)}, found {clipped(network.reads)}")
    if network.scope not in _SCOPES:
        raise MetaOptError(f"{name}.scope must be one of {', '.join(_SCOPES)}, found {clipped(network.scope)}")


def check_built(network: OptimizerNetwork) -> None:
    """See that a network has weights.

    Raises:
        MetaOptError: If it has not.
    """
    if next(network.parameters(), None) is None:
        raise MetaOptError(f"{type(network).__name__} has no weights yet: build or train it, or give a checkpoint")


def check_step(network: OptimizerNetwork, layout: Layout, generator: Generator) -> None:
    """Take one step with a built network, and say what is wrong with it, if anything is.

    Args:
        network: A network that has been built for ``layout``.
        layout: N coordinates.
        generator: Draws the gradient.

    Raises:
        MetaOptError: If the network has no weights; if a method fails, returns what it must not, or changes what it is
            given, its state included; or if the update is not finite.
    """
    name = type(network).__name__
    if not network.trained_parameters():
        if next(network.parameters(), None) is not None:
            raise MetaOptError(
                f"the weights of this {name} are frozen: give a new one, and name trained ones with model.warm_start"
            )
        raise MetaOptError(f"{name}.build must make weights to train (nn.Parameter), found none")
    evaluation = _evaluation(network, layout, generator)
    copies = {key: value.clone() for key, value in vars(evaluation).items()}
    with torch.no_grad():
        with _failures(f"{name}.init_state", network):
            state = network.init_state(layout, 1)
        before = [(each.name, each.tensor, each.tensor.clone()) for each in named_tensors(state)]
        with _failures(f"{name}.step", network):
            update = Rollout(network, state).step(evaluation.only(network.reads))
    check_update(network, update, evaluation.params)
    for key, now, then in before:
        if now.shape != then.shape or not torch.equal(now, then):
            where = f" ({key})" if key else ""
            raise MetaOptError(f"{name}.step changes its state{where} in place: it must return a new one")
    if not update.isfinite().all():
        raise MetaOptError(f"{name}.step returns an update that is not finite")
    for key, value in vars(evaluation).items():
        if not torch.equal(value, copies[key]):
            raise MetaOptError(f"{name}.step changes {key} of its evaluation in place: it must leave it as it is")


def first_update(network: OptimizerNetwork, layout: Layout, generator: Generator) -> Tensor:
    """The first update, [1, N], of a built network whose gradient a generator draws."""
    evaluation = _evaluation(network, layout, generator)
    with torch.no_grad():
        return Rollout(network, network.init_state(layout, 1)).step(evaluation.only(network.reads))


def _evaluation(network: OptimizerNetwork, layout: Layout, generator: Generator) -> Evaluation:
    like = network.trained_parameters()[0]
    grad, params = (torch.randn(1, layout.num_coordinates, generator=generator).to(like) for _ in range(2))
    return Evaluation(params.square().sum(1), grad, params)


def check_update(optimizer: InnerOptimizer, update: object, params: Tensor) -> None:
    """See that an update can be added to the parameters, [B, N], and leaves their type as it is.

    Raises:
        MetaOptError: If it cannot, or does not.
    """
    if isinstance(update, Tensor) and update.shape == params.shape and update.dtype == params.dtype:
        return
    found = f"{list(update.shape)} of {update.dtype}" if isinstance(update, Tensor) else type(update).__name__
    raise MetaOptError(
        f"{type(optimizer).__name__}.step must return an update [B, N], here {list(params.shape)} of {params.dtype}, "
        f"found {found}"
    )


@contextmanager
def _failures(method: str, network: OptimizerNetwork) -> Iterator[None]:
    try:
        yield
    except MetaOptError:
        raise
    except (Exception, SystemExit) as error:
        modules = [cls.__module__ for cls in type(network).__mro__]
        raise MetaOptError(f"{method} fails with {described(error, modules)}") from error
