"""A learned optimizer in the drop-in: states that are cut, joined, saved and copied, whatever has a gradient."""

from __future__ import annotations

import copy
import io
import tempfile
from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor, nn

from meta_opt.drop_in.torch_optimizer import LearnedOptimizer
from meta_opt.optimizees.layout import Layout, kind_of
from meta_opt.optimizees.problems import Evaluation
from meta_opt.optimizers.contract import OptimizerNetwork
from meta_opt.optimizers.sharing import SharedNetworks
from meta_opt.testing.given import LAYOUT, Valleys, add_noise, close, draw_evaluations

_ALL = range(len(LAYOUT.names))
_EVALUATIONS = [  # of gradients that every type can hold
    Evaluation(each.loss, each.grad.bfloat16().double(), each.params.bfloat16().double())
    for each in draw_evaluations(1)
]


def steps_of_the_drop_in(optimizer: OptimizerNetwork) -> None:
    """The drop-in moves parameters as ``step`` moves θ that holds all of them."""
    used = _Used(optimizer)
    names = tuple(used.network_of(index) or kind_of(LAYOUT.shapes[index]) for index in _ALL)
    layout = Layout(names, LAYOUT.shapes, names)
    network = copy.deepcopy(used.optimizer._network).double()
    state, found, expected = network.init_state(layout, 1), [], []
    with torch.no_grad():
        for each in _EVALUATIONS:
            theta = torch.cat([param.flatten() for param in used.params]).unsqueeze(0)
            update, state, _ = network.step(Evaluation(each.loss, each.grad, theta), state)
            expected.append(update[0])
            found.append(torch.cat([part.flatten() for part in used.step(each)]))
    assert close(torch.stack(found), torch.stack(expected)), (
        f"{type(optimizer).__name__} moves parameters in the drop-in otherwise than θ that holds all of them: an "
        f"update may depend on nothing beyond its scope, the {optimizer.scope}, not even on how much else there is"
    )


def states_of_parameters(optimizer: OptimizerNetwork) -> None:
    """Cutting the state into those of parameters and joining it again, or autocast, changes nothing."""
    name, ends = type(optimizer).__name__, []
    for look, autocast in ((False, False), (True, False), (False, True)):
        used = _Used(optimizer, [torch.float32] * len(_ALL))
        for each in _EVALUATIONS:
            with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
                used.step(each)
            if look:
                assert set(used.optimizer.state) == set(used.params)
        ends.append(used.params)
    plain, cut, under_autocast = ends
    assert _equal(under_autocast, plain), f"{name}: torch.autocast around a step of the drop-in changes it"
    assert _equal(cut, plain), (
        f"{name}: a state that is cut into those of parameters and joined again gives other updates: see axis"
    )


def saved_states(optimizer: OptimizerNetwork) -> None:
    """What is saved and loaded, or copied, goes on as if nothing had been, also after a gradient was missing."""
    if not optimizer.any_layout:
        return
    name, used, undisturbed = type(optimizer).__name__, _Used(optimizer), _Used(optimizer)
    for number, each in enumerate(_EVALUATIONS[:3]):
        for one in (used, undisturbed):
            one.step(each, without=[1] if number == 1 else ())
    copied = copy.deepcopy(used)
    saved, loaded = io.BytesIO(), _Used(optimizer)
    torch.save(used.optimizer.state_dict(), saved)
    saved.seek(0)
    loaded.move_to(used)
    loaded.optimizer.load_state_dict(torch.load(saved, weights_only=True))
    for each in _EVALUATIONS[3:]:
        for one in (used, undisturbed, copied, loaded):
            one.step(each)
    assert _equal(copied.params, used.params), f"{name}: a deep copy of the drop-in goes on otherwise"
    assert _equal(loaded.params, undisturbed.params), (
        f"{name}: a drop-in that loads the state of another goes on otherwise: what is remembered must be tensors of "
        "the state"
    )


def missing_gradients(optimizer: OptimizerNetwork) -> None:
    """A parameter without a gradient stays, and its state waits; beyond the scope nobody sees it.

    Where the scope is the problem, its gradient counts as zero.
    """
    if "grad" not in optimizer.reads:
        return
    name, whole, used, other = type(optimizer).__name__, _Used(optimizer), _Used(optimizer), _Used(optimizer)
    for number, each in enumerate(_EVALUATIONS):
        skipped = number == 2
        expected = whole.step(each)
        if optimizer.scope == "problem":
            zero = each.grad.clone()
            zero[:, LAYOUT.sizes[0] : -LAYOUT.sizes[2]] = 0.0
            expected = other.step(Evaluation(each.loss, zero, each.params) if skipped else each)
            if skipped:
                other.params[1].data.copy_(used.params[1])  # which is not moved
        elif not skipped:
            expected[1] = other.step(each, without=[0, 2])[1]
        found = used.step(each, without=[1] if skipped else ())
        if skipped:
            assert not found[1].any(), f"{name} moves a parameter that has no gradient"
            expected[1] = found[1]
        assert all(map(close, found, expected)), (
            f"{name}: in the drop-in a gradient that is missing for one step changes more than it may: its scope is "
            f"the {optimizer.scope}"
        )


