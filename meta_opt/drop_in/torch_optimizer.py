"""A trained learned optimizer as a ``torch.optim.Optimizer``, for use in anybody's training loop."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor

from meta_opt.drop_in.checks import as_number, check_gradient, check_loss, check_terms, checked_steps
from meta_opt.drop_in.chosen import Trained, choose
from meta_opt.drop_in.live_states import NamedState
from meta_opt.drop_in.loading import check_form, check_saved_group, fits
from meta_opt.drop_in.parameter_states import ParameterStates, Place, local
from meta_opt.drop_in.shards import check_shards
from meta_opt.errors import MetaOptError, shown
from meta_opt.optimizees.layout import depths_of, kind_of, matrices_in
from meta_opt.optimizers.contract import OptimizerNetwork
from meta_opt.optimizers.coordinatewise_lstm import CoordinatewiseLSTM, Engine
from meta_opt.optimizers.sharing import SharedNetworks
from meta_opt.saved.weights import hash_of

_KEPT = ("depths", "num_steps", "taken", "others", "weights")  # in groups, beside what the user chooses


class LearnedOptimizer(torch.optim.Optimizer):
    """Moves parameters by what a trained network makes of their gradients.

        g_t, h_{t+1} = m_φ(∇_t, h_t)        θ_{t+1} = θ_t + lr · g_t

    Example::

        optimizer = LearnedOptimizer(model.parameters(), pretrained="general_mlp")
        for inputs, targets in loader:
            optimizer.zero_grad()
            criterion(model(inputs), targets).backward()
            optimizer.step()

    With ``lr`` of 1, its default, the steps are those of meta-training. The network stays as it was trained: it is no
    parameter, and no part of the ``state_dict``. It computes in float32 (in float64 for parameters in float64), and the
    state stays so when the parameters are in less; ``torch.autocast`` changes nothing. Parameters without a gradient
    are not moved, and their state waits; where the network ties all parameters together (its scope is the problem),
    their gradient counts as zero. As elsewhere in ``torch.optim``, a gradient that is not finite is not looked for: it
    spoils its parameters.

    What is stepped at once depends on the scope of the network: all parameters (``problem``), or all of one network,
    device and type (``coordinate`` and ``tensor``). A state of few numbers per coordinate (40 per
    LSTM layer of 20, and two moments) is kept.

    A checkpoint may hold several networks, one per group or per tensor of the optimizee it was meta-trained on. Then
    each parameter group names its own: ``[{"params": convolutions, "network": "conv"}, ...]``. (Where there is one per
    kind of tensor, each parameter has that of its kind.) Networks that read where in the model a tensor is take the
    order of the parameters for it, or ``order``, where groups have another. Without ``order``, parameters that are
    added later count as the last of the model.

    Parameters may be DTensors (``fully_shard``) where the scope is ``coordinate``; each process then steps its shards.

    ``state`` and ``state_dict`` hold copies per parameter, made when they are looked at; of sharded parameters those of
    this process, so that each saves and loads its own.
    """

    def __init__(
        self,
        params: Iterable[Any],
        pretrained: str | OptimizerNetwork | Trained | None = None,
        *,
        checkpoint: str | Path | None = None,
        num_steps: int | None = None,
        lr: float = 1.0,
        engine: Engine = "auto",
        order: Iterable[Tensor] | None = None,
        optimizer_class: type[OptimizerNetwork] | None = None,
    ) -> None:
        """Load the network.

        Args:
            params: Parameters, named parameters, or parameter groups with ``lr`` and ``network`` of their own.
            pretrained: Name of a checkpoint that comes with meta-opt, or what you have trained yourself: a MetaLearner,
                or a learned optimizer, of which a copy is kept; this or ``checkpoint``.
            checkpoint: A checkpoint that ``meta-opt fit`` has written.
            num_steps: How many steps the training will have, for checkpoints that make something of it (``general``):
                updates then fall to zero over them. One that stops early stops with larger updates, one that goes on
                longer goes on with small ones. None: it is not known.
            lr: Factor of every update. Schedulers change it. Leave it at 1 for networks that measure curvature by how
                their own steps changed the gradient (subspace_lstm, ntm_bfgs, alpha_opt with a unit of secant).
            engine: What computes the network: native code if it can be had (auto), native code, or PyTorch.
            order: All parameters of the model in its order, ``model.parameters()``, for networks that read where a
                tensor is in it or how many there are, when groups bring the parameters in another, or other optimizers
                have some of them.
            optimizer_class: The class of the checkpoint's learned optimizer, where that is not an installed plugin.

        Raises:
            CheckpointError: If there is no such checkpoint, or it is not one of meta-opt's.
            MetaOptError: If an argument is out of range, a parameter is not real, a parameter is sharded over processes
                (FSDP, DTensor) and the network looks at more than single coordinates, or a group names no network of
                the checkpoint's although there are several.
        """
        if engine not in get_args(Engine):
            raise MetaOptError(f"engine must be one of {', '.join(get_args(Engine))}, not {engine!r}")
        chosen = choose(pretrained, checkpoint, optimizer_class)
        learned, title = chosen.network, chosen.title
        if engine != "auto":
            if not isinstance(learned, CoordinatewiseLSTM):
                raise MetaOptError(f"engine {engine}: {type(learned).__name__} has no engine to choose")
            learned.engine = engine
        num_steps = checked_steps(num_steps)
        if num_steps is not None and not learned.horizon:
            raise MetaOptError(
                f"num_steps {num_steps}: {title} makes nothing of it; leave it out, or choose another checkpoint"
            )
        self._networks = chosen.names or ["all"]
        self._by_kind = isinstance(learned, SharedNetworks) and learned.share == "kind"
        self._network = learned
        self._order = None if order is None else dict(_depths(list(order)))
        self._states = ParameterStates(learned)
        self._begun = False
        kept: dict[str, Any] = {
            "depths": None,
            "num_steps": num_steps,
            "taken": 0,
            "others": [],
            "weights": hash_of(learned),
        }
        super().__init__(params, {"lr": lr, "network": None, **kept})
        everything = _depths([param for group in self.param_groups for param in group["params"]])
        for group in self.param_groups:
            group["depths"] = [self._depth(param, next(everything)[1]) for param in group["params"]]
        self._num_matrices()
        self._begun = True

    @property
    def state(self) -> defaultdict[Tensor, Any]:
        """The state of each parameter that has been stepped: a dictionary of tensors."""
        return self._states.one_by_one

    @state.setter
    def state(self, states: defaultdict[Tensor, Any]) -> None:
        self._states.replace(states)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add parameters, with ``lr`` and ``network`` of their own.

        Raises:
            MetaOptError: As when the optimizer is made.
        """
        super().add_param_group({**param_group} if isinstance(param_group, dict) else param_group)
        group = self.param_groups[-1]
        of_another = isinstance(param_group, dict) and "weights" in param_group  # learned optimizer
        _list_once(group)
        try:
            if group["num_steps"] != self.defaults["num_steps"] and not of_another:
                raise MetaOptError("num_steps is one for all parameters: give it to the optimizer, not to a group")
            self._check_group(group)
        except BaseException:
            self.param_groups.pop()
            raise
        # Of another optimizer's group, its own are not ours.
        group |= {name: self.defaults[name] for name in _KEPT}
        if self._begun:
            group["depths"] = [self._depth(param, 1.0) for param in group["params"]]
            group |= {name: self.param_groups[0][name] for name in ("num_steps", "taken")}

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Take one step.

        Args:
            closure: Evaluates the loss, with its gradients, and returns it; of several processes the mean of theirs.
                Only learned optimizers that read the loss need it.

        Returns:
            What the closure returned.

        Raises:
            MetaOptError: If a gradient is sparse, a group asks for weight decay or for the maximum, shards of
                parameters and gradients do not go with the network or with each other, or the learned optimizer reads
                the loss and there is no closure; nothing is changed then.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        if loss is not None and "loss" in self._network.reads:
            check_loss(loss)
        reads_grad = "grad" in self._network.reads
        num_matrices = self._num_matrices()
        first = self.param_groups[0]
        self._states.num_steps, self._states.taken = first["num_steps"], first["taken"]
        rates: dict[Tensor, float] = {}
        places: dict[Tensor, Place] = {}
        for group in self.param_groups:
            check_terms(group)
            for param, depth in zip(group["params"], self._depths_of(group), strict=True):
                check_shards(param, self._network.scope)
                if (grad := param.grad) is not None:
                    check_gradient(param, grad)
                moves = grad is not None if reads_grad else param.requires_grad
                place = self._place(param, group["network"], depth, num_matrices)
                if moves:
                    rates[param] = float(group["lr"])
                if moves or (self._network.scope == "problem" and self._states.has_state(param)):
                    places[param] = place
        if rates and loss is None and "loss" in self._network.reads:
            raise MetaOptError(
                "this learned optimizer reads the loss: give step a closure that computes and returns it"
            )
        for bucket in self._states.buckets(places) if rates else ():
            moved = [
                (param, each) for param, each in zip(bucket.params, bucket.step(loss), strict=True) if param in rates
            ]
            updates = torch._foreach_mul([each for _, each in moved], [rates[param] for param, _ in moved])
            torch._foreach_add_([local(param) for param, _ in moved], updates)
        for group in self.param_groups:
            group["taken"] += 1
        return loss

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on where another optimizer stood, exactly.

        Raises:
            MetaOptError: If it is the state of another learned optimizer or none at all, or names networks that there
                are not; nothing is changed then.
            ValueError: If the parameter groups differ.
        """
        states: dict[Tensor, NamedState] = {}

        def take(_: torch.optim.Optimizer, incoming: dict[str, Any]) -> None:
            check_form(incoming)
            saved = incoming["param_groups"]
            if [len(group["params"]) for group in saved] != [len(group["params"]) for group in self.param_groups]:
                return  # super() says so
            # torch.optim would round the state to the type of the parameters.
            states.update(self._fitting(incoming))
            numbers = {number for group in saved for number in group["params"]}
            incoming["state"] = {key: value for key, value in incoming["state"].items() if key not in numbers}
            own = [{name: group[name] for name in _KEPT} for group in self.param_groups]
            incoming["param_groups"] = [known | group for known, group in zip(own, saved, strict=True)]

        def put(_: torch.optim.Optimizer) -> None:
            self.state.update(states)

        # Last before loading and first after it, so that it sees the other hooks' changes and they see its own.
        hooks = self.register_load_state_dict_pre_hook(take), self.register_load_state_dict_post_hook(put, prepend=True)
        try:
            super().load_state_dict(state_dict)
        finally:
            for hook in hooks:
                hook.remove()

    def __getstate__(self) -> dict[str, Any]:
        own = ("_networks", "_by_kind", "_network", "_order", "_states", "_begun")
        return {**super().__getstate__(), **{name: getattr(self, name) for name in own}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        rest = {name: value for name, value in state.items() if name != "state"}
        super().__setstate__(rest)
        self.state = defaultdict(dict, state["state"])  # a property, which super() would hide

    def _check_group(self, group: dict[str, Any]) -> None:
        if not 0.0 <= as_number(group["lr"]) < math.inf:
            raise MetaOptError(f"lr must be a number of at least 0, not {shown(group['lr'])}")
        if not isinstance(group["lr"], Tensor):
            group["lr"] = float(group["lr"])  # of NumPy's numbers torch.load(weights_only=True) takes none
        check_terms(group)
        for param in group["params"]:
            check_shards(param, self._network.scope)
            if not param.is_floating_point():
                raise MetaOptError(f"learned optimizers need real parameters, found one of {param.dtype}")
            if self._order is not None and param not in self._order:
                raise MetaOptError(f"order must be all parameters of the model, one of {tuple(param.shape)} is missing")
        if self._by_kind:
            if group["network"] is not None:
                raise MetaOptError(
                    f"the checkpoint has a network for each kind of tensor, {', '.join(self._networks)}; "
                    f"a parameter group cannot choose one, found {group['network']!r}"
                )
            if missing := sorted({kind_of(param.shape) for param in group["params"]} - set(self._networks)):
                raise MetaOptError(
                    f"the checkpoint has no network for a {missing[0]}; it has {', '.join(self._networks)}"
                )
            return
        if group["network"] is None and len(self._networks) == 1:
            group["network"] = self._networks[0]
        if group["network"] not in self._networks:
            found = "names none" if group["network"] is None else f"names {group['network']!r}"
            raise MetaOptError(
                f"each parameter group must name its network, found one that {found}; "
                f"the checkpoint has {', '.join(self._networks)}"
            )

    def _place(self, param: Tensor, network: str | None, depth: float, num_matrices: int) -> Place:
        return Place.of(param, network or kind_of(param.shape), depth, num_matrices)

    def _num_matrices(self) -> int:
        """How many matrices and filters of the model are trained, by this optimizer or another.

        Those of others are also frozen in turn, while it is this one's: what has been trained once counts. The places
        of these in the model are kept in the groups.
        """
        params = [param for group in self.param_groups for param in group["params"]]
        trained = [param for param in params if _is_trained(param)]
        if self._order is not None:
            own, seen = {*params}, {*self.param_groups[0]["others"]}
            others = {
                place: param
                for place, param in enumerate(self._order)
                if param not in own and (place in seen or _is_trained(param))
            }
            trained += others.values()
            for group in self.param_groups:
                group["others"] = [*others]
        return sum(matrices_in(param.shape)[0] > 0 for param in trained)

    def _depth(self, param: Tensor, otherwise: float) -> float:
        """The place of a parameter in the model."""
        return otherwise if self._order is None else self._order[param]

    def _depths_of(self, group: dict[str, Any]) -> list[float]:
        """The places of the parameters of a group; where there is an order, whatever the group has been loaded with."""
        if self._order is not None:
            return [self._order[param] for param in group["params"]]
        if len(group["params"]) != len(group["depths"]):
            raise MetaOptError("the parameters of a group stay those that it was made with; use add_param_group")
        depths: list[float] = group["depths"]
        return depths

    def _fitting(self, incoming: dict[str, Any]) -> dict[Tensor, NamedState]:
        """The states in a ``state_dict``, by parameter, in the type that the network computes in."""
        found: list[tuple[Tensor, int, Place, NamedState]] = []
        for group, saved in zip(self.param_groups, incoming["param_groups"], strict=True):
            if "network" not in saved:
                raise MetaOptError("this is not the state of a learned optimizer")
            if saved.get("weights", group["weights"]) != group["weights"]:
                raise MetaOptError(
                    "the state was saved by a learned optimizer with other weights; load it into the one that it was "
                    "saved from"
                )
            network = saved["network"]
            if network not in self._networks and not (self._by_kind and network is None):
                raise MetaOptError(
                    f"the state belongs to a network {network!r}; the checkpoint has {', '.join(self._networks)}"
                )
            check_saved_group(saved)
            depths = saved.get("depths") or group["depths"]
            for param, number, depth in zip(group["params"], saved["params"], depths, strict=True):
                if state := incoming["state"].get(number):
                    found.append((param, number, self._place(param, network, depth, self._num_matrices()), state))
        known = {param: place for param, _, place, state in found if not self._states.names(place).isdisjoint(state)}
        num_coordinates = sum(place.shape.numel() for place in known.values())
        widest = max((place.dtype for place in known.values()), key=lambda dtype: dtype.itemsize, default=None)
        states = {}
        for param, number, place, state in found:
            if self._network.scope == "problem" and widest:  # where all are stepped together
                place = place._replace(dtype=widest)
            expected = self._states.saved_like(place, num_coordinates) if param in known else {}
            if not all(fits(state.get(name), like) for name, like in expected.items()):
                raise MetaOptError(
                    f"the state of parameter {number} is not one of this learned optimizer's for a tensor of "
                    f"{tuple(param.shape)}; load it into the one that it was saved from, by the same version"
                )
            states[param] = {
                name: value.to(expected.get(name, param.device)) if isinstance(value, Tensor) else value
                for name, value in state.items()
            }
        return states


def _list_once(group: dict[str, Any]) -> None:
    """Take out parameters that a group lists again, as tied weights may be: each is one tensor of the model."""
    first = {param: index for index, param in reversed([*enumerate(group["params"])])}
    for name in ("params", "param_names"):
        if name in group:
            group[name] = [group[name][index] for index in sorted(first.values())]


def _is_trained(param: Tensor) -> bool:
    return param.requires_grad or param.grad is not None


def _depths(params: Sequence[Tensor]) -> Iterator[tuple[Tensor, float]]:
    """Each parameter with its place in the model, if these are all of it in order."""
    return zip(params, depths_of(len(params)), strict=True)
