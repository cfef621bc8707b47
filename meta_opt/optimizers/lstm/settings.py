"""What a coordinatewise LSTM does around its networks."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from meta_opt.optimizees.layout import Segment
from meta_opt.optimizers.lstm.inputs import Reads


@dataclass(frozen=True)
class NetworkSettings:
    """From inputs to outputs and updates; see ``CoordinatewiseLSTM``.

    Attributes:
        reads: What the networks read.
        bounded: Whether the output goes through tanh.
        magnitude: Whether the update is multiplied by e to the power of a second output.
        output_scale: Factor of the output.
        base_step: α of the step -α·d that the output is added to, where the direction d is m̂/√v̂, but for matrices where
            directions are read.
        spectral: Whether both are in units of the tensor, see :func:`unit_of`.
        largest_width: Width beyond which both shrink, see :func:`shortened`; None for never.
    """

    reads: Reads
    bounded: bool
    magnitude: bool
    output_scale: float
    base_step: float
    spectral: bool = False
    largest_width: int | None = None

    def of(self, segment: Segment) -> NetworkSettings:
        """What surrounds the network in one tensor."""
        if not self.by_tensor:
            return self
        unit = unit_of(segment) if self.spectral else 1.0
        if self.largest_width is not None:
            unit *= shortened(segment, self.largest_width)
        return replace(
            self,
            output_scale=unit * self.output_scale,
            base_step=unit * self.base_step,
            spectral=False,
            largest_width=None,
        )

    @property
    def by_tensor(self) -> bool:
        """Whether they differ between tensors."""
        return self.spectral or self.largest_width is not None

    @property
    def num_outputs(self) -> int:
        """R, what a network gives."""
        return 1 + self.magnitude

    @property
    def tracks_moments(self) -> bool:
        """Whether there is a state of moments."""
        return self.reads.moments or self.base_step != 0.0


_UNIT_OF_VECTORS = 0.15  # with a base step of 0.06, the 0.009 that Adam takes well in vectors of many networks


def unit_of(segment: Segment) -> float:
    """What a step of one is in a tensor, so that it changes what the tensor does as much at any width.

    For a matrix or filter [r, c] √max(1, r/c) / √max(r, c): an orthogonalized direction, whose entries have a root mean
    square of 1, then has singular values of √max(1, r/c), as the condition of Yang et al. 2023 (arXiv:2310.17813) wants
    it. Each row of a tall one, an embedding's, then has a norm of about 1. For vectors and scalars a constant.

    Args:
        segment: One tensor.
    """
    rows, columns = segment.num_rows, segment.num_columns
    if not rows:
        return _UNIT_OF_VECTORS
    return math.sqrt(max(1.0, rows / columns) / max(rows, columns))


def shortened(segment: Segment, largest: int) -> float:
    """largest/w for a matrix or filter whose smaller side w is more than that, 1 for others.

    The entries of an update of a matrix [r, c] may all point one way. What it then does to what the matrix does grows
    with its sides, where the matrix itself, with entries of about 1/√c, does not. As the smaller side tells hidden
    layers from first ones, whose inputs are many at any width, it is what is kept to what meta-training has seen, in
    inverse proportion, as Adam's learning rate is in the maximal update parametrization (Yang et al. 2022,
    arXiv:2203.03466). See ``benchmarks/width.py``.

    Args:
        segment: One tensor.
        largest: The smaller side of the widest matrix that keeps its updates.
    """
    return largest / max(min(segment.num_rows, segment.num_columns), largest)