def several_types(optimizer: OptimizerNetwork) -> None:
    """Parameters of several types are moved as those of one, and no state is in less than float32."""
    name, plain = type(optimizer).__name__, _Used(optimizer)
    mixed = _Used(optimizer, [torch.float64, torch.float32, torch.bfloat16])
    for each in _EVALUATIONS:
        for found, expected in zip(mixed.step(each)[:2], plain.step(each)[:2], strict=True):
            fits = (found - expected).norm() <= 0.01 * expected.norm() + 1e-6
            assert fits, f"{name} moves parameters of several types otherwise than those of float64"
    for state in mixed.optimizer.state.values():
        for key, tensor in state.items():
            exact = not tensor.is_floating_point() or tensor.dtype in (torch.float32, torch.float64)
            assert exact, f"{name} keeps {key} of a parameter's state in {tensor.dtype}"


def added_parameters(optimizer: OptimizerNetwork) -> None:
    """Parameters that are added begin as any others, beyond the scope nobody sees them, and they are saved."""
    if not optimizer.any_layout:
        return
    name = type(optimizer).__name__
    plain, used, alone = _Used(optimizer, only=[0, 1]), _Used(optimizer, only=[0, 1]), _Used(optimizer)
    for number, each in enumerate(_EVALUATIONS):
        if number == 3:
            used.add(2)
            alone.move_to(used)
        expected, found = plain.step(each), used.step(each)
        if number >= 3:
            expected.append(alone.step(each)[2])  # which begins with all others
            assert found[2].isfinite().all(), f"{name} moves a parameter that was added by what is not finite"
        assert optimizer.scope == "problem" or all(map(close, found, expected)), (
            f"{name}: in the drop-in a parameter that is added changes more than it may, or begins otherwise than "
            f"others do: its scope is the {optimizer.scope}"
        )
    loaded = _Used(optimizer, only=[0, 1])
    loaded.add(2)
    loaded.move_to(used)
    loaded.optimizer.load_state_dict(used.optimizer.state_dict())
    for each in _EVALUATIONS[:2]:
        used.step(each)
        loaded.step(each)
    assert _equal(loaded.params, used.params), f"{name}: the state of a parameter that was added is not saved"


class _Used:
    """The drop-in with a copy of an optimizer, and parameters of the layout, in float64 but where types are given."""

    def __init__(
        self, optimizer: OptimizerNetwork, types: Iterable[torch.dtype] | None = None, only: Iterable[int] = _ALL
    ) -> None:
        from meta_opt.meta_training.meta_learner import MetaLearner  # which takes seconds

        network = copy.deepcopy(optimizer)
        module = MetaLearner(Valleys(), network)
        add_noise(network)
        content = {"state_dict": module.state_dict()}
        module.on_save_checkpoint(content)
        self._networks: list[str] | None = ["all"]  # None where there is one for each kind of tensor
        if isinstance(network, SharedNetworks):
            self._networks = None if network.share == "kind" else network.network_names(LAYOUT)
        self.types = list(types or [torch.float64] * len(_ALL))
        self.indices = list(only)
        self.params = [self._param(index) for index in self.indices]
        groups = [self._group(index, param) for index, param in zip(self.indices, self.params, strict=True)]
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "optimizer.ckpt"
            torch.save(content, path)
            self.optimizer = LearnedOptimizer(groups, checkpoint=path, optimizer_class=type(optimizer))

    def network_of(self, index: int) -> str | None:
        """Which network moves a parameter; None where its kind says so."""
        return None if self._networks is None else self._networks[0]

    def add(self, index: int) -> None:
        """Add a parameter."""
        self.indices.append(index)
        self.params.append(self._param(index))
        self.optimizer.add_param_group(self._group(index, self.params[-1]))

    def move_to(self, other: _Used) -> None:
        """Give parameters the values that they have there."""
        there = dict(zip(other.indices, other.params, strict=True))
        with torch.no_grad():
            for index, param in zip(self.indices, self.params, strict=True):
                param.copy_(there[index])

    def step(self, evaluation: Evaluation, without: Iterable[int] = ()) -> list[Tensor]:
        """What a step moves each parameter by, in float64, where these parameters have no gradient."""
        before = [param.detach().clone() for param in self.params]
        grads = list(evaluation.grad[0].split(LAYOUT.sizes))
        for index, param in zip(self.indices, self.params, strict=True):
            param.grad = None if index in without else grads[index].view_as(param).to(param.dtype)
        self.optimizer.step(lambda: evaluation.loss[0])
        return [param.detach().double() - start.double() for param, start in zip(self.params, before, strict=True)]

    def _param(self, index: int) -> nn.Parameter:
        values = _EVALUATIONS[0].params[0].split(LAYOUT.sizes)[index].view(LAYOUT.shapes[index])
        return nn.Parameter(values.to(self.types[index], copy=True))

    def _group(self, index: int, param: nn.Parameter) -> dict[str, object]:
        return {"params": [param], "network": self.network_of(index)}


def _equal(one: list[nn.Parameter], other: list[nn.Parameter]) -> bool:
    return all(map(torch.equal, one, other))
