import hashlib
import random
import statistics

import pytest
import torch
from torch import Generator

from meta_opt.optimizees.streams import drawn_in_float32, problem_generator


def words(generator: Generator, count: int) -> list[int]:
    """The lower halves of the twister's next numbers: below 2²⁸ PyTorch takes one 32-bit word modulo the range."""
    return torch.randint(2**16, (count,), generator=generator).tolist()


def test_streams_depend_on_every_part_of_the_key() -> None:
    keys = [(0, "train", 1), (1, "train", 1), (0, "test", 1), (0, "train", 2), (0, "train", 11), (0, "train", 1, 1)]
    assert len({problem_generator(seed, *key).initial_seed() for seed, *key in keys}) == len(keys)


def test_streams_never_change() -> None:
    # Published results would no longer be reproducible.
    generator = problem_generator(0, "train", 0)
    assert generator.initial_seed() == 3168021335108090602
    assert words(generator, 3) == [3761, 49048, 34882]


def test_the_state_is_laid_out_as_assumed() -> None:
    # The numbers are those of Python's twister, seeded with the same 64 bits: two implementations, one stream.
    generator = problem_generator(5, "layout")
    seed = int.from_bytes(_digest("5/layout"), "big")
    assert generator.initial_seed() == seed >> 1
    python = random.Random(seed)
    assert words(generator, 2000) == [python.getrandbits(32) % 2**16 for _ in range(2000)]


def test_all_bits_count(monkeypatch: pytest.MonkeyPatch) -> None:
    # Two hashes that agree in their lower 32 bits, and in what manual_seed would make of them.
    streams = []
    for upper in (1, 2):
        monkeypatch.setattr(_Hash, "number", (upper << 33) + 12345)
        monkeypatch.setattr("meta_opt.optimizees.streams.hashlib.blake2b", lambda *_, **__: _Hash())
        streams.append(words(problem_generator(0), 5))
    assert streams[0] != streams[1]
    seeds = [Generator().manual_seed((upper << 33) + 12345) for upper in (1, 2)]
    assert words(seeds[0], 5) == words(seeds[1], 5)  # what PyTorch does, and why it is not asked


def test_a_stream_is_uniform_and_normal() -> None:
    generator = problem_generator(3, "moments")
    uniform, normal = torch.rand(10_000, generator=generator), torch.randn(10_000, generator=generator)
    # Standard errors: 0.0029 of the mean of uniforms, 0.01 of that of normals, 0.007 of their standard deviation.
    assert uniform.mean().item() == pytest.approx(0.5, abs=0.01)
    assert normal.mean().item() == pytest.approx(0.0, abs=0.04)
    assert statistics.stdev(normal.tolist()) == pytest.approx(1.0, abs=0.03)


def test_drawing_is_in_float32_and_leaves_the_default_alone() -> None:
    torch.set_default_dtype(torch.float64)
    try:
        with drawn_in_float32():
            assert torch.rand(1).dtype == torch.float32
        assert torch.get_default_dtype() == torch.float64
        with pytest.raises(KeyError), drawn_in_float32():
            raise KeyError
        assert torch.get_default_dtype() == torch.float64
    finally:
        torch.set_default_dtype(torch.float32)


class _Hash:
    """A hash function whose result is known."""

    number = 0

    def digest(self) -> bytes:
        return self.number.to_bytes(8, "big")


def _digest(text: str) -> bytes:
    return hashlib.blake2b(text.encode(), digest_size=8).digest()
