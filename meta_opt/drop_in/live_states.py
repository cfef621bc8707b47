"""What ``optimizer.state`` is."""

from __future__ import annotations

import functools
from collections import defaultdict
from collections.abc import Callable
from typing import Any

from torch import Tensor

NamedState = dict[str, Tensor]
"""The state of one parameter: its tensors, by their path in the optimizer's state (``cell.0.1``)."""

_LOOKS = (
    *("__getitem__", "__setitem__", "__delitem__", "__contains__", "__iter__", "__reversed__", "__len__", "__repr__"),
    *("__eq__", "__ne__", "__or__", "__ror__", "__ior__"),
    *("get", "items", "keys", "values", "pop", "popitem", "setdefault", "update", "clear"),
)


class LiveStates(defaultdict[Tensor, NamedState]):
    """States by parameter that are up to date whenever somebody looks, also one who has kept the dictionary.

    That is what wrappers of optimizers do, which have it as their own ``state``. A copy is a plain one.
    """

    def __init__(self, refresh: Callable[[], object]) -> None:
        """Empty.

        Args:
            refresh: Is called before anybody looks, to put the newest states in here.
        """
        super().__init__(dict)
        self._refresh = refresh

    def copy(self) -> defaultdict[Tensor, NamedState]:  # type: ignore[override]
        """What is there now."""
        return defaultdict(dict, self.items())

    __copy__ = copy  # type: ignore[assignment]

    def __reduce__(self) -> tuple[Any, ...]:
        return defaultdict, (dict,), None, None, iter(self.items())


def _refreshed(name: str) -> Callable[..., Any]:
    method = getattr(defaultdict, name)

    @functools.wraps(method)
    def look(self: LiveStates, *args: Any, **kwargs: Any) -> Any:
        self._refresh()
        return method(self, *args, **kwargs)

    return look


for _name in _LOOKS:
    setattr(LiveStates, _name, _refreshed(_name))
