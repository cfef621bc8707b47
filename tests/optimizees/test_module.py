import math
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Generator, Tensor, nn
from torch.nn.functional import mse_loss

from meta_opt.errors import OptimizeeError
from meta_opt.memory import ShortageError
from meta_opt.optimizees.checking import check_loss
from meta_opt.optimizees.contract import Split
from meta_opt.optimizees.module import ModuleOptimizee
from meta_opt.optimizees.problems import Problems

SPLITS: tuple[Split, ...] = ("train", "validation", "test")


class Recurrent(nn.Module):
    """The class of a sequence, from the last output of a recurrent layer."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer
        self.output = nn.Linear(4, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        outputs, _ = self.layer(inputs.flatten(2))
        return self.output(outputs[:, -1])


class Tied(nn.Module):
    """A linear layer that is applied twice, under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(36, 36)
        self.second = self.first

    def forward(self, inputs: Tensor) -> Tensor:
        return self.second(self.first(inputs.flatten(1)).tanh())[:, :3]


def convolutional() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(4, 5, 2),
        nn.BatchNorm2d(5, track_running_stats=False),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(5, 3),
    )


MODULES: dict[str, Callable[[], nn.Module]] = {
    "mlp": lambda: nn.Sequential(nn.Flatten(), nn.Linear(36, 5), nn.Tanh(), nn.Linear(5, 3)),
    "convolutional": convolutional,
    "tied": Tied,
    "lstm": lambda: Recurrent(nn.LSTM(9, 4, num_layers=2, batch_first=True)),
    "gru": lambda: Recurrent(nn.GRU(9, 4, batch_first=True)),
}


def examples(count: int) -> tuple[Tensor, Tensor]:
    generator = Generator().manual_seed(count)
    return torch.randn(count, 4, 3, 3, generator=generator), torch.randint(3, (count,), generator=generator)


def make(module: Callable[[], nn.Module] = MODULES["mlp"], **options: Any) -> ModuleOptimizee:
    data = {"train": examples(30), "validation": examples(20), "test": examples(10)}
    return ModuleOptimizee(module, **{**data, "batch_size": 6, **options})


def seeded(seed: int = 0) -> Generator:
    return Generator().manual_seed(seed)


@pytest.mark.parametrize("init_std", [None, 0.1])
@pytest.mark.parametrize("name", MODULES)
def test_any_module_will_do(name: str, init_std: float | None) -> None:
    optimizee = make(MODULES[name], init_std=init_std)
    check_loss(optimizee, seeded())
    together = Problems(optimizee, "train", [0, 1, 2], seed=0, dtype=torch.float64)
    at_once = together.evaluate(together.initial_params)
    for index in range(3):
        alone = Problems(optimizee, "train", [index], seed=0, dtype=torch.float64)
        evaluation = alone.evaluate(alone.initial_params)
        torch.testing.assert_close(at_once.loss[index], evaluation.loss[0], rtol=1e-12, atol=0)
        torch.testing.assert_close(at_once.grad[index], evaluation.grad[0], rtol=1e-9, atol=1e-12)
        assert evaluation.grad.abs().max() > 0


@pytest.mark.parametrize("name", MODULES)
def test_loss_and_gradient_are_those_of_the_module(name: str) -> None:
    optimizee = make(MODULES[name])
    params, batch = optimizee.init_params(seeded()), optimizee.sample_batch("train", seeded())
    leaves = {key: value.clone().requires_grad_() for key, value in params.items()}
    loss = optimizee.loss(leaves, {}, batch)
    module = MODULES[name]()
    module.load_state_dict(params, strict=name != "tied")
    expected = nn.functional.cross_entropy(module(batch["inputs"]), batch["targets"])
    torch.testing.assert_close(loss, expected)
    grads = torch.autograd.grad(loss, list(leaves.values()))
    expected_grads = torch.autograd.grad(expected, list(module.parameters()))
    for grad, expected_grad in zip(grads, expected_grads, strict=True):
        torch.testing.assert_close(grad, expected_grad)


def test_recurrent_modules_are_evaluated_one_after_the_other() -> None:
    # torch.vmap has no rule for them.
    assert {name: make(module).vmappable for name, module in MODULES.items()} == {
        "mlp": True,
        "convolutional": True,
        "tied": True,
        "lstm": False,
        "gru": False,
    }


def test_tied_parameters_are_optimized_once() -> None:
    assert list(make(Tied).init_params(seeded())) == ["first.weight", "first.bias"]


