"""Which learned optimizer parameters are stepped with: one of a checkpoint, or one that has been trained here."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

from meta_opt.errors import MetaOptError, shown
from meta_opt.optimizees.layout import Layout
from meta_opt.optimizers.checking import check_built
from meta_opt.optimizers.contract import OptimizerNetwork
from meta_opt.optimizers.sharing import SharedNetworks
from meta_opt.saved.pretrained import pretrained_path
from meta_opt.saved.recipes import check_class, load_optimizer, read_recipe


@runtime_checkable
class Trained(Protocol):
    """What has trained a learned optimizer: a :class:`~meta_opt.MetaLearner`."""

    @property
    def trained(self) -> OptimizerNetwork:
        """The learned optimizer."""

    @property
    def layout(self) -> Layout:
        """What its weights were made for."""


class Chosen(NamedTuple):
    """A learned optimizer, frozen and on the CPU.

    Attributes:
        network: It, to be used by nobody else.
        names: Of its networks, if it shares them.
        title: What it is called in messages.
    """

    network: OptimizerNetwork
    names: list[str]
    title: str


def choose(
    pretrained: str | OptimizerNetwork | Trained | None,
    checkpoint: str | Path | None,
    optimizer_class: type[Any] | None,
) -> Chosen:
    """The learned optimizer that is meant, see :class:`~meta_opt.LearnedOptimizer`.

    Raises:
        CheckpointError: If there is no such checkpoint, or it is not one of meta-opt's.
        MetaOptError: If it is not said, or cannot be used.
    """
    if isinstance(pretrained, str) and pretrained.endswith(".ckpt"):
        raise MetaOptError(f"pretrained is a name; give the path {pretrained} as checkpoint")
    if checkpoint is not None and not isinstance(checkpoint, str | Path):
        raise MetaOptError(f"checkpoint is a path; give {shown(checkpoint)} as pretrained")
    if (pretrained is None) == (checkpoint is None):
        raise MetaOptError("give either pretrained, a name or what you have trained, or checkpoint, a path")
    if pretrained is not None and not isinstance(pretrained, str):
        network, names = _copy(pretrained)
        return Chosen(network, names, type(network).__name__)
    path = Path(checkpoint) if checkpoint is not None else pretrained_path(str(pretrained))
    recipe = read_recipe(path)
    check_class("optimizer_class", optimizer_class, [recipe])
    learned = load_optimizer(path, optimizer_class)
    return Chosen(
        learned, learned.network_names(recipe.layout) if isinstance(learned, SharedNetworks) else [], path.stem
    )


def _copy(trained: OptimizerNetwork | Trained) -> tuple[OptimizerNetwork, list[str]]:
    """A copy of a learned optimizer, frozen and on the CPU, and the names of its networks, if it shares them."""
    network = trained.trained if isinstance(trained, Trained) else trained
    if not isinstance(network, OptimizerNetwork):
        raise MetaOptError(
            "pretrained must be the name of a checkpoint that comes with meta-opt, a MetaLearner or a learned "
            f"optimizer, not {type(network).__name__}"
        )
    check_built(network)
    names: list[str] = []
    if isinstance(network, SharedNetworks) and network.share != "all":
        if not isinstance(trained, Trained):
            raise MetaOptError(
                f"this {type(network).__name__} has a network for each {network.share}, whose names it does not know: "
                "give the MetaLearner that has trained it, or a checkpoint"
            )
        names = network.network_names(trained.layout)
    return copy.deepcopy(network).cpu().requires_grad_(False), names
