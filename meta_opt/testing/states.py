"""What is remembered: in the state, along the axes that it says, and not in the optimizer."""

from __future__ import annotations

import pickle
from contextlib import nullcontext

import torch

from meta_opt.inner_loop.unroll import begin, unroll
from meta_opt.optimizees.layout import Layout
from meta_opt.optimizers.contract import InnerOptimizer, OptimizerNetwork
from meta_opt.optimizers.state import named_tensors
from meta_opt.testing.given import LAYOUT, NUM_STEPS, built, close, draw_evaluations, tensors_of, updates_of, valleys

_SHAPES = (torch.Size([3]), torch.Size([2, 4]), torch.Size([2, 4]))  # a vector, and two tensors that are alike


def axes_of_the_state(optimizer: OptimizerNetwork) -> None:
    """Every tensor of the state, however deep, says what its last axis goes through, and has the size that it says."""
    # What the drop-in steps at once: tensors that have a network in common, whatever it is shared by.
    layout = _of_one_network(*_SHAPES)
    optimizer, num_problems = built(optimizer, layout), 3
    name, size = type(optimizer).__name__, layout.num_coordinates
    first = optimizer.init_state(layout, num_problems)
    _, second, _ = optimizer.step(draw_evaluations(num_problems, layout)[0], first)
    for path, tensor, axis, item, _ in (*named_tensors(first), *named_tensors(second)):
        path = f"state.{path}" if path else "the state"
        assert axis is not None, (
            f"{name}: {path} does not say what its last axis goes through: make it a field of a dataclass, such as "
            'mean: Tensor = axis("coordinate")'
        )
        shape = tuple(tensor.shape)
        if axis == "pair":
            assert optimizer.scope == "problem", (
                f"{name}: {path} goes through pairs of coordinates, and so the scope must be problem, not "
                f"{optimizer.scope}"
            )
            fits, wanted = shape[-3:] == (num_problems, size, size), f"[..., {num_problems}, {size}, {size}]"
        elif axis == "problem":
            continue
        elif axis == "each":
            assert item is not None, f"{name}: the axis of {path} is each, and so it must be in a tuple or list"
            assert item < len(layout.sizes), f"{name}: {path} is of one more than the {len(layout.sizes)} tensors"
            continue
        else:
            length = size if axis == "coordinate" else len(layout.sizes)
            fits = shape[-1:] in ((length,), (num_problems * length,))
            wanted = f"[..., {length}] or [..., {num_problems * length}]"
        assert fits, (
            f"{name}: the axis of {path} is {axis}, and so its shape must be {wanted} for {num_problems} problems of "
            f"{size} coordinates in {len(layout.sizes)} tensors, not {list(shape)}"
        )


def states_of_tensors(optimizer: OptimizerNetwork) -> None:
    """What the state says is of a tensor, or of the problem, is as it is for each tensor alone."""
    if optimizer.scope == "problem" or not optimizer.any_layout:
        return
    layout = _of_one_network(*_SHAPES)
    optimizer, name = built(optimizer, layout), type(optimizer).__name__
    whole = named_tensors(optimizer.init_state(layout, 2))
    for item, shape in enumerate(_SHAPES):
        alone = named_tensors(optimizer.init_state(_of_one_network(shape), 2))
        for kind in ("each", "problem"):
            own = [each for each in whole if each.axis == kind and each.item in (None, item)]
            found = {each.name_alone: each.tensor.shape for each in own}
            expected = {each.name: each.tensor.shape for each in alone if each.axis == kind}
            assert found == expected, (
                f"{name}: among several tensors, what the state has with the axis {kind} for the tensor {item}, of "
                f"shape {list(shape)}, is {_listed(found)}, but for this tensor alone {_listed(expected)}: items of "
                "each are in the order of the tensors, and problem is what they all have in common"
            )


def _of_one_network(*shapes: torch.Size) -> Layout:
    return Layout(("all",) * len(shapes), shapes, ("all",) * len(shapes))


def _listed(shapes: dict[str, torch.Size]) -> str:
    return ", ".join(f"{name} {list(shape)}" for name, shape in shapes.items()) or "nothing"


def segments_equal_the_whole(optimizer: InnerOptimizer) -> None:
    """An episode in two unrolls is the same as in one: all that is remembered is in the state."""
    losses = []
    for lengths in ((NUM_STEPS,), (2, NUM_STEPS - 2)):
        stepped, problems = built(optimizer), valleys(2)
        position = begin(problems, stepped)
        parts = []
        for length in lengths:
            parts.append(unroll(problems, stepped, position, length))
            position = parts[-1].end.detach()
        losses.append(torch.cat([part.losses for part in parts]))
    assert close(*losses), f"{type(optimizer).__name__} optimizes otherwise when an episode is cut into unrolls"


def save_and_reload(optimizer: OptimizerNetwork) -> None:
    """Other weights, loaded from the ``state_dict`` or pickled, give the same updates."""
    one, two = built(optimizer), built(optimizer, seed=5)
    name, evaluations = type(optimizer).__name__, draw_evaluations(2)
    two.load_state_dict(one.state_dict())
    expected = updates_of(one, evaluations)
    assert torch.equal(updates_of(two, evaluations), expected), f"{name} has weights that its state_dict does not hold"
    twin = pickle.loads(pickle.dumps(one))  # noqa: S301 its own
    assert torch.equal(updates_of(twin, evaluations), expected), (
        f"{name} gives other updates once it is pickled and back"
    )


def state_follows_the_weights(optimizer: OptimizerNetwork) -> None:
    """``init_state`` makes tensors of the type, and on the device, of the weights."""
    name = type(optimizer).__name__
    optimizer = built(optimizer)
    for place in (torch.float32, torch.device("meta")):
        optimizer = optimizer.to(place)
        weight = next(optimizer.parameters())
        for key, value in tensors_of(optimizer.init_state(LAYOUT, 2)).items():
            if value.is_floating_point():
                fits = value.dtype == weight.dtype and value.device == weight.device
                assert fits, (
                    f"{name}.init_state makes {key} in {value.dtype} on {value.device}, but the weights are in "
                    f"{weight.dtype} on {weight.device}"
                )


def autocast_changes_nothing(optimizer: InnerOptimizer) -> None:
    """``torch.autocast`` around an unroll is for nothing: optimizers compute in the type that they have."""
    runs = []
    for around in (nullcontext(), torch.autocast("cpu", torch.float16)):
        stepped, problems = built(optimizer, dtype=torch.float32), valleys(2, torch.float32)
        with around:
            runs.append(unroll(problems, stepped, begin(problems, stepped), NUM_STEPS).losses)
    assert torch.equal(*runs), (
        f"{type(optimizer).__name__}: torch.autocast around an unroll changes it: compute in the type of the weights"
    )
