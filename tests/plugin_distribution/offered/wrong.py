import torch

from offered.good import Bowl


class BadAdvice(Bowl):
    """Recommends what is no option."""

    @classmethod
    def recommended_settings(cls):
        return {"model.number_of_steps": 7}


class VectorLoss(Bowl):
    """Its loss is no scalar."""

    def loss(self, params, problem, batch):
        return (params["x"] - problem["center"]).square()


class InfiniteLoss(Bowl):
    """Its loss is infinite."""

    def loss(self, params, problem, batch):
        return super().loss(params, problem, batch) / 0.0


class ConstantLoss(Bowl):
    """Its loss does not depend on the parameters."""

    def loss(self, params, problem, batch):
        return torch.ones(())


class OfTheFuture(Bowl):
    """Fulfils another version of the contract."""

    api_version = 99


class NotAnOptimizee:
    """Fulfils no contract."""
