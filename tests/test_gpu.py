"""A GPU does what a CPU does: inner loops, meta-gradients, meta-training, comparisons and steps in own loops."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from problems_for_tests import Regression
from torch import Tensor, nn
from trainers_for_tests import trainer

from meta_opt import LearnedOptimizer
from meta_opt.capturing import waiting_forbidden
from meta_opt.inner_loop.unroll import begin, unroll
from meta_opt.meta_training.estimators.contract import Estimator
from meta_opt.meta_training.estimators.es import ES
from meta_opt.meta_training.estimators.first_order import FirstOrder
from meta_opt.meta_training.estimators.nres import NRES
from meta_opt.meta_training.estimators.pes import PES
from meta_opt.meta_training.estimators.policy_gradient import PolicyGradient
from meta_opt.meta_training.estimators.second_order import SecondOrder
from meta_opt.meta_training.meta_learner import MetaLearner
from meta_opt.optimizees import captured
from meta_opt.optimizees.contract import Optimizee
from meta_opt.optimizees.problems import Problems, layout_of, problem_generator
from meta_opt.optimizees.tracing import CHECKED, EAGER_FIRST
from meta_opt.optimizers import coordinatewise_lstm, learned_soap
from meta_opt.optimizers.alpha_opt import AlphaOpt
from meta_opt.optimizers.contract import OptimizerNetwork
from meta_opt.optimizers.coordinatewise_lstm import CoordinatewiseLSTM
from meta_opt.optimizers.hierarchical_rnn import HierarchicalRNN
from meta_opt.optimizers.learned_soap import LearnedSOAP
from meta_opt.optimizers.lstm_gac import LSTMGAC
from meta_opt.optimizers.ntm_bfgs import NTMBFGS
from meta_opt.optimizers.rnn_blackbox import RNNBlackBox
from meta_opt.optimizers.subspace_lstm import SubspaceLSTM
from meta_opt_optimizees.digits_mlp import DigitsMlp
from meta_opt_optimizees.quadratic import Quadratic

pytestmark = pytest.mark.gpu

GENERAL: dict[str, Any] = {
    "inputs": "log_sign+moments+scales+orthogonal",
    "output": "magnitude",
    "base_step": 0.05,
    "spectral": True,
    "horizon": True,
    "tensor_features": True,
}
NETWORKS: dict[str, Callable[[], OptimizerNetwork]] = {
    "paper": CoordinatewiseLSTM,
    "by group": lambda: CoordinatewiseLSTM(share="group", inputs="log_sign+moments", base_step=0.02),
    "general": lambda: CoordinatewiseLSTM(hidden_size=6, **GENERAL),
    "linear": lambda: CoordinatewiseLSTM(num_layers=0, inputs="moments"),
    "lstm_gac": LSTMGAC,
    "learned_soap": partial(LearnedSOAP, initial_output=1.0),
    "subspace_lstm": SubspaceLSTM,
    "hierarchical_rnn": HierarchicalRNN,
    "ntm_bfgs": NTMBFGS,
    "rnn_blackbox": RNNBlackBox,
    "alpha_opt": AlphaOpt,
}
ESTIMATORS: dict[str, Callable[[], Estimator]] = {
    "first_order": FirstOrder,
    "quarter": lambda: FirstOrder(replay_fraction=0.25),
    "second_order": SecondOrder,
    "es": ES,
    "pes": PES,
    "nres": NRES,
}


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("optimizee", [Regression, Quadratic])
def test_trajectories(name: str, optimizee: Callable[[], Optimizee]) -> None:
    def losses(device: str) -> Tensor:
        optimizer = NETWORKS[name]()
        optimizer.build(layout_of(optimizee()), problem_generator(0, "phi"))
        optimizer.to(device, torch.float64)
        problems = Problems(optimizee().to(device), "train", range(3), seed=0, device=device, dtype=torch.float64)
        start = begin(problems, optimizer, num_steps=12)
        return unroll(problems, optimizer, start, 12).losses.cpu()

    torch.testing.assert_close(losses("cuda"), losses("cpu"), rtol=1e-7, atol=1e-9)


def meta_trained(make: Callable[[], MetaLearner], device: str, **options: Any) -> tuple[MetaLearner, Tensor]:
    """After two epochs, and φ."""
    module = make()
    trainer(**{"accelerator": device, "max_epochs": 2, "precision": "64-true", **options}).fit(module)
    return module, torch.cat([parameter.detach().cpu().flatten() for parameter in module.optimizer.parameters()])


def learner(
    network: str = "paper", estimator: str = "first_order", optimizee: Callable[[], Optimizee] = Regression
) -> MetaLearner:
    return MetaLearner(
        optimizee(),
        NETWORKS[network](),
        estimator=ESTIMATORS[estimator](),
        num_steps=10,
        unroll_length=5,
        episodes_per_epoch=3,
        num_problems=2,
        num_validation_problems=2,
    )


@pytest.mark.parametrize("network", [name for name in NETWORKS if name not in ("alpha_opt", "rnn_blackbox")])
def test_meta_training(network: str) -> None:
    found, expected = (meta_trained(lambda: learner(network), device)[1] for device in ("cuda", "cpu"))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_estimators(estimator: str) -> None:
    found, expected = (meta_trained(lambda: learner("by group", estimator), device)[1] for device in ("cuda", "cpu"))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("optimizee", [Regression, Quadratic])
def test_policy_gradient(optimizee: Callable[[], Optimizee]) -> None:
    def agent() -> MetaLearner:
        return MetaLearner(
            optimizee(),
            AlphaOpt(),
            estimator=PolicyGradient(),
            num_steps=10,
            unroll_length=10,
            episodes_per_epoch=3,
            num_problems=2,
            num_validation_problems=2,
        )

    _, phi = meta_trained(agent, "cuda")
    assert phi.isfinite().all()


@pytest.mark.parametrize("network", ["paper", "general"])
def test_meta_gradients_in_float32(network: str) -> None:
    """Whatever a GPU does with the products of float32, the direction of the meta-gradient is that of float64."""

    def phi(device: str, precision: str) -> Tensor:
        module = learner(network, optimizee=DigitsMlp)
        module.hparams["lr"] = 1e-3
        before = torch.cat([parameter.detach().flatten() for parameter in module.optimizer.parameters()])
        module.configure_optimizers = lambda: torch.optim.SGD(module.optimizer.parameters(), lr=1e-3)  # type: ignore
        trainer(accelerator=device, max_steps=1, precision=precision, limit_val_batches=0).fit(module)
        after = torch.cat([parameter.detach().cpu().flatten() for parameter in module.optimizer.parameters()])
        return after.double() - before.double()

    found, expected = phi("cuda", "32-true"), phi("cpu", "32-true")
    error = (found - expected).norm() / expected.norm()
    assert error < 2e-3


@pytest.mark.parametrize("optimizee", [DigitsMlp, Quadratic])
def test_the_same_seed_gives_the_same(optimizee: Callable[[], Optimizee]) -> None:
    one, other = (
        meta_trained(lambda: learner("by group", optimizee=optimizee), "cuda", precision="32-true")[1] for _ in range(2)
    )
    assert torch.equal(one, other)


@pytest.mark.parametrize("optimizee", [DigitsMlp, Quadratic])
def test_traced_losses(optimizee: Callable[[], Optimizee]) -> None:
    made = optimizee().to("cuda")
    problems, plain = (Problems(made, "train", [0, 1], seed=0, device="cuda") for _ in range(2))
    plain.trace = False
    for number in range(EAGER_FIRST + CHECKED + 5):
        found, expected = (each.evaluate(each.initial_params) for each in (problems, plain))
        torch.testing.assert_close(found.grad, expected.grad, rtol=1e-4, atol=1e-6, msg=str(number))
        torch.testing.assert_close(found.loss, expected.loss, rtol=1e-5, atol=1e-6, msg=str(number))
    assert made._traces.reasons() == [""]
    assert made._traces.num_in_use == 1


def test_losses_are_graphs_again_after_all_graphs_are_gone() -> None:
    for _ in range(2):
        made = Regression()
        problems = Problems(made, "train", [0, 1], seed=0, device="cuda")
        for _ in range(EAGER_FIRST + CHECKED + 2):
            problems.evaluate(problems.initial_params)
        (trace,) = made._traces._traces.values()
        assert isinstance(trace.graph, captured._Captured)
        del made, problems, trace
        gc.collect()


def a_model(device: str) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(20, 16), nn.LayerNorm(16), nn.Tanh(), nn.Linear(16, 3)).to(device)


PRETRAINED = ("mnist_mlp", "general_mlp", "general", "digits_mlp", "lstm_gac", "hierarchical_rnn")


@pytest.mark.parametrize("pretrained", PRETRAINED)
@pytest.mark.parametrize("graphs", [True, False])
def test_own_loops(pretrained: str, graphs: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same steps as on a CPU, in CUDA graphs and without; after the first few no step waits for the GPU."""
    if not graphs:
        monkeypatch.setattr(coordinatewise_lstm, "NUM_WORTHWHILE", 0)
        monkeypatch.setattr(learned_soap, "_NUM_WORTHWHILE", 0)

    def losses(device: str) -> list[float]:
        model = a_model(device)
        options: dict[str, Any] = {"num_steps": 30} if pretrained == "general" else {}
        optimizer = LearnedOptimizer(model.parameters(), pretrained=pretrained, **options)
        generator = torch.Generator().manual_seed(1)
        x = torch.randn(32, 20, generator=generator).to(device)
        y = x[:, :3].sin()
        values = []
        for number in range(16):
            optimizer.zero_grad()
            loss = (model(x) - y).square().mean()
            loss.backward()
            with waiting_forbidden() if device == "cuda" and number > 9 else contextlib.nullcontext():
                optimizer.step()
            values.append(loss.detach())
        return [float(value) for value in values]

    found, expected = losses("cuda"), losses("cpu")
    assert found[:10] == pytest.approx(expected[:10], rel=2e-3)
    assert found == pytest.approx(expected, rel=2e-2)  # differences of rounding grow


