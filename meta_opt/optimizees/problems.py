"""B problems of one optimizee, drawn, stacked and evaluated at once."""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Literal

import torch
from torch import Tensor

from meta_opt.errors import MetaOptError, OptimizeeError
from meta_opt.optimizees.contract import Optimizee, Split, TensorDict
from meta_opt.optimizees.draws import check_alike, check_named, type_name
from meta_opt.optimizees.layout import Layout
from meta_opt.optimizees.streams import drawn_in_float32, problem_generator
from meta_opt.optimizees.tracing import Traces

_What = Literal["loss", "held_back_loss"]  # of an optimizee
NONE_HELD_BACK = "held_back needs batches that are held back, and {}.sample_held_back gives none"
_Loss = Callable[[TensorDict, TensorDict, TensorDict], Tensor]


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
        vars(self).update(known)
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


def layout_of(optimizee: Optimizee) -> Layout:
    """The layout of the coordinates of one problem of ``optimizee``; of a family, that of one of its variants."""
    generator = problem_generator(0, "layout")
    with drawn_in_float32():
        optimizee = optimizee.variant(generator)
        return Layout.of(optimizee.init_params(generator), optimizee.groups())


class Problems:
    """B problems of ``split``, each with a random stream of its own.

    Problem ``i`` is the same problem, with the same θ_0 and the same mini-batches, whoever optimizes it and however
    many others are drawn beside it. (Of a family, all are of the variant of the first.)

    Attributes:
        layout: The layout of the N coordinates.
        initial_params: θ_0, [B, N].
        held_back: Whether optimizers are judged on held-back batches.
        trace: Whether evaluations are traced where that is safe, see :class:`Traces`.
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
        held_back: bool = False,
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
            held_back: Whether optimizers are judged on held-back batches, which then come from streams of their own.
        """
        with drawn_in_float32():
            optimizee = optimizee.variant(problem_generator(seed, split, indices[0], "variant"))
            self._generators = [problem_generator(seed, split, index) for index in indices]
            drawn = [optimizee.sample_problem(split, generator) for generator in self._generators]
            drawn_params = [optimizee.init_params(generator) for generator in self._generators]
        self.held_back = held_back
        self._indices = indices
        self._copies = 1
        self._judges = [problem_generator(seed, split, index, "held_back") for index in indices if held_back]
        self._optimizee = optimizee
        self._split: Split = split
        self._device = torch.device(device)
        self._dtype = dtype
        self._autocast = autocast
        self._problem = self._stack("sample_problem", drawn)
        params = self._stack("init_params", drawn_params)
        self.layout = Layout.of({name: tensor[0] for name, tensor in params.items()}, optimizee.groups())
        self.initial_params = self.layout.flatten(params)
        self._batch: TensorDict = {}
        self._held_back_batch: TensorDict = {}
        self.trace = optimizee.vmappable or len(self) == 1  # else a graph of B losses, one behind the other
        self._traces = vars(optimizee).setdefault("_traces", Traces())
        self._draws_batches = getattr(optimizee.sample_batch, "__func__", None) is not Optimizee.sample_batch
        self._key = repr((self.layout, list(self._problem), []))

    def __len__(self) -> int:
        """B, the number of problems."""
        return len(self._generators) * self._copies

    @property
    def _name(self) -> str:
        return type(self._optimizee).__name__

    @cached_property
    def stochastic(self) -> bool:
        """Whether losses carry the noise of mini-batches, or where optimizers are judged on them of held-back batches.

        For this a batch is drawn, of which those that follow do not depend.
        """
        with drawn_in_float32():
            if self._draws_batches and self._optimizee.sample_batch(self._split, self._generators[0].clone_state()):
                return True
            judges = [judge.clone_state() for judge in self._judges[:1]]
            before = [judge.get_state() for judge in judges]
            for judge in judges:
                self._optimizee.sample_held_back(self._split, judge)
            after = (judge.get_state() for judge in judges)
            return any(not torch.equal(*states) for states in zip(before, after, strict=True))

    @property
    def numbers(self) -> list[int]:
        """The number of each problem in its stream."""
        return [*self._indices] * self._copies

    def twin(self) -> Problems:
        """The same problems, which draw the same mini-batches from streams of their own, from here on."""
        other = copy.copy(self)
        other._generators = [generator.clone_state() for generator in self._generators]
        other._judges = [generator.clone_state() for generator in self._judges]
        return other

    def repeated(self, copies: int) -> Problems:
        """Each problem ``copies`` times: all of them, then all again, with the same θ_0 and the same mini-batches.

        They draw from the streams of these problems: evaluate the ones or the others.
        """
        other = copy.copy(self)
        other._copies = self._copies * copies
        other.initial_params = self.initial_params.repeat(copies, 1)
        other._problem = {name: _repeated(tensor, copies) for name, tensor in self._problem.items()}
        other._batch = {}
        other._held_back_batch = {}
        other.trace = self._optimizee.vmappable or len(other) == 1
        return other

    @property
    def size(self) -> int:
        """Bytes of what the problems are made of and of θ_0, while they are drawn: one by one, then side by side."""
        return 2 * sum(each.numel() * each.element_size() for each in (*self._problem.values(), self.initial_params))

    def evaluate(self, params: Tensor, *, grad: bool = True, graph: Literal["none", "second"] = "none") -> Evaluation:
        """Draw the next mini-batch of each problem; loss and gradient of every problem on it.

        Args:
            params: θ_t, [B, N].
            grad: Whether the gradient is wanted; without it there is no backward pass.
            graph: Whether the result stays differentiable in what ``params`` came from (second derivatives).
        """
        return self._evaluate(self.draw_batch(), params, grad=grad, graph=graph)

    def judge(self, params: Tensor, *, grad: bool = False, graph: Literal["none", "second"] = "none") -> Evaluation:
        """Draw the next held-back batch of each problem; what counts of every problem on it, see :meth:`evaluate`."""
        return self._evaluate(self.draw_held_back(), params, grad=grad, graph=graph, what="held_back_loss")

    def _evaluate(
        self, batch: TensorDict, params: Tensor, *, grad: bool, graph: Literal["none", "second"], what: _What = "loss"
    ) -> Evaluation:
        if graph == "second":
            with torch.enable_grad():
                params = params if params.requires_grad or not grad else params.requires_grad_()
                loss = self._losses(what, self._named(params), self._problem, batch)
                if not grad:
                    return Evaluation.of(loss=loss, params=params)
                (gradient,) = torch.autograd.grad(loss.sum(), params, create_graph=True)
                if not gradient.requires_grad:  # constant in θ; optimizers tell by it that the unroll is differentiated
                    gradient = gradient + 0.0 * params
            return Evaluation(loss, gradient, params)
        params = params.detach()
        function = partial(self._loss_and_gradient if grad else self._loss_alone, what, tuple(batch))
        tensors = [params, *self._problem.values(), *batch.values()]
        if self.trace and self._autocast is None:
            known = self._traces.run((what, grad, self._key, *batch), function, tensors, self._optimizee)
        else:
            known = function(*tensors)
        return Evaluation(known[0], known[1], params) if grad else Evaluation.of(loss=known[0], params=params)

    def metrics(self, params: Tensor) -> TensorDict:
        """The optimizee's metrics at ``params`` [B, N], each [B].

        They are of the mini-batches drawn last or, where optimizers are judged on held-back batches, of those.
        """
        named, batch = self.layout.unflatten(params), self._held_back_batch if self.held_back else self._batch
        with torch.no_grad():
            rows = [
                self._optimizee.metrics(_item(named, i), _item(self._problem, i), _item(batch, i))
                for i in range(len(self))
            ]
        try:
            return {name: torch.stack([row[name] for row in rows]) for name in rows[0]}
        except (AttributeError, LookupError, RuntimeError, TypeError):
            for row in rows:
                check_named(self._name, "metrics", row, "scalar tensors")
                check_alike(self._name, "metrics", rows[0], row)
            raise

    def losses_around(self, index: int, params: Tensor) -> Tensor:
        """The loss of problem ``index`` at many θ, on the mini-batch that was evaluated last.

        Args:
            index: Which of the B problems.
            params: [G, N].

        Returns:
            [G].
        """
        problem, batch = _item(self._problem, index), _item(self._batch, index)
        with torch.no_grad():
            if self._optimizee.vmappable:
                return torch.vmap(partial(self._optimizee.loss, problem=problem, batch=batch))(
                    self.layout.unflatten(params)
                )
            rows = (self.layout.unflatten(row) for row in params)
            return torch.stack([self._optimizee.loss(row, problem, batch) for row in rows])

    def draw_batch(self) -> TensorDict:
        """The next mini-batch of each problem."""
        if not self._draws_batches:
            return self._batch
        with drawn_in_float32():
            rows = [self._optimizee.sample_batch(self._split, generator) for generator in self._generators]
        batch = self._stack("sample_batch", rows)
        if [*self._batch] != [*batch]:
            self._key = repr((self.layout, list(self._problem), list(batch)))
        self._batch = batch
        return self._batch

    def draw_held_back(self) -> TensorDict:
        """The next held-back batch of each problem.

        Raises:
            OptimizeeError: If the optimizee holds none back.
        """
        with drawn_in_float32():
            rows = [self._optimizee.sample_held_back(self._split, generator) for generator in self._judges]
        if not rows[0]:
            raise OptimizeeError(NONE_HELD_BACK.format(self._name))
        self._held_back_batch = self._stack("sample_held_back", rows)
        return self._held_back_batch

    def _loss_and_gradient(
        self, what: _What, batch_names: Iterable[str], params: Tensor, *tensors: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Loss [B] and gradient [B, N]; ``tensors`` are those of the problems and of the mini-batches.

        The gradient is taken by the tensors of θ, and laid into one vector at once.
        """
        with torch.enable_grad():
            named = {name: part.detach().requires_grad_() for name, part in self._named(params.detach()).items()}
            loss = self._losses(what, named, *self._split_up(batch_names, tensors))
            if not loss.requires_grad:
                raise OptimizeeError(f"{self._name}.{what} does not depend on params through autograd")
            grads = torch.autograd.grad(
                loss, [*named.values()], torch.ones_like(loss), allow_unused=True, materialize_grads=True
            )
        gradient = self.layout.flatten(dict(zip(named, grads, strict=True)))
        return loss.detach(), gradient.reshape(params.shape)

    def _loss_alone(self, what: _What, batch_names: Iterable[str], params: Tensor, *tensors: Tensor) -> tuple[Tensor]:
        """Loss [B]."""
        with torch.no_grad():
            return (self._losses(what, self._named(params), *self._split_up(batch_names, tensors)),)

    def _split_up(self, batch_names: Iterable[str], tensors: Sequence[Tensor]) -> tuple[TensorDict, TensorDict]:
        number = len(self._problem)
        problem = dict(zip(self._problem, tensors[:number], strict=True))
        return problem, dict(zip(batch_names, tensors[number:], strict=True))

    def _named(self, params: Tensor) -> TensorDict:
        """The tensors of θ, each [B, ...]; if there is one problem, without the first dimension."""
        return self.layout.unflatten(params.squeeze(0) if len(self) == 1 else params)

    def _losses(self, what: _What, named: TensorDict, problem: TensorDict, batch: TensorDict) -> Tensor:
        """Loss of each problem, [B]."""
        loss = partial(self._loss_of_one, what)
        if self._autocast is None:
            return self._stacked(loss, named, problem, batch).to(self._dtype)
        with torch.autocast(self._device.type, self._autocast):
            return self._stacked(loss, named, problem, batch).to(self._dtype)

    def _loss_of_one(self, what: _What, named: TensorDict, problem: TensorDict, batch: TensorDict) -> Tensor:
        """What is checked at first (:mod:`meta_opt.optimizees.checking`) may come to differ later."""
        loss = getattr(self._optimizee, what)(named, problem, batch)
        if not isinstance(loss, Tensor) or loss.dim() > 0:
            found = f"shape {list(loss.shape)}" if isinstance(loss, Tensor) else type_name(loss)
            raise OptimizeeError(f"{self._name}.{what} must return a scalar tensor (shape []), found {found}")
        return loss

    def _stacked(self, loss: _Loss, named: TensorDict, problem: TensorDict, batch: TensorDict) -> Tensor:
        if len(self) == 1:  # the same without vmap, whose dispatch costs more than a small network does
            return loss(named, _item(problem, 0), _item(batch, 0)).reshape(1)
        if self._optimizee.vmappable:
            return torch.vmap(loss)(named, problem, batch)
        items = ([_item(tensors, i) for tensors in (named, problem, batch)] for i in range(len(self)))
        return torch.stack([loss(*item) for item in items])

    def _stack(self, method: str, rows: list[TensorDict]) -> TensorDict:
        """What a method returned for each problem, [B, ...]."""
        try:
            if len(rows) == 1:  # no copy of a mini-batch
                stacked = {name: self._move(tensor.unsqueeze(0)) for name, tensor in rows[0].items()}
            else:
                stacked = {name: self._move(torch.stack([row[name] for row in rows])) for name in rows[0]}
        except (AttributeError, LookupError, RuntimeError, TypeError):
            for row in rows:
                check_named(self._name, method, row, "tensors")
                check_alike(self._name, method, rows[0], row)
            raise
        if self._copies == 1:
            return stacked
        return {name: _repeated(tensor, self._copies) for name, tensor in stacked.items()}

    def _move(self, tensor: Tensor) -> Tensor:
        return tensor.detach().to(self._device, self._dtype if tensor.is_floating_point() else None)


def _repeated(tensor: Tensor, copies: int) -> Tensor:
    """[B, ...] to [copies·B, ...]; of one problem a view."""
    return tensor.expand(copies, *tensor.shape).flatten(0, 1)


def _item(tensors: TensorDict, index: int) -> TensorDict:
    return {name: tensor[index] for name, tensor in tensors.items()}
