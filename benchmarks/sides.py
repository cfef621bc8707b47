"""What is compared: meta-opt's engines and plain PyTorch, with the same problems, θ_0, mini-batches and φ."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor

from meta_opt.api import Optimizee, TensorDict
from meta_opt.inner_loop.unroll import begin, unroll
from meta_opt.meta_training.estimators.first_order import first_order
from meta_opt.meta_training.estimators.subset import draw_subset
from meta_opt.meta_training.meta_loss import MetaLoss
from meta_opt.optimizees.problems import Problems, layout_of, problem_generator
from meta_opt.optimizers.contract import Rollout
from meta_opt.optimizers.coordinatewise_lstm import CoordinatewiseLSTM, Engine
from plain_pytorch import PlainLSTM, PlainMetaTrainer
from workloads import Workload

LR = 1e-5  # of the meta-optimizer: small, so that what is timed stays the same
PARTS = ("optimizee", "forward", "replay")


class Side(Protocol):
    """One of those compared.

    Attributes:
        seconds: Time spent in each part since the last start, by name; what is not there is not known.
    """

    seconds: dict[str, float]

    def start(self) -> None:
        """Begin the episode, always the same one."""

    def meta_step(self, num_steps: int) -> Tensor:
        """Unroll, meta-gradient and a step of the meta-optimizer, from where the episode stands; the meta-loss, []."""


def make_side(name: str, workload: Workload, optimizee: Optimizee, device: str = "cpu") -> Side:
    """The side of this name: native, quarter (native code, replaying a quarter of the coordinates), torch or plain."""
    if name == "plain":
        return PlainSide(workload, optimizee, device=device)
    if name == "quarter":
        return MetaOptSide(workload, optimizee, "native", replay_fraction=0.25, device=device)
    return MetaOptSide(workload, optimizee, name, device=device)  # type: ignore[arg-type]


def wait_for(device: str) -> None:
    """Until a GPU has done what it was given; a CPU has."""
    if device != "cpu":
        torch.cuda.synchronize()


class MetaOptSide:
    """Meta-training as ``MetaLearner`` does it, without Lightning.

    Attributes:
        split: Whether ``seconds`` is wanted, for which a GPU has to be waited for after every part.
    """

    def __init__(
        self,
        workload: Workload,
        optimizee: Optimizee,
        engine: Engine,
        dtype: torch.dtype = torch.float32,
        replay_fraction: float = 1.0,
        device: str = "cpu",
    ) -> None:
        """Make φ and the meta-optimizer."""
        self._optimizee, self._num_problems, self._dtype = optimizee.to(device), workload.num_problems, dtype
        self._device = device
        self.optimizer = initial_optimizer(workload, optimizee, dtype).to(device)
        self.optimizer.engine = engine
        self.meta_optimizer = torch.optim.Adam(self.optimizer.trained_parameters(), lr=LR)
        self._meta_loss = MetaLoss("sum", "constant")
        self._replay_fraction, self._generator = replay_fraction, torch.Generator().manual_seed(0)
        self.seconds = dict.fromkeys(PARTS, 0.0)
        self.split = True
        self._in_part = False
        self._time(self.optimizer, "step", "forward")
        self._time_steps()
        self._time(self.optimizer, "replay", "replay")

    def start(self) -> None:
        """See :class:`Side`."""
        self._problems = Problems(
            self._optimizee, "train", range(self._num_problems), seed=0, dtype=self._dtype, device=self._device
        )
        self._time(self._problems, "evaluate", "optimizee")
        self._position = begin(self._problems, self.optimizer)
        self.seconds.update(dict.fromkeys(PARTS, 0.0))

    def meta_step(self, num_steps: int) -> Tensor:
        """See :class:`Side`."""
        trajectory = unroll(self._problems, self.optimizer, self._position, num_steps)
        subset = None
        if self._replay_fraction < 1.0:
            subset = draw_subset(self._problems.layout, self._replay_fraction, self._generator)
        estimate = first_order(trajectory, self.optimizer, self._meta_loss, subset)
        for parameter, grad in zip(self.optimizer.trained_parameters(), estimate.grads, strict=True):
            parameter.grad = grad
        self.meta_optimizer.step()
        self._position = trajectory.end.detach()
        return estimate.loss

    def _time_steps(self) -> None:
        """Time the steps of every rollout, and its preparation."""
        begin_rollout = self.optimizer.rollout

        def timed_rollout(state: Any, noise: torch.Generator | None = None) -> Rollout:
            started = self._now()
            rollout = begin_rollout(state, noise)
            self.seconds["forward"] += self._now() - started
            self._time(rollout, "step", "forward")
            return rollout

        self.optimizer.rollout = timed_rollout  # type: ignore[method-assign]

    def _time(self, owner: object, method: str, part: str) -> None:
        """Add the time that a method takes to ``seconds``; a replay that calls the step counts as replay alone."""
        function: Callable[..., Any] = getattr(owner, method)

        def timed(*args: Any, **kwargs: Any) -> Any:
            if self._in_part:
                return function(*args, **kwargs)
            self._in_part = True
            started = self._now()
            try:
                return function(*args, **kwargs)
            finally:
                self.seconds[part] += self._now() - started
                self._in_part = False

        setattr(owner, method, timed)

    def _now(self) -> float:
        if self.split:
            wait_for(self._device)
        return time.perf_counter()


class PlainSide:
    """The reference."""

    def __init__(
        self, workload: Workload, optimizee: Optimizee, dtype: torch.dtype = torch.float32, device: str = "cpu"
    ) -> None:
        """Make its networks, with the same φ as :class:`MetaOptSide`, and its meta-optimizer."""
        self._optimizee, self._num_problems, self._dtype = optimizee.to(device), workload.num_problems, dtype
        self._device = device
        assert workload.plain_loss is not None, f"there is no reference for {workload.name}"
        self._plain_loss = workload.plain_loss
        optimizer, layout = initial_optimizer(workload, optimizee, dtype), layout_of(optimizee)
        groups = {}
        for key in optimizer.networks:
            names = [n for n, g in zip(layout.names, layout.groups, strict=True) if key == g or not workload.by_group]
            groups[key] = (plain_lstm(optimizer, key).to(device), names)
        self.trainer = PlainMetaTrainer(groups, self.loss, self._sample_batch, LR)
        self.seconds: dict[str, float] = {}

    def start(self) -> None:
        """See :class:`Side`."""
        self._generators = [problem_generator(0, "train", index) for index in range(self._num_problems)]
        self._problem = self._stack(
            [self._optimizee.sample_problem("train", generator) for generator in self._generators]
        )
        params = self._stack([self._optimizee.init_params(generator) for generator in self._generators])
        self.trainer.start(params)

    def meta_step(self, num_steps: int) -> Tensor:
        """See :class:`Side`."""
        return self.trainer.meta_step(num_steps)

    def loss(self, params: TensorDict, batch: TensorDict) -> Tensor:
        """The loss of the one problem, [], or of all, [B]."""
        return self._plain_loss(params, self._problem, batch)

    def optimizee_step(self) -> Callable[[], object]:
        """A function that does no more than the optimizee's forward and backward, at θ_0 and on one mini-batch."""
        self.start()
        batch = self._sample_batch()
        params = {name: tensor.clone().requires_grad_() for name, tensor in self.trainer.params.items()}
        return lambda: torch.autograd.grad(self.loss(params, batch).sum(), list(params.values()))

    def _sample_batch(self) -> TensorDict:
        return self._stack([self._optimizee.sample_batch("train", generator) for generator in self._generators])

    def _stack(self, rows: list[TensorDict]) -> TensorDict:
        stacked = rows[0] if len(rows) == 1 else {name: torch.stack([row[name] for row in rows]) for name in rows[0]}
        return {
            name: tensor.to(self._device, self._dtype if tensor.is_floating_point() else None)
            for name, tensor in stacked.items()
        }


