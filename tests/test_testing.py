"""Each check of the plugin kit fails on what is broken in just that way, and all others pass."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from problems_for_tests import Polynomials, Regression, Square
from torch import Generator, Tensor, nn

from meta_opt.api import Evaluation, Layout, Optimizee, OptimizerNetwork, Rollout, Split, Step, TensorDict, axis
from meta_opt.testing import check_optimizee, check_optimizer, optimizee_checks, optimizer_checks


class Good(Regression):
    """Learns from examples of a data set: 300 for each split."""

    def __init__(self, scale: float = 0.5) -> None:
        super().__init__(scale)
        self.x = torch.randn(900, 3, generator=Generator().manual_seed(0))

    def sample_batch(self, split: Split, generator: Generator) -> TensorDict:
        first = 300 * ("train", "validation", "test").index(split)
        rows = torch.randint(first, first + 300, (6,), generator=generator)
        return {"x": self.x[rows.to(self.x.device)]}


class DataInFloat64(Good):
    """What comes from numpy is in float64; problems are evaluated in float32, see docs/plugins.md."""

    def sample_problem(self, split: Split, generator: Generator) -> TensorDict:
        return {key: value.double() for key, value in super().sample_problem(split, generator).items()}

    def sample_batch(self, split: Split, generator: Generator) -> TensorDict:
        return {key: value.double() for key, value in super().sample_batch(split, generator).items()}


class ParametersOfAModule(Good):
    """As good as any: they say that they want gradients."""

    def init_params(self, generator: Generator) -> TensorDict:
        return {name: nn.Parameter(value) for name, value in super().init_params(generator).items()}

    def sample_problem(self, split: Split, generator: Generator) -> TensorDict:
        return {key: value.requires_grad_() for key, value in super().sample_problem(split, generator).items()}


class DrawsAPair(Good):
    def sample_batch(self, split: Split, generator: Generator) -> Any:
        return (*super().sample_batch(split, generator).values(), torch.zeros(6))


class OtherShapes(Good):
    def sample_problem(self, split: Split, generator: Generator) -> TensorDict:
        size = int(torch.randint(1, 50, (), generator=generator))
        return super().sample_problem(split, generator) | {"unused": torch.zeros(size)}


class VectorMetric(Good):
    def metrics(self, params: TensorDict, problem: TensorDict, batch: TensorDict) -> TensorDict:
        return {"outputs": batch["x"][:, 0]}


class InfiniteOnTest(Good):
    def sample_batch(self, split: Split, generator: Generator) -> TensorDict:
        batch = super().sample_batch(split, generator)
        return {"x": batch["x"] / (split != "test")}


class HoldsBackNothingOnTest(Good):
    def sample_held_back(self, split: Split, generator: Generator) -> TensorDict:
        return {} if split == "test" else self.sample_batch(split, generator)


class FlatStart(Square):
    def init_params(self, generator: Generator) -> TensorDict:
        return {"x": torch.zeros(1)}


class GlobalRandomness(Good):
    def init_params(self, generator: Generator) -> TensorDict:
        return {name: torch.randn(value.shape) for name, value in super().init_params(generator).items()}


class PythonRandomness(Good):
    def sample_problem(self, split: Split, generator: Generator) -> TensorDict:
        return {"slope": super().sample_problem(split, generator)["slope"] + random.random()}


class ChangesItsBatch(Good):
    def loss(self, params: TensorDict, problem: TensorDict, batch: TensorDict) -> Tensor:
        batch["x"] = batch["x"] + 1
        return super().loss(params, problem, batch)


class Counts(Good):
    calls = 0

    def loss(self, params: TensorDict, problem: TensorDict, batch: TensorDict) -> Tensor:
        self.calls += 1
        return super().loss(params, problem, batch) * self.calls


class LooksAtValues(Good):
    def loss(self, params: TensorDict, problem: TensorDict, batch: TensorDict) -> Tensor:
        sign = 1 if params["second.bias"].item() > 0 else -1
        return super().loss(params, problem, batch) + sign


class DependsOnTheCrowd(Good):
    def loss(self, params: TensorDict, problem: TensorDict, batch: TensorDict) -> Tensor:
        alone = "BatchedTensor" not in repr(params["second.bias"])
        return super().loss(params, problem, batch) + alone


class OneForAllSplits(Good):
    def sample_batch(self, split: Split, generator: Generator) -> TensorDict:
        return super().sample_batch("train", generator)


class StaysBehind(Good):
    def __init__(self) -> None:
        super().__init__()
        self._offset = [torch.zeros(6, 3)]  # in a list, where ``to`` does not find it

    def loss(self, params: TensorDict, problem: TensorDict, batch: TensorDict) -> Tensor:
        return super().loss(params, problem, {"x": batch["x"] + self._offset[0]})


class MovesAway(Good):
    def to(self, device: torch.device | str) -> Optimizee:
        return Good().to(device)


class HoldsALambda(Good):
    def __init__(self) -> None:
        super().__init__()
        self._double = lambda x: 2 * x


class ForgetsWhenPickled(Good):
    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__ = state | {"x": 2 * state["x"]}


class GroupsOneOnly(Good):
    def groups(self) -> dict[str, str]:
        return {"first.bias": "biases"}


class GroupsTooMany(Good):
    def groups(self) -> dict[str, str]:
        return {**super().groups(), "third.bias": "third"}


class Uphill(Good):
    def loss(self, params: TensorDict, problem: TensorDict, batch: TensorDict) -> Tensor:
        loss = super().loss(params, problem, batch)
        return 2 * loss.detach() - loss


class BadAdvice(Good):
    @classmethod
    def recommended_settings(cls) -> dict[str, Any]:
        return {"model.number_of_steps": 7}


class AdviceToNobody(Good):
    @classmethod
    def recommended_settings(cls) -> dict[str, Any]:
        return {"alpha_opt:model.lr": 0.1, "alpha_op:model.lr": 0.1}


class AdviceToAnotherNetwork(Good):
    @classmethod
    def recommended_settings(cls) -> dict[str, Any]:
        return {"alpha_opt:model.lr": 0.1, "alpha_opt:optimizer.preprocessing_p": 10}


class ArgumentThatIsAnObject(Good):
    def __init__(self, data: Any) -> None:
        super().__init__()


class HoldsBackIfAsked(Good):
    def sample_held_back(self, split: Split, generator: Generator) -> TensorDict:
        return {}

    def metrics(self, params: TensorDict, problem: TensorDict, batch: TensorDict) -> TensorDict:
        return {"of_no_examples": torch.tensor(torch.nan)}


BROKEN_OPTIMIZEES: list[tuple[Callable[[], Optimizee], str, str]] = [
    (DrawsAPair, "shapes", "DrawsAPair.sample_batch must return named tensors, a dict, found tuple"),
    (OtherShapes, "shapes", "OtherShapes.sample_problem returns 'unused' with shape"),
    (VectorMetric, "shapes", "VectorMetric: outputs must be a scalar tensor"),
    (InfiniteOnTest, "finite_loss_and_gradient", "is not finite at θ_0: nan on the test split"),
    (FlatStart, "finite_loss_and_gradient", "has a gradient of zero at θ_0"),
    (GlobalRandomness, "randomness_from_the_generator", "draws from PyTorch's global generator"),
    (PythonRandomness, "randomness_from_the_generator", "sample_problem gives another result with the same generator"),
    (HoldsBackNothingOnTest, "held_back_batches", "HoldsBackNothingOnTest.sample_held_back gives none"),
    (ChangesItsBatch, "pure_loss", "ChangesItsBatch.loss changes its argument batch in place"),
    (Counts, "pure_loss", "Counts.loss gives another result when it is called again"),
    (LooksAtValues, "problems_side_by_side", "no .item()"),
    (DependsOnTheCrowd, "problems_side_by_side", "beside others"),
    (OneForAllSplits, "separate_splits", "of the same examples for the splits train and validation"),
    (StaysBehind, "device_moves", "does not work on another device"),
    (MovesAway, "device_moves", "MovesAway.to must return the object itself"),
    (HoldsALambda, "pickling", "keep no lambda"),
    (ForgetsWhenPickled, "pickling", "once it is pickled and back"),
    (GroupsOneOnly, "groups_of_all_parameters", "leaves out first.weight, second.bias, second.weight"),
    (GroupsTooMany, "groups_of_all_parameters", "groups names third.bias, but the parameters are"),
    (Uphill, "adam_lowers_the_loss", "20 steps of Adam with learning rates"),
    (BadAdvice, "recommended_settings", "recommends a setting model.number_of_steps"),
    (AdviceToNobody, "recommended_settings", "alpha_op:model.lr, but no optimizer is called 'alpha_op'; there are"),
    (
        AdviceToAnotherNetwork,
        "recommended_settings",
        "alpha_opt:optimizer.preprocessing_p, but there is no such option",
    ),
    (lambda: ArgumentThatIsAnObject(object()), "plain_arguments", "an argument that is no plain value"),
]


@dataclass(frozen=True)
class Memory:
    mean: Tensor = axis("coordinate")  # [B, N]


class Momentum(OptimizerNetwork):
    """m_{t+1} = βm_t + ∇_t, update = -α·m_{t+1}, with α and β learned."""

    scope = "coordinate"

    def __init__(self, lr: float = 0.1) -> None:
        super().__init__()
        self.lr = lr

    def build(self, layout: Layout, generator: Generator) -> None:
        self.weights = nn.Parameter(torch.tensor([self.lr, 0.5]) + 0.01 * torch.rand(2, generator=generator))

    def init_state(self, layout: Layout, num_problems: int) -> Memory:
        return Memory(self.weights.new_zeros(num_problems, layout.num_coordinates))

    def step(self, evaluation: Evaluation, state: Memory, noise: Generator | None = None) -> Step:
        mean = self.weights[1] * state.mean + evaluation.grad
        return Step(-self.weights[0] * mean, Memory(mean))


class RandomBuild(Momentum):
    def build(self, layout: Layout, generator: Generator) -> None:
        self.weights = nn.Parameter(torch.rand(2))


class TransposedUpdate(Momentum):
    def step(self, evaluation: Evaluation, state: Memory, noise: Generator | None = None) -> Step:
        update, state, _ = super().step(evaluation, state)
        return Step(update.T, state)


class InPlace(Momentum):
    def step(self, evaluation: Evaluation, state: Memory, noise: Generator | None = None) -> Step:
        with torch.no_grad():
            state.mean.mul_(2)
        return super().step(evaluation, state)


class StepsInPlace(Rollout):
    def step(self, evaluation: Evaluation) -> Tensor:
        start = self.state.mean
        update = super().step(evaluation)
        start.copy_(self.state.mean)
        self.state = Memory(start)
        return update


class OverwritesTheStart(Momentum):
    def rollout(self, state: Memory, noise: Generator | None = None) -> Rollout:
        return StepsInPlace(self, state)


class RollsOutOtherwise(Momentum):
    def rollout(self, state: Memory, noise: Generator | None = None) -> Rollout:
        return super().rollout(Memory(2 * state.mean))


class ScalesTheGradient(Momentum):
    def step(self, evaluation: Evaluation, state: Memory, noise: Generator | None = None) -> Step:
        evaluation.grad.mul_(2)
        return super().step(evaluation, state)


class CountsSteps(Momentum):
    count = 0

    def step(self, evaluation: Evaluation, state: Memory, noise: Generator | None = None) -> Step:
        self.count += 1
        update, state, _ = super().step(evaluation, state)
        return Step(update / self.count, state)


class DividesByZero(Momentum):
    def step(self, evaluation: Evaluation, state: Memory, noise: Generator | None = None) -> Step:
        update, state, _ = super().step(evaluation, state)
        return Step(update / evaluation.grad.norm(dim=1, keepdim=True), state)


class MixesProblems(Momentum):
    def step(self, evaluation: Evaluation, state: Memory, noise: Generator | None = None) -> Step:
        update, state, _ = super().step(evaluation, state)
        return Step(update.mean(0).expand_as(update), state)


class KnowsPlaces(Momentum):
    def step(self, evaluation: Evaluation, state: Memory, noise: Generator | None = None) -> Step:
        update, state, _ = super().step(evaluation, state)
        return Step(update * torch.arange(update.shape[1]), state)


class Restless(Momentum):
    rests = True

    def step(self, evaluation: Evaluation, state: Memory, noise: Generator | None = None) -> Step:
        update, state, _ = super().step(evaluation, state)
        return Step(update - 1e-3, state)


class ForgetsBetweenUnrolls(Momentum):
    def rollout(self, state: Memory, noise: Generator | None = None) -> Rollout:
        return super().rollout(Memory(torch.zeros_like(state.mean)))


class HidesAWeight(Momentum):
    def build(self, layout: Layout, generator: Generator) -> None:
        super().build(layout, generator)
        self.hidden = torch.rand((), generator=generator)

    def step(self, evaluation: Evaluation, state: Memory, noise: Generator | None = None) -> Step:
        update, state, _ = super().step(evaluation, state)
        return Step(update * self.hidden, state)


class IdleWeight(Momentum):
    def build(self, layout: Layout, generator: Generator) -> None:
        super().build(layout, generator)
        self.idle = nn.Parameter(torch.zeros(3))


class WrongReplay(Momentum):
    def replay(
        self,
        evaluations: Sequence[Evaluation],
        state: Memory,
        coefficients: Sequence[Tensor],
        columns: Tensor | None = None,
    ) -> tuple[Tensor, ...]:
        return tuple(2 * grad for grad in super().replay(evaluations, state, coefficients, columns))


class ReplaysOtherColumns(Momentum):
    def replay(
        self,
        evaluations: Sequence[Evaluation],
        state: Memory,
        coefficients: Sequence[Tensor],
        columns: Tensor | None = None,
    ) -> tuple[Tensor, ...]:
        if columns is not None:
            zeros = [torch.zeros_like(evaluation.grad) for evaluation in evaluations]
            others = columns.flip(0)
            coefficients = [zero.index_copy(1, others, part) for zero, part in zip(zeros, coefficients, strict=True)]
        return super().replay(evaluations, state, coefficients)


class KnowsNoColumns(Momentum):
    def replay(  # type: ignore[override]
        self, evaluations: Sequence[Evaluation], state: Memory, coefficients: Sequence[Tensor]
    ) -> tuple[Tensor, ...]:
        return super().replay(evaluations, state, coefficients)


class FixedType(Momentum):
    def init_state(self, layout: Layout, num_problems: int) -> Memory:
        return Memory(torch.zeros(num_problems, layout.num_coordinates, dtype=torch.float64))


class ObjectInside(Momentum):
    def __init__(self, schedule: Any) -> None:
        super().__init__()


class AdvisesWell(Momentum):
    @classmethod
    def recommended_settings(cls) -> dict[str, Any]:
        return {"model.lr": 0.01, "optimizer.lr": 0.1}


class AdviceToTheOptimizer(Momentum):
    @classmethod
    def recommended_settings(cls) -> dict[str, Any]:
        return {"optimizer.learning_rate": 0.1}


class ReachesTooFar(Momentum):
    def step(self, evaluation: Evaluation, state: Memory, noise: Generator | None = None) -> Step:
        update, state, _ = super().step(evaluation, state)
        return Step(update / (1 + update.norm(dim=1, keepdim=True)), state)


class ReadsInSecret(Momentum):
    def step(self, evaluation: Evaluation, state: Memory, noise: Generator | None = None) -> Step:
        update, state, _ = super().step(evaluation, state)
        return Step(update * evaluation.loss.unsqueeze(1), state)


@dataclass(frozen=True)
class Unsaid:
    mean: Tensor


class SaysNoAxis(Momentum):
    def init_state(self, layout: Layout, num_problems: int) -> Unsaid:  # type: ignore[override]
        return Unsaid(super().init_state(layout, num_problems).mean)


@dataclass(frozen=True)
class Halves:
    mean: Tensor = axis("coordinate")  # [B, N]
    count: int = 0  # no tensor, so that it is lost when the state is cut


class KeepsHalves(Momentum):
    def init_state(self, layout: Layout, num_problems: int) -> Halves:  # type: ignore[override]
        return Halves(super().init_state(layout, num_problems).mean)

    def step(self, evaluation: Evaluation, state: Halves, noise: Generator | None = None) -> Step:  # type: ignore
        update, memory, _ = super().step(evaluation, Memory(state.mean))
        return Step(update / (1 + state.count), Halves(memory.mean, state.count + 1))


class GlobalNoise(Momentum):
    def step(self, evaluation: Evaluation, state: Memory, noise: Generator | None = None) -> Step:
        update, state, _ = super().step(evaluation, state)
        return Step(update * (1 + torch.rand(())), state)


class KnowsTensors(Momentum):
    """An order of tensors, which the drop-in does not keep."""

    scope = "problem"

    def step(self, evaluation: Evaluation, state: Memory, noise: Generator | None = None) -> Step:
        update, state, _ = super().step(evaluation, state)
        first = update.abs().amax(1, keepdim=True) == update[:, :4].abs().amax(1, keepdim=True)
        return Step(update * (1 + first), state)


class KnowsAutocast(Momentum):
    def step(self, evaluation: Evaluation, state: Memory, noise: Generator | None = None) -> Step:
        update, state, _ = super().step(evaluation, state)
        return Step(update * (2 if torch.get_autocast_dtype("cpu") == torch.float16 else 1), state)


@dataclass(frozen=True)
class Deep:
    parts: dict[str, list[Memory]] = axis(None)


class DeepState(Momentum):
    """As good as any: states may be nested."""

    def init_state(self, layout: Layout, num_problems: int) -> Deep:  # type: ignore[override]
        return Deep({"all": [super().init_state(layout, num_problems)]})

    def step(self, evaluation: Evaluation, state: Deep, noise: Generator | None = None) -> Step:  # type: ignore
        update, memory, _ = super().step(evaluation, state.parts["all"][0])
        return Step(update, Deep({"all": [memory]}))


class LearnedStart(Momentum):
    """As good as any: the first state is made of φ."""

    def init_state(self, layout: Layout, num_problems: int) -> Memory:
        ones = self.weights.new_ones(layout.num_coordinates, 2)
        return Memory((ones @ self.weights).expand(num_problems, -1))


@dataclass(frozen=True)
class OfTensors:
    mean: Tensor = axis("tensor")  # which it is not


class WrongAxisDeepInside(DeepState):
    def init_state(self, layout: Layout, num_problems: int) -> Deep:  # type: ignore[override]
        return Deep({"all": [OfTensors(super().init_state(layout, num_problems).parts["all"][0].mean)]})  # type: ignore


@dataclass(frozen=True)
class Matrix:
    mean: Tensor = axis("coordinate")  # [B, N]
    pairs: Tensor = axis("pair")  # [B, N, N]


class PairsOfCoordinates(Momentum):
    def init_state(self, layout: Layout, num_problems: int) -> Matrix:  # type: ignore[override]
        mean = super().init_state(layout, num_problems).mean
        return Matrix(mean, mean.unsqueeze(2) * mean.unsqueeze(1))

    def step(self, evaluation: Evaluation, state: Matrix, noise: Generator | None = None) -> Step:  # type: ignore
        update, memory, _ = super().step(evaluation, Memory(state.mean))
        return Step(update, Matrix(memory.mean, state.pairs))


class HalfOfTheMatrix(PairsOfCoordinates):
    scope = "problem"

    def init_state(self, layout: Layout, num_problems: int) -> Matrix:
        state = super().init_state(layout, num_problems)
        return Matrix(state.mean, state.pairs[:, 1:])


@dataclass(frozen=True)
class Items:
    means: Any = axis("each")


class MeansOfTensors(Momentum):
    """As good as any: what is remembered of each tensor is an item of its own."""

    scope = "tensor"

    def init_state(self, layout: Layout, num_problems: int) -> Items:  # type: ignore[override]
        return Items(super().init_state(layout, num_problems).mean.split(list(layout.sizes), dim=1))

    def step(self, evaluation: Evaluation, state: Items, noise: Generator | None = None) -> Step:  # type: ignore
        update, memory, _ = super().step(evaluation, Memory(torch.cat(state.means, 1)))
        return Step(update, Items(memory.mean.split([mean.shape[1] for mean in state.means], dim=1)))


class TooManyItems(MeansOfTensors):
    def init_state(self, layout: Layout, num_problems: int) -> Items:
        return Items((*super().init_state(layout, num_problems).means, torch.zeros(num_problems, 0)))


class NoItems(MeansOfTensors):
    def init_state(self, layout: Layout, num_problems: int) -> Items:
        return Items(torch.cat(super().init_state(layout, num_problems).means, 1))

    def step(self, evaluation: Evaluation, state: Items, noise: Generator | None = None) -> Step:  # type: ignore
        return Step(super().step(evaluation, Items((state.means,))).update, state)


class StartsAnyhow(Momentum):
    """By so little that it is not seen in one step."""

    def init_state(self, layout: Layout, num_problems: int) -> Memory:
        return Memory(1e-4 * torch.rand_like(super().init_state(layout, num_problems).mean))


class ItemsOfMatrices(MeansOfTensors):
    def init_state(self, layout: Layout, num_problems: int) -> Items:
        means = super().init_state(layout, num_problems).means
        return Items(tuple(mean for mean, shape in zip(means, layout.shapes, strict=True) if len(shape) > 1))


@dataclass(frozen=True)
class Shared:
    mean: Tensor = axis("problem")  # which it is not


class OneForAll(MeansOfTensors):
    def init_state(self, layout: Layout, num_problems: int) -> Shared:  # type: ignore[override]
        return Shared(torch.cat(super().init_state(layout, num_problems).means, 1))


class CountsTheRest(Momentum):
    """How many coordinates there are is more than the tensor's own."""

    scope = "tensor"

    def step(self, evaluation: Evaluation, state: Memory, noise: Generator | None = None) -> Step:
        update, state, _ = super().step(evaluation, state)
        return Step(update / update.shape[1], state)


