import torch

from meta_opt.api import MetaOptError, Optimizee


class Bowl(Optimizee):
    """A bowl: the squared distance to a random point.

    This paragraph is not shown by ``meta-opt list``.
    """

    def __init__(self, dimension: int = 3, steepness: float = 1.0):
        """Choose the bowl.

        Args:
            dimension: Number of coordinates.
            steepness: Factor of the squared distance.
        """
        if dimension < 1:
            raise MetaOptError(f"optimizee.dimension must be at least 1, not {dimension}")
        self.dimension = dimension
        self.steepness = steepness

    def init_params(self, generator):
        return {"x": torch.randn(self.dimension, generator=generator)}

    def sample_problem(self, split, generator):
        return {"center": torch.randn(self.dimension, generator=generator)}

    def loss(self, params, problem, batch):
        return self.steepness * (params["x"] - problem["center"]).square().sum()

    @classmethod
    def recommended_settings(cls):
        return {
            "model.num_steps": 7,
            "model.unroll_length": 4,
            "model.episodes_per_epoch": 3,
            "optimizer.hidden_size": 5,
            "trainer.max_epochs": 2,
        }


class Valley(Bowl):
    """A class that is called like its entry point."""

    @classmethod
    def recommended_settings(cls):
        return {"model.num_steps": 9, "optimizer.hidden_size": 6}
