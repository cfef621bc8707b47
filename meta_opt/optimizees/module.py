"""An ordinary ``nn.Module`` and a data set as an optimizee."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Generator, Tensor, nn
from torch.func import functional_call
from torch.nn.functional import cross_entropy
from torch.nn.modules.module import register_module_parameter_registration_hook

from meta_opt import memory
from meta_opt.errors import OptimizeeError
from meta_opt.messages import clipped
from meta_opt.optimizees.contract import Optimizee, Split, TensorDict

Examples = tuple[Tensor, Tensor]
"""Inputs [n, ...] and targets [n, ...]."""

_COPIES = 4  # of a parameter, at least: the module, θ_0 and its gradient, and another θ
_DROPOUT = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout)


class ModuleOptimizee(Optimizee):
    """Training an ``nn.Module`` on mini-batches of a data set.

    A plugin is a subclass that hands over a function that makes the module, and the data. The arguments of its
    constructor become command-line options::

        class TwoMoons(ModuleOptimizee):
            \"\"\"A small network on two moons.\"\"\"

            def __init__(self, hidden_size: int = 8) -> None:
                x, y = two_moons()
                super().__init__(
                    partial(network, hidden_size),  # a lambda could not be pickled
                    train=(x[:800], y[:800]), validation=(x[800:900], y[800:900]), test=(x[900:], y[900:]),
                )

    Problems differ in θ_0 and in their mini-batches. The data lies on the device as one tensor, and a mini-batch is
    a gather of examples drawn with replacement. Integer targets are taken for class indices: the metric
    ``accuracy`` is logged for them.

    The module has to be a pure function of its parameters and inputs: no buffers (running statistics), no dropout.
    """

    def __init__(
        self,
        module: Callable[[], nn.Module],
        *,
        train: Examples,
        validation: Examples,
        test: Examples,
        batch_size: int = 128,
        init_std: float | None = None,
        criterion: Callable[[Tensor, Tensor], Tensor] = cross_entropy,
    ) -> None:
        """Keep the data in one piece, and one module to call with whatever parameters come.

        Args:
            module: Makes the module; called again for every θ_0 when ``init_std`` is None.
            train: Examples of training problems.
            validation: Examples of validation problems.
            test: Examples of test problems.
            batch_size: Examples in a mini-batch.
            init_std: Standard deviation of θ_0, weights and biases alike; None leaves the module's own initialization.
            criterion: Loss, [], of the module's outputs and the targets.

        Raises:
            OptimizeeError: If a number is out of range, the data does not fit together, or the module is not pure.
        """
        if batch_size < 1:
            raise OptimizeeError(f"optimizee.batch_size must be at least 1, not {batch_size}")
        if init_std is not None and not 0 <= init_std < math.inf:
            raise OptimizeeError(f"optimizee.init_std must be a number of at least 0, not {init_std}")
        self._batch_size = batch_size
        self._criterion = criterion
        self._ranges = _ranges({"train": train, "validation": validation, "test": test})
        # Tensors that are attributes of their own, which is what Optimizee.to moves.
        self.inputs, self.targets = (torch.cat(parts) for parts in zip(train, validation, test, strict=True))
        self._use(module, init_std)

    def with_module(self, module: Callable[[], nn.Module], init_std: float | None) -> ModuleOptimizee:
        """Another module on the same data, without copying it; arguments as for the constructor."""
        other = copy.copy(self)
        other._use(module, init_std)
        return other

    def with_examples(self, num_examples: int, generator: Generator) -> ModuleOptimizee:
        """The same on ``num_examples`` neighbouring examples of each split, or all if it has fewer; nothing is copied.

        Args:
            num_examples: At least 1.
            generator: Draws where they begin.
        """
        other = copy.copy(self)
        other._ranges = {split: _part_of(indices, num_examples, generator) for split, indices in self._ranges.items()}
        return other

    def _use(self, module: Callable[[], nn.Module], init_std: float | None) -> None:
        self._module = module
        self._init_std = init_std
        with _fitting():
            self._skeleton = self._build(Generator().manual_seed(0))
        _check_pure(self._skeleton)
        # functional_call looks for tied parameters anew in every call, unless it is told that there are none.
        self._tied = _num_parameters(self._skeleton, tied=True) > _num_parameters(self._skeleton, tied=False)
        self.vmappable = not any(isinstance(part, nn.RNNBase | nn.RNNCellBase) for part in self._skeleton.modules())

    def examples(self, split: Split) -> Examples:
        """The inputs and targets that mini-batches of ``split`` are drawn from."""
        indices = self._ranges[split]
        return self.inputs[indices.start : indices.stop], self.targets[indices.start : indices.stop]

    def init_params(self, generator: Generator) -> TensorDict:
        """θ_0: normal with standard deviation ``init_std``, or as the module's constructor leaves it."""
        if self._init_std is None:
            module = self._build(generator)
            return {name: parameter.detach() for name, parameter in module.named_parameters()}
        return {
            name: torch.randn(parameter.shape, generator=generator).mul_(self._init_std)
            for name, parameter in self._skeleton.named_parameters()
        }

    def sample_batch(self, split: Split, generator: Generator) -> TensorDict:
        """A mini-batch of ``split``, drawn with replacement."""
        indices = self._ranges[split]
        drawn = torch.randint(indices.start, indices.stop, (self._batch_size,), generator=generator)
        drawn = drawn.to(self.inputs.device)
        return {"inputs": self.inputs.index_select(0, drawn), "targets": self.targets.index_select(0, drawn)}

    def loss(self, params: TensorDict, problem: TensorDict, batch: TensorDict) -> Tensor:
        """The criterion at the module's outputs on the mini-batch."""
        return self._criterion(self._forward(params, batch), batch["targets"])

    def metrics(self, params: TensorDict, problem: TensorDict, batch: TensorDict) -> TensorDict:
        """The accuracy on the mini-batch, if targets are classes, [n, ...], and outputs are [n, classes, ...]."""
        targets = batch["targets"]
        if targets.is_floating_point() or targets.dtype is torch.bool:
            return {}
        scores = self._forward(params, batch)
        if not _are_scores(scores, targets.shape):
            return {}
        from torchmetrics.functional.classification import multiclass_accuracy  # a second, and not always wanted

        return {"accuracy": multiclass_accuracy(scores, targets, scores.shape[1], average="micro", validate_args=False)}

    def _forward(self, params: TensorDict, batch: TensorDict) -> Tensor:
        return functional_call(self._skeleton, params, (batch["inputs"],), tie_weights=self._tied)

    def _build(self, generator: Generator) -> nn.Module:
        # Modules initialize themselves from the global generator: let it go on from where ours stands, for the CPU
        # only, where they are made. (torch.manual_seed would seed every GPU as well, and not be undone.)
        with torch.random.fork_rng(devices=[]), torch.device("cpu"):
            torch.default_generator.set_state(generator.get_state())
            module = self._module()
            generator.set_state(torch.default_generator.get_state())
        return module


