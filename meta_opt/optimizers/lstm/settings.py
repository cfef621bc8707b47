"""What a coordinatewise LSTM does around its networks."""

from __future__ import annotations

from dataclasses import dataclass

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
    """

    reads: Reads
    bounded: bool
    magnitude: bool
    output_scale: float
    base_step: float

    @property
    def num_outputs(self) -> int:
        """R, what a network gives."""
        return 1 + self.magnitude

    @property
    def tracks_moments(self) -> bool:
        """Whether there is a state of moments."""
        return self.reads.moments or self.base_step != 0.0
