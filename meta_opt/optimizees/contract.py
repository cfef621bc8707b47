"""The optimizee contract: a distribution of problems that a learned optimizer is trained on.

An author writes pure functions of ONE problem. The core stacks B problems and runs them at once.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, Literal, get_args

import torch
from torch import Generator, Tensor, nn

from meta_opt.configurable import Configurable

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)
TensorDict = dict[str, Tensor]


class Optimizee(Configurable, ABC):
    """A distribution of optimization problems f.

    Everything is written for one problem, is pure (same arguments, same result, nothing changed in place), and
    takes all its randomness from the CPU generator that is handed in. Tensors may be made on any device; the core
    moves them. Tensors that are attributes of the object (a data set) are moved by :meth:`to`.

    Losses are evaluated under ``torch.vmap``: no ``.item()`` and no branch on a tensor's value.

    Attributes:
        vmappable: False where ``torch.vmap`` has no rule for an operation of the loss (``nn.LSTM``): the core then
            evaluates one problem after the other.
    """

    vmappable: bool = True
    _option = "optimizee"

    @abstractmethod
    def init_params(self, generator: Generator) -> TensorDict:
        """θ_0, the parameters to start from, as named floating-point tensors."""

    def sample_problem(self, split: Split, generator: Generator) -> TensorDict:
        """What makes this problem of ``split`` differ from others for a whole episode; ``{}`` if nothing does."""
        return {}

    def sample_batch(self, split: Split, generator: Generator) -> TensorDict:
        """What differs from one step to the next (a mini-batch of ``split``); ``{}`` if nothing does."""
        return {}

    def sample_held_back(self, split: Split, generator: Generator) -> TensorDict:
        """A batch like those of :meth:`sample_batch`, of examples of the problem that those never hold; ``{}`` if none.

        The loss on it tells what is learned from what is only fitted: with ``model.held_back`` the meta-loss is taken
        of it, and so are :meth:`metrics`.
        """
        return {}

    def held_back_loss(self, params: TensorDict, problem: TensorDict, batch: TensorDict) -> Tensor:
        """What counts on a batch of :meth:`sample_held_back`, if that is not :meth:`loss`; differentiable as that is.

        Where an answer that is wrong and sure costs more than it should, for example.
        """
        return self.loss(params, problem, batch)

    @abstractmethod
    def loss(self, params: TensorDict, problem: TensorDict, batch: TensorDict) -> Tensor:
        """f_t(θ_t), a tensor without dimensions, differentiable in ``params``."""

    def metrics(self, params: TensorDict, problem: TensorDict, batch: TensorDict) -> TensorDict:
        """Named scalars to log beside the loss at the end of an episode, an accuracy for example.

        They are of the batch that the logged loss is of: with ``model.held_back`` one of :meth:`sample_held_back`.
        """
        return {}

    def groups(self) -> Mapping[str, str]:
        """Group of each parameter, by name, for optimizers that keep weights per group; default: one group."""
        return {}

    def panels(self) -> Mapping[str, Optimizee]:
        """What pictures show of an optimizee with two parameters: a panel each, by its title; default: this one."""
        return {type(self).__name__: self}

    @classmethod
    def recommended_settings(cls) -> dict[str, Any]:
        """Command-line options and values that suit this optimizee, used as defaults below whatever the user says.

        Keys are option names without dashes: ``{"model.num_steps": 100, "optimizer.hidden_size": 20}``. Before a colon
        stands the name of the optimizer that a setting is for: ``{"alpha_opt:optimizer.unit": "secant"}``.
        """
        return {}

    def variant(self, generator: Generator) -> Optimizee:
        """The optimizee that the problems of an episode come from: this one. See :class:`OptimizeeFamily`."""
        return self

    def to(self, device: torch.device | str) -> Optimizee:
        """Move every tensor and module that is an attribute of this object to ``device``; returns the object.

        Modules without values, on the meta device, stay there.
        """
        for name, value in vars(self).items():
            parts = (*value.parameters(), *value.buffers()) if isinstance(value, nn.Module) else ()
            if isinstance(value, Tensor) or (parts and not any(part.is_meta for part in parts)):
                setattr(self, name, value.to(device))
        return self


class OptimizeeFamily(Optimizee):
    """Optimizees whose parameters differ in number and shape: a problem is drawn from one of them, its variant.

    In meta-training all problems of an episode (and process) are of one variant; on validation and test problems each
    has its own.
    """

    @abstractmethod
    def variant(self, generator: Generator) -> Optimizee:
        """Draw one of the optimizees."""

    @abstractmethod
    def to(self, device: torch.device | str) -> Optimizee:
        """Move the tensors of every optimizee to ``device``; returns the family."""

    def init_params(self, generator: Generator) -> TensorDict:
        """Variants have parameters, the family has none."""
        raise TypeError(f"{type(self).__name__} is a family: ask a variant for parameters")

    def loss(self, params: TensorDict, problem: TensorDict, batch: TensorDict) -> Tensor:
        """Variants have a loss, the family has none."""
        raise TypeError(f"{type(self).__name__} is a family: ask a variant for the loss")
