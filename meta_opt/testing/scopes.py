"""What an update may depend on: within the scope, on what is read, and on no place but that of the tensor."""

from __future__ import annotations

import copy
from dataclasses import replace

import torch
from torch import Tensor

from meta_opt.errors import MetaOptError
from meta_opt.optimizees.layout import Layout
from meta_opt.optimizees.problems import Evaluation
from meta_opt.optimizers.contract import InnerOptimizer, OptimizerNetwork
from meta_opt.testing.given import LAYOUT, built, close, draw_evaluations, of_rows, updates_of


def problems_side_by_side(optimizer: InnerOptimizer) -> None:
    """Several problems at once get the updates that each gets alone."""
    optimizer = built(optimizer)
    together = updates_of(optimizer, draw_evaluations(3))
    for index in range(3):
        rows = slice(index, index + 1)
        alone = updates_of(optimizer, [of_rows(evaluation, rows) for evaluation in draw_evaluations(3)])
        assert close(together[:, rows], alone), (
            f"{type(optimizer).__name__} gives a problem beside others another update than alone"
        )


def permuted_coordinates(optimizer: InnerOptimizer) -> None:
    """Permuting the coordinates of a vector permutes its updates, as permuting tensors does that are alike.

    Tensors are alike that have one shape, place in the model and network. Where the scope is the coordinate, their
    coordinates may be exchanged as well.
    """
    if isinstance(optimizer, OptimizerNetwork) and not optimizer.any_layout:
        return
    layout = Layout(("all",) * 2, (torch.Size([4]),) * 2, ("all",) * 2, (0.5, 0.5))
    optimizer, evaluations = built(optimizer, layout), draw_evaluations(2, layout)
    orders = {
        "the same coordinates": torch.tensor([2, 0, 3, 1, 7, 5, 4, 6]),
        "tensors that are alike": torch.tensor([4, 5, 6, 7, 0, 1, 2, 3]),
    }
    if optimizer.scope == "coordinate":
        orders["coordinates of several tensors"] = torch.tensor([5, 2, 7, 0, 1, 6, 3, 4])
    for what, order in orders.items():
        permuted = [Evaluation(each.loss, each.grad[:, order], each.params[:, order]) for each in evaluations]
        plain, moved = (updates_of(optimizer, each, layout) for each in (evaluations, permuted))
        assert close(plain[..., order], moved), (
            f"{type(optimizer).__name__} gives other updates to {what} in another order"
        )


def influence_within_the_scope(optimizer: InnerOptimizer) -> None:
    """The gradient, or θ, of one coordinate changes no update beyond ``scope``; problems never influence each other."""
    optimizer = built(optimizer)
    name, evaluations = type(optimizer).__name__, draw_evaluations(2)
    plain = updates_of(optimizer, evaluations)

    def moved_by(field: str, place: tuple[int, ...]) -> Tensor:
        changed = copy.deepcopy(evaluations)
        for evaluation in changed:
            getattr(evaluation, field)[place] += 1.5
        moved = (updates_of(optimizer, changed) - plain).abs().amax(0) > 1e-12  # [B, N]
        assert not moved[1].any(), f"{name}: the {field} of one problem changes the updates of another"
        return moved[0]

    start = 0
    for size in LAYOUT.sizes:
        within = {"coordinate": slice(start, start + 1), "tensor": slice(start, start + size), "problem": slice(None)}
        for field in sorted(optimizer.reads & {"grad", "params"}):
            moved = moved_by(field, (0, start))
            moved[within[optimizer.scope]] = False
            assert not moved.any(), (
                f"{name}: the {field} of a coordinate changes updates beyond its {optimizer.scope}: the class must say "
                "how far, as its scope"
            )
        start += size
    if "loss" in optimizer.reads:
        moved_by("loss", (0,))


def what_is_not_read_has_no_influence(optimizer: InnerOptimizer) -> None:
    """``step`` works, and gives the same, where only what ``reads`` names is known."""
    optimizer = built(optimizer)
    name, evaluations = type(optimizer).__name__, draw_evaluations(2)
    unknown = optimizer.reads - {"loss", "grad", "params"}
    assert not unknown, f"{name}.reads names {', '.join(sorted(unknown))}; there are loss, grad and params"
    try:
        found = updates_of(optimizer, [each.only(optimizer.reads) for each in evaluations])
    except MetaOptError as error:
        raise AssertionError(f"{name}: {error}") from error
    same = torch.equal(found, updates_of(optimizer, evaluations))
    assert same, f"{name}.step gives other updates where what it does not read is missing"


def rest_without_gradient(optimizer: InnerOptimizer) -> None:
    """Where it ``rests``, a coordinate whose gradients have all been zero is never moved."""
    optimizer = built(optimizer)
    if not optimizer.rests:
        return
    name = type(optimizer).__name__
    still = torch.tensor([0, 5, LAYOUT.num_coordinates - 1])
    evaluations = [
        replace(each, grad=each.grad.index_fill(1, still, 0.0)) if "grad" in vars(each) else each
        for each in draw_evaluations(2)
    ]
    moved = updates_of(optimizer, evaluations)[..., still]
    assert not moved.any(), f"{name} rests, but moves a coordinate whose gradients have all been zero"
