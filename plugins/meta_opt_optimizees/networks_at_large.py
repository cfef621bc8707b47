"""Networks of many kinds on little data: what a learned optimizer for whatever network is trained on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal, TypeVar, get_args

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional

from meta_opt.api import ModuleOptimizee, Optimizee, OptimizeeError, OptimizeeFamily
from meta_opt_optimizees import drawn_data as data
from meta_opt_optimizees import drawn_modules as modules
from meta_opt_optimizees.drawn_data import Data
from meta_opt_optimizees.drawn_modules import ACTIVATIONS, Cell, Init, Norm
from meta_opt_optimizees.small_mlps import log_uniform

Kind = Literal[
    "mlp", "conv_net", "autoencoder", "regression", "recurrent", "attention", "window", "factors", "linear", "lone"
]
_OFTEN: dict[Kind, float] = {"mlp": 3.0, "conv_net": 2.0, "recurrent": 1.5, "attention": 1.5}  # others 1
_NORMS: tuple[Norm, ...] = get_args(Norm)
_INITS: tuple[Init, ...] = get_args(Init)
_CELLS: tuple[Cell, ...] = ("gru", "gru", "lstm", "rnn")
_PARTS = 0.8, 0.9  # where the examples of training end, and those of validation
Choice = TypeVar("Choice")
Criterion = Callable[[Tensor, Tensor], Tensor]


class NetworksAtLarge(OptimizeeFamily):
    """Small networks of ten kinds, on digits and text that ship with this package, and on data drawn at random.

    Multilayer perceptrons, convolution nets, autoencoders, regressions, recurrent networks and transformers for text,
    embeddings with a small network, factors of ratings, linear classifiers, and a lone vector. Depth, width,
    activation and normalization are drawn, the batch size, and how many examples there are; the loss is multiplied by a
    number from 0.01 to 100, and in one half of the problems, whose initialization is drawn too, inputs by one from 1/3
    to 3 and θ_0 of matrices and filters by one from 1/2 to 2, all log-uniform (after the augmentations of Metz et al.
    2022, arXiv:2211.09760). The other half begins as PyTorch's modules do. No download is needed.

    Test problems are other draws, of the same digits and the same text: what is compared on them is not how anything
    does on data that meta-training has not met.
    """

    def __init__(self, kinds: Sequence[Kind] | None = None) -> None:
        """Choose from which kinds to draw.

        Args:
            kinds: Which; null for all.

        Raises:
            OptimizeeError: If there are none.
        """
        if kinds is not None and not kinds:
            raise OptimizeeError("optimizee.kinds must name at least one kind, or be null for all")
        self._kinds: tuple[Kind, ...] = get_args(Kind) if kinds is None else tuple(kinds)
        self._device: torch.device | str = "cpu"

    def to(self, device: torch.device | str) -> Optimizee:
        """Draw variants on ``device`` from now on."""
        self._device = device
        return self

    def variant(self, generator: Generator) -> Optimizee:
        """Draw kind, data and network."""
        often = torch.tensor([_OFTEN.get(kind, 1.0) for kind in self._kinds])
        kind = self._kinds[int(torch.multinomial(often, 1, generator=generator))]
        drawn, module, criterion = _DRAW[kind](generator)
        usual = _coin(generator)
        if drawn.inputs.is_floating_point() and not usual:
            module = partial(_scaled, module, log_uniform(1 / 3, 3.0, generator))
        if not usual:
            init = "module" if kind in _OWN_INIT else _one_of(_INITS, generator)
            module = partial(_initialized, module, init, log_uniform(0.5, 2.0, generator))
        criterion = partial(_times, criterion, log_uniform(0.01, 100.0, generator))
        batch_size = round(log_uniform(8 if kind in _OF_TEXT else 16, 24 if kind in _OF_TEXT else 128, generator))
        first, second = (round(part * len(drawn.inputs)) for part in _PARTS)
        examples = [(drawn.inputs[part], drawn.targets[part]) for part in _cuts(first, second)]
        train, validation, test = examples
        optimizee = ModuleOptimizee(
            module, train=train, validation=validation, test=test, batch_size=batch_size, criterion=criterion
        )
        return optimizee.to(self._device)

    @classmethod
    def recommended_settings(cls) -> dict[str, Any]:
        """Long unrolls of a small network that knows how long the run is, on top of steps that transfer."""
        return {
            "model.num_steps": 100,
            "model.max_num_steps": 500,
            "model.num_validation_steps": 200,
            "model.unroll_length": 100,
            "model.meta_loss": "log_mean",
            "model.lr": 0.004,
            "model.lr_schedule": "cosine",
            "model.normalize_gradient": True,
            "model.average_decay": 0.9,
            "model.episodes_per_epoch": 75,
            "model.num_validation_problems": 6,
            "trainer.max_epochs": 4,
            "optimizer.num_layers": 1,
            "optimizer.hidden_size": 8,
            "optimizer.inputs": "log_sign+moments+scales+orthogonal",
            "optimizer.output": "magnitude",
            "optimizer.output_scale": 0.08,
            "optimizer.initial_output": 0.1,
            "optimizer.base_step": 0.08,
            "optimizer.anneal_after": 1000,
            "optimizer.share": "kind",
            "optimizer.tensor_features": True,
            "optimizer.spectral": True,
            "optimizer.agreement": 0.5,
            "optimizer.horizon": True,
        }


Drawn = tuple[Data, Callable[[], nn.Module], Criterion]


def _mlp(generator: Generator) -> Drawn:
    drawn = _images_or_clusters(generator)
    sizes = (drawn.inputs[0].numel(), *_widths(4, 8, 256, generator), drawn.num_outputs)
    module = partial(modules.mlp, sizes, _one_of(ACTIVATIONS, generator), _one_of(_NORMS, generator))
    return drawn, module, functional.cross_entropy


def _conv_net(generator: Generator) -> Drawn:
    if _coin(generator):
        drawn = data.digits(generator)
    else:
        size, num_classes = _between(6, 10, generator), _between(2, 10, generator)
        drawn = data.patterns(_between(1, 3, generator), size, num_classes, generator)
    channels = _widths(3, 4, 32, generator)
    activation, norm = _one_of(ACTIVATIONS, generator), _one_of(_NORMS, generator)
    module = partial(modules.conv_net, drawn.inputs.shape[1], channels, drawn.num_outputs, activation, norm)
    return drawn, module, functional.cross_entropy


def _autoencoder(generator: Generator) -> Drawn:
    drawn = _images_or_clusters(generator)
    flat = drawn.inputs.flatten(1)
    outer, inner = _widths(2, 16, 128, generator), round(log_uniform(2, 16, generator))
    sizes = (flat.shape[1], *outer, inner, *outer[::-1], flat.shape[1])
    module = partial(modules.mlp, sizes, _one_of(ACTIVATIONS, generator), "none")
    return Data(flat, flat, flat.shape[1]), module, functional.mse_loss


def _regression(generator: Generator) -> Drawn:
    drawn = data.functions(_between(1, 20, generator), _between(1, 4, generator), generator)
    sizes = (drawn.inputs.shape[1], *_widths(3, 8, 64, generator), drawn.num_outputs)
    module = partial(modules.mlp, sizes, _one_of(ACTIVATIONS, generator), _one_of(("none", "none", "layer"), generator))
    return drawn, module, functional.mse_loss


def _recurrent(generator: Generator) -> Drawn:
    drawn = data.text(_between(8, 16, generator), generator)
    cell, width = _one_of(_CELLS, generator), round(log_uniform(8, 24, generator))
    size = round(log_uniform(12, 40, generator))
    return drawn, partial(modules.Recurrent, cell, drawn.num_outputs, width, size), functional.cross_entropy


def _attention(generator: Generator) -> Drawn:
    length = _between(8, 16, generator)
    drawn = data.text(length, generator)
    heads = _between(1, 4, generator)
    width = heads * max(4, round(log_uniform(12, 32, generator) / heads))
    layers = _between(1, 2, generator)
    module = partial(modules.Attention, drawn.num_outputs, length, layers, heads, width)
    return drawn, module, functional.cross_entropy


def _window(generator: Generator) -> Drawn:
    length = _between(2, 6, generator)
    drawn = data.text(length, generator)
    width, size = round(log_uniform(4, 24, generator)), round(log_uniform(16, 96, generator))
    module = partial(modules.Window, drawn.num_outputs, length, width, size, _one_of(ACTIVATIONS, generator))
    return Data(drawn.inputs, drawn.targets[:, -1], drawn.num_outputs), module, functional.cross_entropy


def _factors(generator: Generator) -> Drawn:
    drawn = data.ratings(_between(20, 200, generator), _between(20, 100, generator), generator)
    return drawn, partial(modules.Factors, drawn.num_outputs, _between(2, 16, generator)), functional.mse_loss


def _linear(generator: Generator) -> Drawn:
    drawn = _images_or_clusters(generator)
    return (
        drawn,
        partial(modules.mlp, (drawn.inputs[0].numel(), drawn.num_outputs), "relu", "none"),
        functional.cross_entropy,
    )


def _lone(generator: Generator) -> Drawn:
    drawn = data.plane(round(log_uniform(2, 100, generator)), generator)
    return drawn, partial(modules.Lone, drawn.inputs.shape[1]), functional.mse_loss


_DRAW: dict[Kind, Callable[[Generator], Drawn]] = {
    "mlp": _mlp,
    "conv_net": _conv_net,
    "autoencoder": _autoencoder,
    "regression": _regression,
    "recurrent": _recurrent,
    "attention": _attention,
    "window": _window,
    "factors": _factors,
    "linear": _linear,
    "lone": _lone,
}
_OF_TEXT: frozenset[Kind] = frozenset({"recurrent", "attention"})
_OWN_INIT: frozenset[Kind] = frozenset({"recurrent", "attention", "window", "factors", "lone"})  # of embeddings


def _images_or_clusters(generator: Generator) -> Data:
    if _coin(generator):
        return data.digits(generator)
    return data.clusters(round(log_uniform(4, 100, generator)), _between(2, 20, generator), generator)


def _scaled(module: Callable[[], nn.Module], scale: float) -> nn.Module:
    return modules.Scaled(module(), scale)


def _initialized(module: Callable[[], nn.Module], init: Init, scale: float) -> nn.Module:
    return modules.initialized(module(), init, scale)


def _times(criterion: Criterion, scale: float, outputs: Tensor, targets: Tensor) -> Tensor:
    return scale * criterion(outputs, targets)


def _cuts(first: int, second: int) -> tuple[slice, slice, slice]:
    return slice(first), slice(first, second), slice(second, None)


def _widths(most: int, smallest: int, largest: int, generator: Generator) -> tuple[int, ...]:
    """Widths of some layers, log-uniform, independent of each other."""
    return tuple(round(log_uniform(smallest, largest, generator)) for _ in range(_between(1, most, generator)))


def _between(first: int, last: int, generator: Generator) -> int:
    return int(torch.randint(first, last + 1, (), generator=generator))


def _coin(generator: Generator) -> bool:
    return float(torch.rand((), generator=generator)) < 0.5


def _one_of(choices: Sequence[Choice], generator: Generator) -> Choice:
    return choices[_between(0, len(choices) - 1, generator)]
