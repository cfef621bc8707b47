"""B problems of one optimizee, drawn, stacked and evaluated at once."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Generator, Tensor

from meta_opt.errors import MetaOptError
from meta_opt.optimizees.contract import Optimizee, Split, TensorDict
from meta_opt.optimizees.layout import Layout


@dataclass(frozen=True)
class Evaluation:
    """What is known of B problems at one step; all that an optimizer may read. What is not known cannot be read."""

    loss: Tensor  # [B], f_t(θ_t)
    grad: Tensor  # [B, N], ∇_t
    params: Tensor  # [B, N], θ_t

    @classmethod
    def of(cls, **known: Tensor) -> Evaluation:
        """An evaluation of which only some is known."""
        self = object.__new__(cls)
        for name, tensor in known.items():
            object.__setattr__(self, name, tensor)
        return self

    def only(self, names: Collection[str]) -> Evaluation:
        """The part that is named, of what is known."""
        return self.of(**{name: tensor for name, tensor in vars(self).items() if name in names})

    def detach(self) -> Evaluation:
        """The same without a graph behind it."""
        return self.of(**{name: tensor.detach() for name, tensor in vars(self).items()})

    def __getattr__(self, name: str) -> Tensor:
        """Say what is missing; called for what there is not."""
        if name in ("loss", "grad", "params"):
            raise MetaOptError(
                f"the optimizer reads {name}, which is not known here: its class must name it, reads = "
                f'frozenset({{..., "{name}"}}), and a training loop must give it, as step(closure) does the loss'
            )
        raise AttributeError(name)


def problem_generator(seed: int, *key: str | int) -> Generator:
    """A CPU generator whose stream depends on the seed and on every part of ``key``, and on nothing else."""
    text = "/".join(str(part) for part in (seed, *key))
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return Generator().manual_seed(int.from_bytes(digest, "big") >> 1)


def layout_of(optimizee: Optimizee) -> Layout:
    """The layout of the coordinates of one problem of ``optimizee``; of a family, that of one of its variants."""
    generator = problem_generator(0, "layout")
    optimizee = optimizee.variant(generator)
    return Layout.of(optimizee.init_params(generator), optimizee.groups())


class Problems:
    """B problems of ``split``, each with a random stream of its own.

    Problem ``i`` is the same problem, with the same θ_0 and the same mini-batches, whoever optimizes it and however
    many others are drawn beside it. (Of a family, all are of the variant of the first.)

    Attributes:
        layout: The layout of the N coordinates.
        initial_params: θ_0, [B, N].
        stochastic: Whether the loss differs from step to step at the same θ.
    """

    def __init__(
        self,
        optimizee: Optimizee,
        split: Split,
        indices: Sequence[int],
        *,
        seed: int,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        autocast: torch.dtype | None = None,
    ) -> None:
        """Draw the problems.

        Args:
            optimizee: Where the problems come from; its data is expected on ``device``.
            split: Which stream, and on data sets which data, the problems come from.
            indices: Which problems of that stream; B is their number.
            seed: The seed of all streams.
            device: Where to keep θ and what the problems are made of.
            dtype: Floating-point type of θ and of what the problems are made of.
            autocast: The type in which ``torch.autocast`` lets the loss compute what it may; None for none.
        """
        optimizee = optimizee.variant(problem_generator(seed, split, indices[0], "variant"))
        self._optimizee = optimizee
        self._split: Split = split
        self._device = torch.device(device)
        self._dtype = dtype
        self._autocast = autocast
        self._generators = [problem_generator(seed, split, index) for index in indices]
        self._problem = self._stack([optimizee.sample_problem(split, generator) for generator in self._generators])
        params = self._stack([optimizee.init_params(generator) for generator in self._generators])
        self.layout = Layout.of({name: tensor[0] for name, tensor in params.items()}, optimizee.groups())
        self.initial_params = self.layout.flatten(params)
        self._batch: TensorDict = {}
        self.stochastic = False

    def __len__(self) -> int:
        """B, the number of problems."""
        return len(self._generators)

    def evaluate(self, params: Tensor, *, grad: bool = True, graph: Literal["none", "second"] = "none") -> Evaluation:
        """Draw the next mini-batch of each problem; loss and gradient of every problem on it.

        Args:
            params: θ_t, [B, N].
            grad: Whether the gradient is wanted; without it there is no backward pass.
            graph: Whether the result stays differentiable in what ``params`` came from (second derivatives).
        """
        create_graph = graph == "second"
        self._batch = self._stack([self._optimizee.sample_batch(self._split, gen) for gen in self._generators])
        self.stochastic = bool(self._batch)
        if not create_graph:
            params = params.detach()
        if not grad:
            with torch.set_grad_enabled(create_graph):
                return Evaluation.of(loss=self._losses(params), params=params)
        with torch.enable_grad():
            if not params.requires_grad:
                params = params.requires_grad_()
            loss = self._losses(params)
            (gradient,) = torch.autograd.grad(loss.sum(), params, create_graph=create_graph)
        evaluation = Evaluation(loss, gradient, params)
        return evaluation if create_graph else evaluation.detach()

    def metrics(self, params: Tensor) -> TensorDict:
        """The optimizee's metrics at ``params`` [B, N], on the mini-batches evaluated last; each [B]."""
        named = self.layout.unflatten(params)
        with torch.no_grad():
            rows = [
                self._optimizee.metrics(_item(named, i), _item(self._problem, i), _item(self._batch, i))
                for i in range(len(self))
            ]
        return {name: torch.stack([row[name] for row in rows]) for name in rows[0]}

    def _losses(self, params: Tensor) -> Tensor:
        if self._autocast is None:
            return self._stacked_losses(params)
        with torch.autocast(self._device.type, self._autocast):
            return self._stacked_losses(params).to(params.dtype)

    def _stacked_losses(self, params: Tensor) -> Tensor:
        loss = self._optimizee.loss
        if len(self) == 1:  # the same without vmap, whose dispatch costs more than a small network does
            named = self.layout.unflatten(params.squeeze(0))
            return loss(named, _item(self._problem, 0), _item(self._batch, 0)).reshape(1)
        named = self.layout.unflatten(params)
        if self._optimizee.vmappable:
            return torch.vmap(loss)(named, self._problem, self._batch)
        items = ([_item(tensors, i) for tensors in (named, self._problem, self._batch)] for i in range(len(self)))
        return torch.stack([loss(*item) for item in items])

    def _stack(self, rows: list[TensorDict]) -> TensorDict:
        if len(rows) == 1:  # no copy of a mini-batch
            return {name: self._move(tensor.unsqueeze(0)) for name, tensor in rows[0].items()}
        return {name: self._move(torch.stack([row[name] for row in rows])) for name in rows[0]}

    def _move(self, tensor: Tensor) -> Tensor:
        return tensor.to(self._device, self._dtype if tensor.is_floating_point() else None)


def _item(tensors: TensorDict, index: int) -> TensorDict:
    return {name: tensor[index] for name, tensor in tensors.items()}