class CountsAllCoordinates(CountsTheRest):
    scope = "coordinate"


class KnowsItsType(Momentum):
    def step(self, evaluation: Evaluation, state: Memory, noise: Generator | None = None) -> Step:
        update, state, _ = super().step(evaluation, state)
        return Step(update * (1 + (update.dtype == torch.float32)), state)


@dataclass(frozen=True)
class Begun:
    mean: Tensor = axis("coordinate")  # [B, N]
    tag: tuple[str, ...] = ()  # no tensor: lost in what is saved


class RemembersWords(Momentum):
    def init_state(self, layout: Layout, num_problems: int) -> Begun:  # type: ignore[override]
        return Begun(super().init_state(layout, num_problems).mean)

    def step(self, evaluation: Evaluation, state: Begun, noise: Generator | None = None) -> Step:  # type: ignore
        update, memory, _ = super().step(evaluation, Memory(state.mean))
        return Step(update / (1 + len(state.tag)), Begun(memory.mean, (*state.tag, "step")))


class OtherForward(Momentum):
    def forward(self, evaluation: Evaluation, state: Memory, noise: Generator | None = None) -> Step:
        return Step(2 * self.step(evaluation, state).update, state)


BROKEN_OPTIMIZERS: list[tuple[Callable[[], OptimizerNetwork], str, str]] = [
    (RandomBuild, "weights_from_the_generator", "RandomBuild.build makes another weights from the same generator"),
    (TransposedUpdate, "update_shape", "must return an update [B, N], [3, 17], not [17, 3]"),
    (InPlace, "pure_step", "InPlace.step changes state.mean of the state in place"),
    (ScalesTheGradient, "pure_step", "changes grad of the evaluation in place"),
    (CountsSteps, "pure_step", "gives another update when it is called again"),
    (
        OverwritesTheStart,
        "rollout_is_step_after_step",
        "OverwritesTheStart.rollout changes state.mean of the state that",
    ),
    (RollsOutOtherwise, "rollout_is_step_after_step", "RollsOutOtherwise.rollout gives other updates than step"),
    (DividesByZero, "finite_updates", "an update that is not finite at gradients of 0"),
    (MixesProblems, "problems_side_by_side", "a problem beside others another update than alone"),
    (KnowsPlaces, "permuted_coordinates", "to the same coordinates in another order"),
    (ReachesTooFar, "influence_within_the_scope", "the grad of a coordinate changes updates beyond its coordinate"),
    (ReadsInSecret, "what_is_not_read_has_no_influence", "the optimizer reads loss, which is not known here"),
    (SaysNoAxis, "axes_of_the_state", "state.mean does not say what its last axis goes through"),
    (KeepsHalves, "states_of_parameters", "cut into those of parameters and joined again gives other updates"),
    (GlobalNoise, "noise_from_the_generator", "gives another update with an equal source of noise"),
    (OtherForward, "functional_calls", "functional_call does not use the weights given"),
    (Restless, "rest_without_gradient", "Restless rests, but moves a coordinate whose gradients"),
    (ForgetsBetweenUnrolls, "segments_equal_the_whole", "otherwise when an episode is cut into unrolls"),
    (HidesAWeight, "save_and_reload", "has weights that its state_dict does not hold"),
    (IdleWeight, "gradient_reaches_every_weight", "no gradient reaches idle"),
    (WrongReplay, "replay_is_backpropagation", "WrongReplay.replay gives another gradient of weights"),
    (ReplaysOtherColumns, "replay_of_some_coordinates", "of some columns gives another gradient of weights than they"),
    (KnowsNoColumns, "replay_of_some_coordinates", "KnowsNoColumns.replay must take columns"),
    (FixedType, "state_follows_the_weights", "makes state.mean in torch.float64 on cpu, but the weights are in"),
    (AdviceToTheOptimizer, "recommended_settings", "recommends a setting optimizer.learning_rate, but there"),
    (KnowsTensors, "permuted_coordinates", "KnowsTensors gives other updates to tensors that are alike in another ord"),
    (KnowsAutocast, "autocast_changes_nothing", "KnowsAutocast: torch.autocast around an unroll changes it"),
    (
        WrongAxisDeepInside,
        "axes_of_the_state",
        "the axis of state.parts.all.0.mean is tensor, and so its shape must be",
    ),
    (
        PairsOfCoordinates,
        "axes_of_the_state",
        "state.pairs goes through pairs of coordinates, and so the scope must be",
    ),
    (HalfOfTheMatrix, "axes_of_the_state", "state.pairs is pair, and so its shape must be [..., 3, 19, 19] for 3 pro"),
    (TooManyItems, "axes_of_the_state", "state.means.3 is of one more than the 3 tensors"),
    (
        ItemsOfMatrices,
        "states_of_tensors",
        "for the tensor 0, of shape [3], is means.0 [2, 8], but for this tensor alone",
    ),
    (
        OneForAll,
        "states_of_tensors",
        "for the tensor 0, of shape [3], is mean [2, 19], but for this tensor alone mean [2,",
    ),
    (StartsAnyhow, "steps_of_the_drop_in", "StartsAnyhow moves parameters in the drop-in otherwise than θ that"),
    (NoItems, "axes_of_the_state", "the axis of state.means is each, and so it must be in a tuple or list"),
    (CountsTheRest, "missing_gradients", "changes more than it may: its scope is the tensor"),
    (RemembersWords, "saved_states", "RemembersWords: a drop-in that loads the state of another goes on otherwise"),
    (CountsAllCoordinates, "missing_gradients", "a gradient that is missing for one step changes more than it may"),
    (KnowsItsType, "several_types", "KnowsItsType moves parameters of several types otherwise than those of float64"),
    (CountsAllCoordinates, "added_parameters", "a parameter that is added changes more than it may, or begins other"),
    (lambda: ObjectInside(object()), "plain_arguments", "an argument that is no plain value"),
]


