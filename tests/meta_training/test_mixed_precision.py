"""Mixed precision is for the optimizee alone."""

from __future__ import annotations

import pytest
import torch
from lightning.pytorch.plugins.precision import MixedPrecision
from problems_for_tests import Regression
from torch import Tensor
from trainers_for_tests import trainer

from meta_opt.errors import MetaOptError
from meta_opt.meta_training.estimators.contract import Estimator
from meta_opt.meta_training.estimators.first_order import FirstOrder
from meta_opt.meta_training.estimators.second_order import SecondOrder
from meta_opt.meta_training.meta_learner import MetaLearner
from meta_opt.optimizees.contract import TensorDict
from meta_opt.optimizers.coordinatewise_lstm import CoordinatewiseLSTM


class Watched(Regression):
    """Notes the type in which matrix products are computed."""

    def __init__(self) -> None:
        super().__init__()
        self.types: set[torch.dtype] = set()

    def loss(self, params: TensorDict, problem: TensorDict, batch: TensorDict) -> Tensor:
        self.types.add((batch["x"] @ params["first.weight"]).dtype)
        return super().loss(params, problem, batch)


def fitted(estimator: Estimator, **options: object) -> MetaLearner:
    optimizer = CoordinatewiseLSTM(hidden_size=4, inputs="log_sign+moments+scales+orthogonal", base_step=0.02)
    module = MetaLearner(
        Watched(),
        optimizer,
        num_steps=6,
        unroll_length=3,
        estimator=estimator,
        episodes_per_epoch=2,
        num_problems=2,
        num_validation_problems=2,
        lr=0.01,
    )
    module.optimizee.types.clear()
    trainer(max_epochs=1, **options).fit(module)
    return module


@pytest.mark.parametrize("estimator", [FirstOrder(), FirstOrder(replay_fraction=0.5), SecondOrder()])
def test_the_optimizee_computes_in_less_and_nothing_else(estimator: Estimator) -> None:
    module = fitted(estimator, precision="bf16-mixed")
    assert module.optimizee.types == {torch.bfloat16}
    assert int(module.skipped) == 0
    plain = fitted(estimator)
    assert plain.optimizee.types == {torch.float32}
    for mixed, exact in zip(module.optimizer.parameters(), plain.optimizer.parameters(), strict=True):
        assert mixed.dtype == torch.float32
        assert 0 < (mixed - exact).detach().abs().mean().item() < 0.01  # of four meta-steps of 0.01


def test_a_scaler_of_losses_is_not_used() -> None:
    plugin = MixedPrecision("16-mixed", "cpu", scaler=torch.amp.GradScaler("cpu"))  # type: ignore[attr-defined]
    module = fitted(FirstOrder(), plugins=[plugin])
    assert module.optimizee.types == {torch.float16}
    assert int(module.skipped) == 0


def test_phi_is_in_float32_or_more() -> None:
    with pytest.raises(MetaOptError, match="learned optimizers need float32 or float64, not torch.bfloat16"):
        fitted(FirstOrder(), precision="bf16-true")
