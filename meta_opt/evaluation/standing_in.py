"""Which networks of a learned optimizer work on parameters that it has no network of its own for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from meta_opt.errors import MetaOptError
from meta_opt.optimizees.contract import Optimizee, OptimizeeFamily
from meta_opt.optimizees.layout import Layout, Sharing
from meta_opt.optimizees.problems import layout_of
from meta_opt.optimizers.contract import OptimizerNetwork
from meta_opt.optimizers.sharing import SharedNetworks


def let_stand_in(
    network_for: Mapping[str, str],
    optimizee: Optimizee,
    optimizers: Sequence[tuple[OptimizerNetwork, Layout | None]],
    *,
    option: str,
) -> None:
    """Tell learned optimizers which of their networks to use for what they have none for.

    Args:
        network_for: From the name of a group, kind or tensor of the optimizee to that of a network.
        optimizee: What they are to be run on.
        optimizers: Learned optimizers, with the layouts that they were made for, where those are known.
        option: What the user calls ``network_for``.

    Raises:
        MetaOptError: If the optimizee has no such part, or no optimizer such a network.
    """
    if not network_for:
        return
    for optimizer, _ in optimizers:
        if isinstance(optimizer, SharedNetworks):
            optimizer.network_for = dict(network_for)
    # The variants of a family may have others than the one seen here.
    shares = [_share(optimizer) for optimizer, _ in optimizers]
    parts = None if isinstance(optimizee, OptimizeeFamily) else _names(layout_of(optimizee), shares)
    known = all(layout is not None for _, layout in optimizers)
    networks = [
        name for optimizer, layout in optimizers if layout is not None for name in _names(layout, [_share(optimizer)])
    ]
    for part, network in network_for.items():
        if parts is not None and part not in parts:
            raise MetaOptError(f"{option}.{part}: the optimizee has no {part}; it has {', '.join(parts)}")
        if known and network not in networks:
            raise MetaOptError(f"{option}.{part} {network}: there is no such network, but {', '.join(networks)}")
        if known and all(
            part in _names(layout, [_share(optimizer)]) for optimizer, layout in optimizers if layout is not None
        ):
            raise MetaOptError(f"{option}.{part}: {part} has a network of its own, which is used")


def _share(optimizer: OptimizerNetwork) -> Sharing:
    return optimizer.share if isinstance(optimizer, SharedNetworks) else "all"


def _names(layout: Layout, by: Iterable[Sharing]) -> list[str]:
    """As options name them: of tensors with slashes for dots."""
    names = (segment.name for share in by for segment in layout.segments(share))
    return list(dict.fromkeys(name.replace(".", "/") for name in names))
