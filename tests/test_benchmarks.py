"""The two sides of the benchmarks compute the same thing."""

import runpy
from pathlib import Path

import pytest
import torch

from meta_opt.optimizees.problems import Problems, problem_generator
from meta_opt.optimizers.lstm_gac import LSTMGAC
from meta_opt.optimizers.ntm_bfgs import NTMBFGS
from meta_opt_optimizees.quadratic import Quadratic

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
USED_BY_OTHERS = {
    "collecting",
    "general_tasks",
    "measuring",
    "plain_pytorch",
    "sides",
    "unusual_tasks",
    "validation_tasks",
    "workloads",
}


@pytest.fixture(autouse=True, scope="module")
def _importable():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARKS))
        yield


@pytest.mark.parametrize("path", sorted(BENCHMARKS.glob("*.py")), ids=lambda path: path.stem)
def test_what_a_benchmark_imports_is_there(path):
    names = runpy.run_path(str(path), run_name="benchmark")
    assert callable(names.get("main")) or path.stem in USED_BY_OTHERS


def plain_grads(trainer):
    """The reference's gradients in the order of CoordinatewiseLSTM's parameters."""
    grads = []
    for network, _ in trainer.groups.values():
        input_gate, forget, candidate, output = torch.arange(80).split(20)
        order = torch.cat([input_gate, forget, output, candidate])
        grads += [network.out.weight.grad, network.out.bias.grad[None]]
        grads += [torch.cat([cell.weight_ih.grad, cell.weight_hh.grad], dim=1)[order] for cell in network.cells]
        grads += [cell.bias_ih.grad[order, None] for cell in network.cells]
    return grads


def workload(name):
    import workloads

    return {
        "bowl": lambda: workloads.bowl(7),
        "quadratic": lambda: workloads.quadratic(1),
        "quadratics": lambda: workloads.quadratic(3),
        "mnist_mlp": lambda: workloads.mnist_mlp(1),
        "mnist_mlps": lambda: workloads.mnist_mlp(2),
        "cnn": workloads.cnn,
    }[name]()


@pytest.mark.parametrize("engine", ["torch", "auto"])
@pytest.mark.parametrize("name", ["bowl", "quadratic", "quadratics", "mnist_mlp", "mnist_mlps", "cnn"])
def test_the_reference_has_the_same_meta_gradient(name, engine, monkeypatch):
    import sides

    monkeypatch.delenv("META_OPT_DATA_DIR", raising=False)
    monkeypatch.setattr(sides, "LR", 0.0)  # the reference has two biases per gate, which would both take the step
    chosen = workload(name)
    optimizee = chosen.make()
    ours = sides.MetaOptSide(chosen, optimizee, engine, torch.float64)
    plain = sides.PlainSide(chosen, optimizee, torch.float64)
    ours.start()
    plain.start()
    for num_steps in (3, 2):  # the second unroll goes on from a state that is not zero
        torch.testing.assert_close(ours.meta_step(num_steps), plain.meta_step(num_steps), rtol=1e-10, atol=1e-10)
        pairs = zip(ours.optimizer.trained_parameters(), plain_grads(plain.trainer), strict=True)
        for parameter, grad in pairs:
            torch.testing.assert_close(parameter.grad, grad, rtol=1e-10, atol=1e-10)
            assert parameter.grad.any()


def test_flops_of_the_paper_s_network():
    import measuring

    # Products: 80·(2 + 20) + 80·(20 + 20) + 20 = 4980, and forward, forward, and twice backward without 80·2 of them.
    assert measuring.network_flops(2, 20, 2, num_coordinates=3, num_problems=5) == 15 * (2 * 4980 * 4 - 2 * 160)
    assert measuring.network_flops(1, 20, 1, num_coordinates=1, num_problems=1) == 2 * (80 * 21 + 20) * 4 - 2 * 80


def test_memory_that_would_not_fit_is_left_out(monkeypatch):
    import measuring
    import workloads

    monkeypatch.setattr(measuring, "side_names", lambda device: ["native", "plain"])
    taken = {"native": 10_000, "plain": 1_000_000}
    monkeypatch.setattr(
        measuring, "in_fresh_process", lambda _, workload, side, __: taken[side] * workload.num_steps // 20
    )
    bench = measuring.Bench(threads=1, repeats=1, memory_limit_gb=0.004)
    assert bench.memory(workloads.bowl(1000))["peak_mb"] == {"native": 0.01, "plain": 1.0}
    line = bench.memory(workloads.bowl(5000))
    assert line["peak_mb"] == {"native": 0.01}
    assert line["skipped"] == {"plain": "would take about 0.005 GB"}
    assert line["recorded_gradients_mb"] == 5000 * 20 * 4 / 1e6


