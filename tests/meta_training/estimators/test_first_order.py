"""The meta-gradient of the recorded rollout against backpropagation through the whole unroll."""

import pytest
import torch
from problems_for_tests import Regression, Square
from reference import PaperUnroll

from meta_opt.inner_loop.unroll import begin, unroll
from meta_opt.meta_training.estimators.contract import MetaGradient
from meta_opt.meta_training.estimators.first_order import first_order
from meta_opt.meta_training.meta_loss import MetaLoss, parse_step_weights
from meta_opt.optimizees.contract import Optimizee
from meta_opt.optimizees.problems import Problems, problem_generator
from meta_opt.optimizers.contract import OptimizerNetwork
from meta_opt.optimizers.coordinatewise_lstm import CoordinatewiseLSTM, Engine
from meta_opt.optimizers.lstm import native
from meta_opt.optimizers.lstm import replay as lstm_replay


def draw(optimizee: Optimizee, num_problems: int = 2) -> Problems:
    return Problems(optimizee, "train", range(num_problems), seed=3, dtype=torch.float64)


def built(problems: Problems, engine: Engine = "torch", **options: object) -> CoordinatewiseLSTM:
    optimizer = CoordinatewiseLSTM(**{"hidden_size": 5, **options})  # type: ignore[arg-type]
    optimizer.build(problems.layout, problem_generator(1, "phi"))
    optimizer.engine = engine
    return optimizer.double()


def estimate_of(problems: Problems, optimizer: OptimizerNetwork, num_steps: int, *meta_loss: str) -> MetaGradient:
    """That of an episode's first unroll."""
    trajectory = unroll(problems, optimizer, begin(problems, optimizer), num_steps)
    return first_order(trajectory, optimizer, MetaLoss(*meta_loss))  # type: ignore[arg-type]


@pytest.fixture(params=["torch", "native", "fused"])
def engine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Engine:
    """The engines, and the replay of the torch engine on a GPU, here in blocks on the CPU."""
    if request.param == "fused":
        monkeypatch.setattr(CoordinatewiseLSTM, "_fuses", lambda self, tensor: self.num_layers > 0)
        monkeypatch.setattr(lstm_replay, "_fused_bytes", lambda device: 4 * 20 * 20 * 2 * 5 * 7)  # 7 coordinates
        return "torch"
    if request.param == "native" and not native.available():
        pytest.skip("there is no compiler")
    return request.param  # type: ignore[no-any-return]


@pytest.mark.parametrize("unroll_lengths", [[1], [5], [20], [7, 3]])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"inputs": "none", "num_layers": 1},
        {"inputs": "moments", "output": "tanh"},
        {"inputs": "log_sign+moments", "base_step": 0.03, "initial_output": 0.1},
        {"share": "group"},
        {"share": "kind"},
        {"tensor_features": True, "base_step": 0.01},
        {"tensor_features": True, "share": "group", "inputs": "log_sign+moments"},
        {"share": "tensor", "base_step": 0.01},
        {"output": "magnitude", "base_step": 0.01},
        {"inputs": "log_sign+moments+scales"},
        {"inputs": "log_sign+moments+scales+orthogonal", "base_step": 0.03},
        {"inputs": "log_sign+moments+scales+orthogonal", "base_step": 0.03, "anneal_after": 5},
        {
            "inputs": "log_sign+moments+scales",
            "output": "magnitude",
            "base_step": 0.01,
            "tensor_features": True,
            "share": "kind",
        },
        {
            "inputs": "log_sign+moments+scales+orthogonal",
            "output": "magnitude",
            "base_step": 0.01,
            "tensor_features": True,
            "share": "kind",
            "spectral": True,
            "horizon": True,
        },
        {"inputs": "log_sign+moments", "base_step": 0.03, "agreement": 0.5},
    ],
    ids=lambda options: ",".join(f"{key}={value}" for key, value in options.items()) or "paper",
)
def test_equals_backpropagation_through_the_unroll(
    options: dict[str, object], unroll_lengths: list[int], engine: Engine
) -> None:
    problems = draw(Regression())
    optimizer = built(problems, engine, **options)
    reference = PaperUnroll(draw(Regression()), optimizer, horizon=12)
    position = begin(problems, optimizer, num_steps=12)
    for length in unroll_lengths:
        trajectory = unroll(problems, optimizer, position, length)
        estimate = first_order(trajectory, optimizer, MetaLoss("sum", "constant"))
        loss, grads = reference.run(length, torch.ones(length, dtype=torch.float64))
        torch.testing.assert_close(estimate.loss, loss, rtol=1e-12, atol=0)
        for ours, theirs in zip(estimate.grads, grads, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10 * float(theirs.abs().max()))
        torch.testing.assert_close(trajectory.end.evaluation.params, reference.theta, rtol=1e-12, atol=1e-12)
        position = trajectory.end.detach()