def test_ten_lines_make_a_plugin() -> None:
    class Tiny(ModuleOptimizee):
        """A network with a hidden layer."""

        def __init__(self, hidden_size: int = 7) -> None:
            super().__init__(
                lambda: nn.Sequential(nn.Flatten(), nn.Linear(36, hidden_size), nn.ReLU(), nn.Linear(hidden_size, 3)),
                train=examples(30),
                validation=examples(20),
                test=examples(10),
            )

    optimizee = Tiny()
    assert optimizee.init_args == {"hidden_size": 7}
    assert {name: tuple(value.shape) for name, value in optimizee.init_params(seeded()).items()} == {
        "1.weight": (7, 36),
        "1.bias": (7,),
        "3.weight": (3, 7),
        "3.bias": (3,),
    }
    assert optimizee.sample_batch("train", seeded())["inputs"].shape == (128, 4, 3, 3)


def test_splits_draw_from_their_own_examples_and_from_all_of_them() -> None:
    # Inputs that are their own numbers.
    numbers = [(torch.arange(start, stop), torch.arange(start, stop)) for start, stop in ((0, 9), (9, 14), (14, 17))]
    optimizee = make(train=numbers[0], validation=numbers[1], test=numbers[2])
    for split, (expected, _) in zip(SPLITS, numbers, strict=True):
        generator = seeded()
        batches = [optimizee.sample_batch(split, generator) for _ in range(30)]
        assert all(torch.equal(batch["inputs"], batch["targets"]) for batch in batches)
        assert torch.cat([batch["inputs"] for batch in batches]).unique().tolist() == expected.tolist()
        assert torch.equal(optimizee.examples(split)[0], expected)


def test_init_std_is_that_of_weights_and_biases() -> None:
    optimizee = make(lambda: nn.Sequential(nn.Flatten(), nn.Linear(36, 2000)), init_std=0.05)
    for value in optimizee.init_params(seeded()).values():
        # The standard error of a standard deviation of n numbers is σ/√2n, at n = 2000 1.6 %.
        assert value.std().item() == pytest.approx(0.05, rel=0.05)
        assert value.mean().item() == pytest.approx(0.0, abs=0.05 * 3 / math.sqrt(value.numel()))


def test_an_init_std_of_zero_is_allowed() -> None:
    assert all(value.count_nonzero() == 0 for value in make(init_std=0.0).init_params(seeded()).values())


@pytest.mark.parametrize("init_std", [None, 0.1])
def test_initialization_depends_on_the_generator_alone(init_std: float | None) -> None:
    optimizee = make(init_std=init_std)
    torch.manual_seed(1)
    first = optimizee.init_params(seeded())
    torch.manual_seed(2)
    state = torch.get_rng_state()
    second, other = optimizee.init_params(seeded()), optimizee.init_params(seeded(1))
    assert torch.equal(torch.get_rng_state(), state)
    for name in first:
        assert torch.equal(first[name], second[name])
        assert (first[name] != other[name]).all()
        assert not first[name].requires_grad


def test_own_initialization_is_kept_without_init_std() -> None:
    # nn.Linear draws from (-1/√n, 1/√n), n the number of its inputs.
    weight = make().init_params(seeded())["1.weight"]
    assert weight.abs().max().item() == pytest.approx(1 / 6, rel=0.05)
    assert weight.abs().max() < 1 / 6


def test_making_one_leaves_the_global_generator_alone() -> None:
    state = torch.get_rng_state()
    make()
    assert torch.equal(torch.get_rng_state(), state)


def test_accuracy_of_classes() -> None:
    optimizee = make()
    batch = {"inputs": torch.zeros(4, 4, 3, 3), "targets": torch.tensor([2, 2, 0, 2])}
    params = {name: torch.zeros_like(value) for name, value in optimizee.init_params(seeded()).items()}
    params["3.bias"] = torch.tensor([0.0, 0.0, 1.0])  # always the class 2
    assert optimizee.metrics(params, {}, batch)["accuracy"].item() == 0.75