def test_chebyshev_leaves_the_errors_that_its_polynomials_say():
    import quadratics

    eigenvalues, errors = quadratics.decompose("validation", 3)
    kappa = torch.tensor(0.01, dtype=torch.float64)
    low, high = kappa * eigenvalues[:, -1:], eigenvalues[:, -1:]
    losses = quadratics.chebyshev(eigenvalues, errors, kappa, 5)
    problems = Problems(Quadratic(), "validation", range(3), seed=0, dtype=torch.float64)
    torch.testing.assert_close(losses[0], problems.evaluate(problems.initial_params).loss)
    polynomial = torch.special.chebyshev_polynomial_t
    for step in range(6):
        left = polynomial((low + high - 2 * eigenvalues) / (high - low), step)
        left = left / polynomial((low + high) / (high - low), step)
        torch.testing.assert_close(losses[step], (eigenvalues * (left * errors) ** 2 / 2).sum(1))


def test_lbfgs_takes_one_gradient_a_step():
    import quadratics

    losses = quadratics.lbfgs("validation", 3, 0.5, 2)
    problems = Problems(Quadratic(), "validation", range(3), seed=0, dtype=torch.float64)
    start = problems.evaluate(problems.initial_params)
    torch.testing.assert_close(losses[0], start.loss)
    step = 0.5 * start.grad / start.grad.abs().sum(1, keepdim=True)  # PyTorch's first step
    torch.testing.assert_close(losses[1], problems.evaluate(start.params - step).loss)
    assert losses.shape == (3, 3)
    assert (losses[2] < losses[1]).all()


def test_a_meta_training_that_is_there_is_not_repeated(monkeypatch, tmp_path):
    import collecting

    runs = []

    def fit(args):
        runs.append(args)
        root = Path(args[args.index("--trainer.default_root_dir") + 1])
        made = root / "checkpoints" / "bowl" / "run_0"
        made.mkdir(parents=True)
        (made / "best.ckpt").write_bytes(b"")
        return 0

    monkeypatch.setattr(collecting, "main", fit)
    first = collecting.meta_train(tmp_path, "a", "--optimizee", "bowl")
    assert first.name == "best.ckpt"
    assert collecting.meta_train(tmp_path, "a", "--optimizee", "bowl") == first
    assert [args[:3] for args in runs] == [["fit", "--optimizee", "bowl"]]
    with pytest.raises(RuntimeError, match="another run a, with --optimizee bowl; take a new --folder"):
        collecting.meta_train(tmp_path, "a", "--optimizee", "quadratic")
    monkeypatch.setattr(collecting, "main", lambda args: 2)
    with pytest.raises(RuntimeError, match="meta-opt fit --optimizee none ended with status 2"):
        collecting.meta_train(tmp_path, "b", "--optimizee", "none")


def test_the_memory_and_the_averages_that_are_drawn():
    import inside

    problems = Problems(Quadratic(), "validation", range(3), seed=0)
    optimizer = NTMBFGS(hidden_size=4, initial_output=1.0)
    optimizer.build(problems.layout, problem_generator(0, "phi"))
    state = inside.states(optimizer, problems, 4)[0][-1]
    read = (inside.memory_of(optimizer, state) @ state.asked.unsqueeze(2)).squeeze(2)
    torch.testing.assert_close(read, state.read, rtol=1e-3, atol=1e-5)
    optimizer = LSTMGAC(hidden_size=4, num_averaging=2)
    optimizer.build(problems.layout, problem_generator(0, "phi"))
    found = inside.states(optimizer, problems, 4)[0]
    averages = inside.averages_in(found, 2, 3)
    assert averages.shape == (4, 4, 3)
    hidden = found[2].hidden[1].view(4, 3, 10)
    torch.testing.assert_close(averages[2, 3], hidden[1, :, 7])  # layer 2, cell 2; as any coordinate has it


def test_noise_of_meta_gradients_by_hand():
    """Of (1, 1), (3, 1), (1, 3), (3, 3) the covariance has the trace 8/3, and the mean's square 8 is 2/3 too large."""
    import meta_gradient_noise

    gradients = torch.tensor([[1.0, 1.0], [3.0, 1.0], [1.0, 3.0], [3.0, 3.0]])
    assert meta_gradient_noise.noise(gradients) == pytest.approx(((8 / 3) / (8 - 2 / 3)) ** 0.5)


def test_first_order_is_less_noisy_than_a_policy_gradient():
    """On the same problems, by the script's own estimates."""
    import meta_gradient_noise as script

    first_order, policy_gradient = (
        script.noise(script.estimates("quadratic", "coordinate", script.ESTIMATORS[name], 24, 4))
        for name in ("first_order", "PPO, as is default")
    )
    assert first_order < 1.0 < policy_gradient


def test_one_episode_learns_on_the_way():
    """The first unroll is that of the agent that learns nothing; then they part."""
    import one_episode

    still, learns = (one_episode.losses_of("rosenbrock", lr, 0.01, 2 * one_episode.UNROLL, 0) for lr in (0.0, 0.01))
    assert torch.equal(still[: one_episode.UNROLL], learns[: one_episode.UNROLL])
    assert not torch.equal(still, learns)
    assert learns.isfinite().all()