@pytest.mark.parametrize("step_weights", ["constant", "linear:0.5", "exponential:0.8", "last"])
@pytest.mark.parametrize("meta_loss", ["sum", "log_sum", "log_mean"])
def test_step_weights_and_meta_losses(step_weights: str, meta_loss: str, engine: Engine) -> None:
    problems = draw(Regression())
    optimizer = built(problems, engine)
    estimate = estimate_of(problems, optimizer, 6, meta_loss, step_weights)
    weights = parse_step_weights(step_weights)(6).double()
    loss, grads = PaperUnroll(draw(Regression()), optimizer).run(6, weights, meta_loss)
    torch.testing.assert_close(estimate.loss, loss, rtol=1e-12, atol=0)
    for ours, theirs in zip(estimate.grads, grads, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10 * float(theirs.abs().max()))


def test_float32_is_close(engine: Engine) -> None:
    problems = Problems(Regression(), "train", range(2), seed=3)
    optimizer = CoordinatewiseLSTM(hidden_size=5)
    optimizer.build(problems.layout, problem_generator(1, "phi"))
    optimizer.engine = engine
    estimate = estimate_of(problems, optimizer, 20, "sum", "constant")
    exact = draw(Regression())
    grads = PaperUnroll(exact, built(exact)).run(20, torch.ones(20, dtype=torch.float64))[1]
    for ours, theirs in zip(estimate.grads, grads, strict=True):
        scale = float(theirs.abs().max())
        torch.testing.assert_close(ours.double(), theirs, rtol=0, atol=1e-4 * scale)


def test_golden_value() -> None:
    """A zero linear head on x², meta-Adam of 0.01, unrolls of 5: what the authors' own test holds, 0.8559.

    The first unroll does not move x; both weight and bias become -0.01, so that x ← x - 0.01·2x - 0.01 in the second.
    """
    problems = Problems(Square(), "train", [0], seed=0, dtype=torch.float64)
    optimizer = CoordinatewiseLSTM(num_layers=0, inputs="none", output_scale=1.0, initial_output=0.0)
    optimizer.build(problems.layout, problem_generator(0, "phi"))
    optimizer.double()
    meta_optimizer = torch.optim.Adam(optimizer.parameters(), lr=0.01)
    position = begin(problems, optimizer)
    for _ in range(2):
        trajectory = unroll(problems, optimizer, position, 5)
        estimate = first_order(trajectory, optimizer, MetaLoss("sum", "constant"))
        for parameter, grad in zip(optimizer.parameters(), estimate.grads, strict=True):
            parameter.grad = grad
        meta_optimizer.step()
        position = trajectory.end.detach()
    assert position.evaluation.params.item() == pytest.approx(-0.5 + 1.5 * 0.98**5, abs=1e-7)


def test_more_problems_average() -> None:
    """The meta-gradient of two problems is the mean of theirs."""
    both = draw(Regression())
    optimizer = built(both)
    mean = estimate_of(both, optimizer, 4, "log_sum", "constant").grads
    singles = []
    for index in range(2):
        one = Problems(Regression(), "train", [index], seed=3, dtype=torch.float64)
        singles.append(estimate_of(one, optimizer, 4, "log_sum", "constant").grads)
    for ours, first, second in zip(mean, *singles, strict=True):
        torch.testing.assert_close(ours, (first + second) / 2, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize(
    "options",
    [
        {"inputs": "log_sign+moments", "output": "tanh"},
        {"inputs": "log_sign+moments+scales", "output": "magnitude", "tensor_features": True},
        {"inputs": "log_sign+moments+scales+orthogonal", "output": "magnitude"},
    ],
)
def test_replay_in_blocks_equals_all_at_once(
    options: dict[str, object], fused: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Blocks that do not divide the segments, problems side by side, and a state to start from."""
    problems = draw(Regression(), num_problems=3)
    optimizer = built(problems, share="group", base_step=0.03, **options)
    optimizer.engine = "torch"
    monkeypatch.setattr(CoordinatewiseLSTM, "_fuses", lambda self, tensor: fused)
    monkeypatch.setattr(lstm_replay, "coordinates_at_once", lambda *sizes: 9)
    start = unroll(problems, optimizer, begin(problems, optimizer), 4).end.detach()
    trajectory = unroll(problems, optimizer, start, 5)
    coefficients = [torch.randn_like(evaluation.grad) for evaluation in trajectory.evaluations[1:]]
    whole = OptimizerNetwork.replay(optimizer, trajectory.evaluations[:-1], start.state, coefficients)
    monkeypatch.setattr(lstm_replay, "_BLOCK", 9)
    blocks = optimizer.replay(trajectory.evaluations[:-1], start.state, coefficients)
    for ours, theirs in zip(blocks, whole, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("inputs", ["none", "moments"])
def test_a_network_that_has_no_tensor_here_has_a_gradient_of_zero(inputs: str, engine: Engine) -> None:
    """As in a mixture: networks for vectors and matrices, and problems that have vectors alone."""
    optimizer = built(draw(Regression()), engine, share="kind", inputs=inputs)
    problems = draw(Square())
    grads = dict(
        zip(
            dict(optimizer.named_parameters()),
            estimate_of(problems, optimizer, 3, "sum", "constant").grads,
            strict=True,
        )
    )
    assert all(not grad.any() for name, grad in grads.items() if ".matrix." in name)
    assert all(grad.any() for name, grad in grads.items() if name.startswith("networks.vector.output"))
