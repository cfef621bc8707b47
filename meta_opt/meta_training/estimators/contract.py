"""The contract of estimators: how meta-gradients come out of an episode.

An estimator optimizes the problems of an episode with the φ of the moment, and whenever it knows enough gives a
meta-gradient; the meta-learner then takes a step of the meta-optimizer before the estimator goes on. So every estimator
decides by itself how long it unrolls, what it records, and how often φ moves.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from torch import Generator, Tensor, nn

from meta_opt import registry
from meta_opt.configurable import Configurable
from meta_opt.errors import CheckpointError, MetaOptError
from meta_opt.messages import clipped
from meta_opt.meta_training.meta_loss import MetaLoss
from meta_opt.optimizees.problems import Problems
from meta_opt.optimizers.contract import OptimizerNetwork


@dataclass(frozen=True)
class MetaGradient:
    """What an estimator knows of φ at one moment of an episode.

    Attributes:
        loss: The meta-loss L that the gradient is of, [].
        grads: ∂L/∂φ, one per parameter of ``trained_parameters()`` of the network, in their order.
        losses: f_t(θ_t) of the steps since the last meta-gradient of the episode, [steps, B].
        own_grads: Gradients of the estimator's own parameters, in their order; none where it has none.
    """

    loss: Tensor
    grads: tuple[Tensor, ...]
    losses: Tensor
    own_grads: tuple[Tensor, ...] = ()


@dataclass(frozen=True)
class Episode:
    """What an estimator works on.

    Attributes:
        problems: B problems at θ_0.
        network: m_φ. The meta-learner changes φ, in place, whenever a meta-gradient was given.
        meta_loss: L, as a function of losses [T, B].
        num_steps: Optimizee steps of the episode.
        unroll_length: T, how many losses a meta-gradient looks at.
        generator: Makes sources of randomness for this episode and process, on the CPU: equal keys, equal streams.
        rank: Which process this is.
        num_processes: How many there are.
    """

    problems: Problems
    network: OptimizerNetwork
    meta_loss: MetaLoss
    num_steps: int
    unroll_length: int
    generator: Callable[..., Generator]
    rank: int = 0
    num_processes: int = 1


class Estimator(Configurable, nn.Module, ABC):
    """Estimates ∂L/∂φ along an episode.

    Its parameters (those of a critic) are trained by the meta-optimizer beside φ; they and its buffers are in the
    checkpoint. What lasts no longer than an episode belongs in local variables of :meth:`estimates`.

    Attributes:
        shares_problems: Whether all processes work on the same problems, with the same streams of randomness, because
            the estimator divides something else among them.
    """

    shares_problems: bool = False
    _option = "model.estimator"

    def check(self, network: OptimizerNetwork, unroll_length: int) -> None:
        """See that it can train this network; called before meta-training.

        Raises:
            MetaOptError: If it cannot, saying which option to change.
        """

    def num_runs(self, network: OptimizerNetwork, num_processes: int) -> int:
        """How many problems' worth of optimizee steps an episode makes of each of its problems, on all processes."""
        return num_processes

    @abstractmethod
    def estimates(self, episode: Episode) -> Iterator[MetaGradient]:
        """Run the episode, and give meta-gradients on the way, each at the φ of its moment.

        Every process must give as many in an episode, as they are averaged over processes. An episode whose numbers
        are not finite is abandoned and changes nothing.
        """


def checked_estimates(estimator: Estimator, episode: Episode) -> Iterator[MetaGradient]:
    """The meta-gradients of an episode, each seen to be one that a step can be taken with.

    Raises:
        MetaOptError: If one is no :class:`MetaGradient` with a gradient for each weight of the network and the
            estimator, a loss and losses; or if there is none.
    """
    name = f"{type(estimator).__name__}.estimates"
    parameters = [*episode.network.trained_parameters(), *estimator.parameters()]
    estimates = estimator.estimates(episode)
    if not isinstance(estimates, Iterable):
        raise MetaOptError(f"{name} must yield MetaGradients, it returns {_kind(estimates)}")
    none_yet, steps = True, 0
    for estimate in estimates:
        none_yet = False
        _check(name, estimate, parameters, len(episode.problems))
        steps += len(estimate.losses)
        yield estimate
    if none_yet:
        raise MetaOptError(f"{name} gave nothing in {episode.num_steps} steps")
    if not steps:
        raise MetaOptError(f"{name} gave losses of no step: it must give those since its last meta-gradient")


def check_weights(estimator: Estimator, weights: Mapping[str, Tensor]) -> None:
    """See that an estimator has the weights, those of a critic, that are in a checkpoint.

    Args:
        estimator: What is to go on.
        weights: All those in the checkpoint, by name; an estimator's begin with ``estimator.``.

    Raises:
        CheckpointError: If it has others.
    """
    prefix = "estimator."
    own = {name: value.shape for name, value in estimator.state_dict(prefix=prefix).items()}
    saved = {name: value.shape for name, value in weights.items() if name.startswith(prefix)}
    if own != saved:
        mine, theirs = (clipped(", ".join(sorted(names)) or "no weights", 120) for names in (own, saved))
        raise CheckpointError(
            f"model.estimator {registry.name_of(type(estimator))} has {mine}, and the estimator of the run {theirs}: "
            "go on with that one as it was, or begin a new run with model.warm_start"
        )


def _check(name: str, estimate: object, parameters: Sequence[Tensor], num_problems: int) -> None:
    if not isinstance(estimate, MetaGradient):
        raise MetaOptError(f"{name} must yield MetaGradients, found {type(estimate).__name__}")
    for field in ("grads", "own_grads"):
        value = getattr(estimate, field)
        if not isinstance(value, Sequence):
            raise MetaOptError(f"{name} must yield {field} as a tuple of tensors, found {_kind(value)}")
    grads = [*estimate.grads, *estimate.own_grads]
    found = [list(grad.shape) if isinstance(grad, Tensor) else _kind(grad) for grad in grads]
    wanted = [list(parameter.shape) for parameter in parameters]
    if found != wanted:
        raise MetaOptError(
            f"{name} must yield a gradient of the shape of each weight, {clipped(wanted)}, found {clipped(found)}"
        )
    types = [(grad.dtype, parameter.dtype) for grad, parameter in zip(grads, parameters, strict=True)]
    if wrong := next((pair for pair in types if pair[0] != pair[1]), None):
        raise MetaOptError(f"{name} must yield gradients of the type of the weights, {wrong[1]}, found {wrong[0]}")
    loss, losses = estimate.loss, estimate.losses
    if not isinstance(loss, Tensor) or loss.dim() != 0:
        raise MetaOptError(f"{name} must yield a loss that is a tensor of shape [], found {_kind(loss)}")
    if not isinstance(losses, Tensor) or losses.dim() != 2 or losses.shape[1] != num_problems:
        raise MetaOptError(f"{name} must yield losses [steps, {num_problems}], found {_kind(losses)}")


def _kind(value: object) -> str:
    return f"shape {list(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