@pytest.mark.parametrize(
    "optimizee",
    [Good(), DataInFloat64(), ParametersOfAModule(), Regression(), Polynomials()],
    ids=lambda each: type(each).__name__,
)
def test_good_optimizees_pass(optimizee: Optimizee) -> None:
    check_optimizee(optimizee)


@pytest.mark.parametrize(
    "make", [Momentum, AdvisesWell, DeepState, MeansOfTensors, LearnedStart], ids=lambda make: make.__name__
)
def test_good_optimizers_pass(make: Callable[[], OptimizerNetwork]) -> None:
    check_optimizer(make())


@pytest.mark.parametrize(("make", "name", "message"), BROKEN_OPTIMIZEES)
def test_broken_optimizees(make: Callable[[], Optimizee], name: str, message: str) -> None:
    (check,) = (each for each in optimizee_checks() if each.__name__ == name)
    with pytest.raises(AssertionError) as caught:
        check(make())
    assert message in str(caught.value)


@pytest.mark.parametrize("name", ["held_back_batches", "pure_loss"])
def test_what_is_no_fault(name: str) -> None:
    (check,) = (each for each in optimizee_checks() if each.__name__ == name)
    check(HoldsBackIfAsked())


@pytest.mark.parametrize(("make", "name", "message"), BROKEN_OPTIMIZERS)
def test_broken_optimizers(make: Callable[[], OptimizerNetwork], name: str, message: str) -> None:
    (check,) = (each for each in optimizer_checks() if each.__name__ == name)
    with pytest.raises(AssertionError) as caught:
        check(make())
    assert message in str(caught.value)