QUIET = ("--trainer.enable_progress_bar", "false")
SMALL = ("--model.num_steps", "20", "--model.unroll_length", "10", "--model.episodes_per_epoch", "3", *QUIET)


@pytest.mark.parametrize("optimizee", ["quadratic", "digits_mlp"])
def test_the_command_line(meta_opt: Any, optimizee: str, tmp_path: Any) -> None:
    """fit and its continuation on a GPU; test and compare there and on a CPU."""
    few = ("--model.num_validation_problems", "2", "--model.num_test_problems", "2", "--trainer.max_epochs", "2")
    status, _, err = meta_opt("fit", "--optimizee", optimizee, *SMALL, *few)
    assert status == 0, err
    status, _, err = meta_opt("fit", "--ckpt_path", "last", "--trainer.max_epochs", "3", *QUIET)
    assert status == 0, err
    finals = []
    for device in ("cuda", "cpu"):
        status, _, err = meta_opt(
            "compare", "--ckpt_path", "last", "--device", device, "--out", device, "--baselines", "Adam:lr=0.01",
            "--num_steps", "20", "--num_problems", "2",
        )  # fmt: skip
        assert status == 0, err
        finals.append((tmp_path / device / "curves.csv").read_text().splitlines())
    for ours, theirs in zip(*finals, strict=True):
        for one, other in zip(ours.split(","), theirs.split(","), strict=True):
            assert one == other or float(one) == pytest.approx(float(other), rel=1e-2)


def test_landscapes(meta_opt: Any) -> None:
    status, _, err = meta_opt(
        "landscape",
        "--pretrained",
        "alpha_opt",
        "--optimizee.name",
        "rosenbrock",
        "--device",
        "cuda",
        "--num_steps",
        "20",
    )
    assert status == 0, err