def initial_optimizer(workload: Workload, optimizee: Optimizee, dtype: torch.dtype) -> CoordinatewiseLSTM:
    """The learned optimizer with the φ that every side begins with."""
    optimizer = workload.make_optimizer()
    optimizer.build(layout_of(optimizee), problem_generator(0, "phi"))
    return optimizer.to(dtype)


def plain_lstm(optimizer: CoordinatewiseLSTM, key: str) -> PlainLSTM:
    """A network of ``optimizer`` in PyTorch's own modules."""
    network = optimizer.networks[key]
    size = optimizer.hidden_size
    plain = PlainLSTM(optimizer.num_layers, size, preprocess=optimizer.inputs == "log_sign").to(network.output_bias)
    input_gate, forget_gate, output_gate, candidate = torch.arange(4 * size).split(size)
    order = torch.cat([input_gate, forget_gate, candidate, output_gate])  # PyTorch's
    with torch.no_grad():
        for cell, weight, bias in zip(plain.cells, network.weights, network.biases, strict=True):
            cell.weight_ih.copy_(weight[order, :-size])
            cell.weight_hh.copy_(weight[order, -size:])
            cell.bias_ih.copy_(bias[order, 0])
            cell.bias_hh.zero_()
        plain.out.weight.copy_(network.output_weight)
        plain.out.bias.copy_(network.output_bias[0])
    return plain