def test_every_check_has_something_that_it_fails_on() -> None:
    assert {name for _, name, _ in BROKEN_OPTIMIZEES} == {check.__name__ for check in optimizee_checks()}
    assert {name for _, name, _ in BROKEN_OPTIMIZERS} == {check.__name__ for check in optimizer_checks()}


def test_all_checks_are_run_to_the_last() -> None:
    with pytest.raises(AssertionError, match="no plain value"):
        check_optimizee(ArgumentThatIsAnObject(object()))
    with pytest.raises(AssertionError, match="KnowsItsType moves parameters of several types otherwise"):
        check_optimizer(KnowsItsType())


def test_a_family_is_named_with_its_variant() -> None:
    class Family(Polynomials):
        def variant(self, generator: Generator) -> Optimizee:
            return GroupsOneOnly()

    (check,) = (each for each in optimizee_checks() if each.__name__ == "groups_of_all_parameters")
    with pytest.raises(AssertionError, match="^Family, variant GroupsOneOnly.groups leaves out"):
        check(Family())


def test_a_built_optimizer_is_refused() -> None:
    optimizer = Momentum()
    optimizer.build(Layout.of({"x": torch.zeros(1)}), Generator())
    with pytest.raises(AssertionError, match="before its build"):
        check_optimizer(optimizer)
