"""Learned optimizers that keep a network for each part of a model."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from meta_opt.optimizees.layout import Layout, Sharing
from meta_opt.optimizers.contract import OptimizerNetwork


class SharedNetworks(OptimizerNetwork):
    """One network for all coordinates, or one for each kind of tensor, group of parameters, or tensor.

    Attributes:
        share: Which parameters have a network in common; :meth:`Layout.segments` says what the networks are called.
        network_for: Of parameters that have no network of their own name, which network works on them instead: from
            the name that ``share`` gives them to that of a network (of tensors with slashes for dots).
    """

    share: Sharing = "all"
    network_for: Mapping[str, str] = MappingProxyType({})

    @property
    def replays_columns(self) -> bool:
        """See :meth:`OptimizerNetwork.replays_columns`: the default replay steps some columns without their names."""
        own = type(self).replay is not OptimizerNetwork.replay
        return super().replays_columns and (own or self.share == "all")

    def network_names(self, layout: Layout) -> list[str]:
        """The names of the networks for these coordinates, each once."""
        return list(dict.fromkeys(segment.name for segment in layout.segments(self.share)))
