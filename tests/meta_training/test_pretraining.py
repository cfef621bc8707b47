"""Sign-weighted pretraining."""

import math

import pytest
import torch
from lightning.pytorch import Trainer
from problems_for_tests import Regression

from meta_opt.errors import MetaOptError
from meta_opt.meta_training.meta_learner import MetaLearner
from meta_opt.meta_training.pretraining import pretrain, sign_weighted_loss
from meta_opt.optimizees.layout import Layout
from meta_opt.optimizees.problems import Evaluation, problem_generator
from meta_opt.optimizers.coordinatewise_lstm import CoordinatewiseLSTM

LAYOUT = Layout.of({"weight": torch.zeros(40, 30), "bias": torch.zeros(3)})


def test_the_loss_is_the_thesis_s() -> None:
    update = torch.tensor([0.3, -0.1, 0.0], dtype=torch.float64, requires_grad=True)
    wanted = torch.tensor([0.1, 0.1, 0.2], dtype=torch.float64)
    loss = sign_weighted_loss(update, wanted)
    # |0.2| e^-2, same sign; |-0.2| e^2, other sign; |-0.2| without a sign
    assert loss.item() == pytest.approx(0.2 * (math.exp(-2) + math.exp(2) + 1.0) / 3)
    (slope,) = torch.autograd.grad(loss, update)
    assert slope.tolist() == pytest.approx([math.exp(-2) / 3, -math.exp(2) / 3, -1 / 3])


def pretrained(inputs: str, batches: int) -> tuple[CoordinatewiseLSTM, list[float]]:
    network = CoordinatewiseLSTM(hidden_size=8, inputs=inputs, output_scale=0.001, share="tensor")  # type: ignore[arg-type]
    network.build(LAYOUT, problem_generator(0, "phi"))
    losses = pretrain(
        network, LAYOUT, batches=batches, rate=0.5, lr=0.01, unroll_length=4, generator=problem_generator(0, "draws")
    )
    return network, losses


def test_afterwards_updates_go_against_the_gradient() -> None:
    network, losses = pretrained("log_sign", 150)
    assert sum(losses[-10:]) < 0.3 * sum(losses[:10])
    state = network.init_state(LAYOUT, 1)
    for step in range(4):
        grad = 0.001 * torch.randn(1, LAYOUT.num_coordinates, generator=torch.Generator().manual_seed(step))
        update, state, _ = network.step(Evaluation.of(grad=grad), state)
        large = grad.abs() > 0.0003
        assert ((update * grad)[large] < 0.0).float().mean() > 0.97


def test_depends_on_the_generator_alone() -> None:
    (one, losses), (two, same) = pretrained("none", 3), pretrained("none", 3)
    assert losses == same
    assert all(torch.equal(*pair) for pair in zip(one.parameters(), two.parameters(), strict=True))


class ReadsLosses(CoordinatewiseLSTM):
    reads = frozenset({"grad", "loss"})


def test_only_networks_that_read_gradients_alone() -> None:
    network = ReadsLosses()
    network.build(LAYOUT, problem_generator(0, "phi"))
    with pytest.raises(MetaOptError, match="model.pretraining must be 0 with ReadsLosses"):
        pretrain(network, LAYOUT, batches=1, rate=0.1, lr=0.1, unroll_length=1, generator=torch.Generator())


def started(pretraining: int) -> MetaLearner:
    """A module at the moment when meta-training begins."""
    options = {"num_steps": 4, "unroll_length": 4, "lr": 0.01, "average_decay": 0.5}
    module = MetaLearner(Regression(), CoordinatewiseLSTM(hidden_size=4), **options, pretraining=pretraining)  # type: ignore[arg-type]
    module.trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False)
    module.trainer.strategy.optimizers = [module.configure_optimizers()]
    module.on_fit_start()
    return module


def test_meta_training_begins_with_the_pretrained_weights() -> None:
    plain, trained = started(0), started(3)
    pairs = zip(plain.optimizer.parameters(), trained.optimizer.parameters(), strict=True)
    assert not any(torch.equal(*pair) for pair in pairs)
    averaged = zip(trained.optimizer.parameters(), trained.trained.parameters(), strict=True)
    assert all(torch.equal(*pair) for pair in averaged)


@pytest.mark.parametrize(("name", "value"), [("pretraining", -1), ("pretraining_rate", -0.1)])
def test_values_out_of_range(name: str, value: float) -> None:
    with pytest.raises(MetaOptError, match=f"model.{name} must be at least 0, not {value}"):
        MetaLearner(Regression(), CoordinatewiseLSTM(hidden_size=4), **{name: value})