@pytest.mark.parametrize(
    ("outputs", "targets", "accuracy"),
    [
        (torch.eye(4)[:, :3], torch.tensor([0, 1, 2, 1]), 0.75),
        (torch.eye(3).expand(2, 3, 3)[:, :, :2], torch.tensor([[0, 1], [0, 0]]), 0.75),
        (torch.eye(3).expand(2, 3, 3), torch.tensor([[0, 1, 2], [0, 1, 2]]), None),  # which axis is that of classes?
        (torch.eye(5).expand(2, 5, 5)[:, :3], torch.tensor([[0, 1, 2], [0, 1, 2]]), None),
        (torch.ones(4, 1), torch.tensor([0, 1, 1, 1]), None),
        (torch.ones(4), torch.tensor([0, 1, 1, 1]), None),
        (torch.ones(4, 2), torch.tensor([True, False, True, True]), None),
    ],
)
def test_accuracy_only_where_outputs_can_only_be_scores(
    outputs: Tensor, targets: Tensor, accuracy: float | None
) -> None:
    class Says(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.said = nn.Parameter(outputs.clone())

        def forward(self, inputs: Tensor) -> Tensor:
            return self.said

    data = {split: (torch.zeros(len(targets), 1), targets) for split in SPLITS}
    optimizee = make(Says, **data)
    metrics = optimizee.metrics({"said": outputs}, {}, {"inputs": torch.zeros(len(targets), 1), "targets": targets})
    assert {name: value.item() for name, value in metrics.items()} == (
        {} if accuracy is None else {"accuracy": accuracy}
    )


def test_regression_with_another_criterion() -> None:
    data = {split: (torch.ones(5, 2), torch.full((5, 1), 3.0)) for split in SPLITS}
    optimizee = make(lambda: nn.Linear(2, 1), **data, criterion=mse_loss)
    params = {"weight": torch.full((1, 2), 0.5), "bias": torch.zeros(1)}
    batch = optimizee.sample_batch("train", seeded())
    assert optimizee.loss(params, {}, batch).item() == (1.0 - 3.0) ** 2
    assert optimizee.metrics(params, {}, batch) == {}


def test_to_moves_the_data() -> None:
    optimizee = make()
    assert optimizee.to("meta") is optimizee
    batch = optimizee.sample_batch("test", seeded())
    assert {tensor.device.type for tensor in batch.values()} == {"meta"}


def flat(*layers: nn.Module) -> Callable[[], nn.Module]:
    return lambda: nn.Sequential(nn.Flatten(), *layers)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "optimizee.batch_size must be at least 1, not 0"),
        ({"init_std": -0.1}, "optimizee.init_std must be a number of at least 0, not -0.1"),
        ({"init_std": math.nan}, "optimizee.init_std must be a number of at least 0, not nan"),
        ({"init_std": math.inf}, "optimizee.init_std must be a number of at least 0, not inf"),
        ({"test": examples(0)}, "the test data has 0 inputs and 0 targets"),
        ({"train": (torch.ones(3), torch.ones(4))}, "the train data has 3 inputs and 4 targets"),
        (
            {"train": (torch.ones(4, 2, 6), torch.ones(4)), "validation": (torch.ones(4, 3, 6), torch.ones(4))},
            "the inputs of train, validation, test have examples of different shapes: [4, 2, 6], [4, 3, 6], "
            "[10, 4, 3, 3]",
        ),
        ({"module": flat()}, "the module has no parameters to optimize"),
        (
            {"module": flat(nn.Linear(36, 3), nn.BatchNorm1d(3))},
            "the module has buffers (2.running_mean, 2.running_var, 2.num_batches_tracked), which its loss could not "
            "be a pure function of: do without, for batch normalization with track_running_stats=False",
        ),
        (
            {"module": flat(nn.Linear(36, 3).requires_grad_(False), nn.Linear(3, 3))},
            "the module has frozen parameters (1.weight, 1.bias), and all parameters of an optimizee are optimized: "
            "compute what does not change beforehand, as its inputs",
        ),
        (
            {"module": flat(nn.Linear(36, 3), nn.Dropout(0.1))},
            "the module drops out at random (2), which its loss could not be a pure function of: set dropout to 0",
        ),
        (
            {"module": lambda: nn.LSTM(9, 4, num_layers=2, dropout=0.5)},
            "the module drops out at random (LSTM), which its loss could not be a pure function of: set dropout to 0",
        ),
    ],
)
def test_what_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(OptimizeeError, match=f"^{re.escape(message)}$"):
        make(**options)


def test_dropout_of_zero_is_allowed() -> None:
    check_loss(make(flat(nn.Linear(36, 3), nn.Dropout(0.0))), seeded())


def test_a_module_that_does_not_fit_is_refused_before_it_is_filled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("meta_opt.memory.available", lambda: 10_000.0)
    filled: list[int] = []
    monkeypatch.setattr(nn.Linear, "reset_parameters", lambda layer: filled.append(layer.in_features))
    said = "there is not enough memory: at least 16 kB for modules whose weight has 1000 parameters; 10 kB are free"
    with pytest.raises(ShortageError, match=f"^{re.escape(said)}$"):
        make(lambda: nn.Sequential(nn.Linear(36, 10), nn.Linear(10, 100)))
    assert filled == [36]
    nn.Linear(10, 100)  # no hook is left behind
