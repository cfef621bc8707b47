"""Random streams, one for each problem; seeds of the global generators; one floating-point type to draw in."""

from __future__ import annotations

import hashlib
import random
from array import array
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Generator

# A state of PyTorch's CPU generator as 64-bit words: the seed, two counters, and from here on the 624 words of the
# Mersenne twister (at::CPUGeneratorImplStateLegacy).
_FIRST, _NUM_WORDS = 3, 624


def problem_generator(seed: int, *key: str | int) -> Generator:
    """A CPU generator whose stream depends on the seed and on every part of ``key``, and on nothing else.

    All 64 bits of their hash go into its state, by the Mersenne twister's own initialization by an array, which is how
    Python seeds its generator with a whole number: ``Generator.manual_seed`` uses 32 bits only.
    """
    text = "/".join(str(part) for part in (seed, *key))
    number = int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")
    _, words, _ = random.Random(number).getstate()  # noqa: S311 nothing to keep secret
    state = _NEW_STATE.copy()
    state[0] = number >> 1  # what initial_seed() says
    state[_FIRST : _FIRST + _NUM_WORDS] = array("Q", words[:_NUM_WORDS])
    generator = Generator()
    generator.set_state(torch.from_numpy(state.view(np.uint8)))
    return generator


@contextmanager
def seeded(seed: int, *key: str | int, device: torch.device | str) -> Iterator[None]:
    """What is drawn in here from global generators depends on the seed and ``key``; afterwards they are as before.

    Optimizers of other packages draw from them: PyTorch's, on the CPU and ``device``, NumPy's and Python's.
    """
    number = problem_generator(seed, *key).initial_seed()
    of_numpy, of_python = np.random.get_state(), random.getstate()
    with torch.random.fork_rng(devices=[device] if torch.device(device).type == "cuda" else []):
        torch.default_generator.manual_seed(number)
        if torch.device(device).type == "cuda":
            with torch.cuda.device(device):
                torch.cuda.manual_seed(number)
        np.random.seed(number % 2**32)
        random.seed(number)
        try:
            yield
        finally:
            np.random.set_state(of_numpy)
            random.setstate(of_python)


@contextmanager
def drawn_in_float32() -> Iterator[None]:
    """What is drawn in here is the same whatever the default type: float32, to be converted afterwards."""
    default = torch.get_default_dtype()
    if default is torch.float32:
        yield
        return
    torch.set_default_dtype(torch.float32)
    try:
        yield
    finally:
        torch.set_default_dtype(default)


_NEW_STATE = Generator().manual_seed(0).get_state().numpy().view(np.uint64)  # of one that has drawn nothing