def _are_scores(outputs: object, shape: torch.Size) -> bool:
    """Whether outputs can only be scores of classes, along their second axis, for targets of this shape."""
    if not isinstance(outputs, Tensor) or outputs.dim() != len(shape) + 1 or outputs.shape[1] < 2:
        return False
    last_too = len(shape) > 1 and outputs.shape[:-1] == shape  # or along their last
    return outputs.shape[:1] + outputs.shape[2:] == shape and not last_too


@contextmanager
def _fitting() -> Iterator[None]:
    """A context in which a module that is too large is refused before it is filled.

    Raises:
        ShortageError: If a module and θ_0 need more memory than there is.
    """

    def count(module: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        if parameter is not None:
            size = parameter.numel() * parameter.element_size()
            memory.check(_COPIES * size, f"modules whose {name} has {parameter.numel()} parameters")

    hook = register_module_parameter_registration_hook(count)
    try:
        yield
    finally:
        hook.remove()


def _ranges(splits: dict[Split, Examples]) -> dict[Split, range]:
    """Where the examples of each split lie once they are put one behind the other."""
    ranges: dict[Split, range] = {}
    start = 0
    for split, (inputs, targets) in splits.items():
        if len(inputs) == 0 or len(inputs) != len(targets):
            raise OptimizeeError(f"the {split} data has {len(inputs)} inputs and {len(targets)} targets")
        ranges[split] = range(start, start + len(inputs))
        start += len(inputs)
    for what, tensors in zip(("inputs", "targets"), zip(*splits.values(), strict=True), strict=True):
        if len({tensor.shape[1:] for tensor in tensors}) > 1:
            shapes = ", ".join(str([*tensor.shape]) for tensor in tensors)
            raise OptimizeeError(f"the {what} of {', '.join(splits)} have examples of different shapes: {shapes}")
    return ranges


def _part_of(indices: range, length: int, generator: Generator) -> range:
    """A range of this length within ``indices``, beginning anywhere."""
    length = min(length, len(indices))
    start = indices.start + int(torch.randint(len(indices) - length + 1, (), generator=generator))
    return range(start, start + length)


def _check_pure(module: nn.Module) -> None:
    if frozen := [name for name, parameter in module.named_parameters() if not parameter.requires_grad]:
        raise OptimizeeError(
            f"the module has frozen parameters ({clipped(', '.join(frozen))}), and all parameters of an optimizee are "
            "optimized: compute what does not change beforehand, as its inputs"
        )
    if buffers := [name for name, _ in module.named_buffers()]:
        raise OptimizeeError(
            f"the module has buffers ({', '.join(buffers)}), which its loss could not be a pure function of: "
            "do without, for batch normalization with track_running_stats=False"
        )
    for name, part in module.named_modules():
        # Dropout layers keep their probability in p, recurrent and attention layers in dropout.
        dropout = getattr(part, "p" if isinstance(part, _DROPOUT) else "dropout", None)
        if isinstance(dropout, float | int) and dropout > 0:
            raise OptimizeeError(
                f"the module drops out at random ({name or type(part).__name__}), which its loss could not be a pure "
                "function of: set dropout to 0"
            )
    if not any(True for _ in module.parameters()):
        raise OptimizeeError("the module has no parameters to optimize")


def _num_parameters(module: nn.Module, *, tied: bool) -> int:
    return len(list(module.named_parameters(remove_duplicate=not tied)))
