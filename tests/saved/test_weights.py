"""What checkpoints say of themselves is not believed: each of these is refused in one line, and at once."""

from __future__ import annotations

import time
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from meta_opt.errors import CheckpointError
from meta_opt.saved.pretrained import pretrained
from meta_opt.saved.recipes import load, load_optimizer

BIASES = "average.module.networks.matrix.biases.0"


def refused(path: Path, edit: Callable[[dict[str, Any]], Any]) -> str:
    content = load(pretrained()["general_mlp"])
    edit(content)
    torch.save(content, path)
    start = time.process_time()
    with pytest.raises(CheckpointError) as caught:
        load_optimizer(path)
    assert time.process_time() - start < 2.0
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500
    return str(caught.value)


OPTIONS: dict[str, tuple[dict[str, Any], str]] = {
    "wide": ({"hidden_size": 10**9}, "much larger than the 13044 weights in it"),
    "wider than memory": ({"hidden_size": 20_000}, "much larger than the 13044 weights in it"),
    "deep": ({"num_layers": 10**9}, "much larger than the 13044 weights in it"),
    "too large a number": ({"hidden_size": 10**300}, "meta_opt.optimizer.init_args.hidden_size is an integer of 997"),
    "text": ({"hidden_size": "x" * 100}, "optimizer.init_args.hidden_size is 'xxx"),
    "none": ({"hidden_size": None}, "optimizer.init_args.hidden_size is None"),
    "truth": ({"base_step": True}, "optimizer.init_args.base_step is True"),
    "a list": ({"base_step": [0.1]}, "optimizer.init_args.base_step is a list of 1"),
    "another choice": ({"share": "nobody"}, "optimizer.init_args.share is 'nobody'"),
    "no number": ({"anneal_after": float("nan")}, "optimizer.init_args.anneal_after is nan"),
    "out of range": ({"anneal_after": 0}, "optimizer.anneal_after must be 1 or more"),
    "unknown": ({"nothing": 1}, "unexpected keyword argument 'nothing'"),
    "other networks": ({"share": "tensor"}, "it lacks the weight average.module.networks.hidden1/weight"),
}


@pytest.mark.parametrize("name", OPTIONS)
def test_options_that_are_not_those_of_the_weights(name: str, tmp_path: Path) -> None:
    options, reason = OPTIONS[name]
    edit = lambda content: content["meta_opt"]["optimizer"]["init_args"].update(options)  # noqa: E731
    assert reason in refused(tmp_path / "x.ckpt", edit)


def of_weights(edit: Callable[[dict[str, Any]], Any]) -> Callable[[dict[str, Any]], Any]:
    return lambda content: edit(content["state_dict"])


def put(make: Callable[[torch.Tensor], Any], name: str = BIASES) -> Callable[[dict[str, Any]], Any]:
    return of_weights(lambda state: state.update({name: make(state[BIASES])}))


WEIGHTS: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "missing": (of_weights(lambda state: state.pop(BIASES)), f"it lacks the weight {BIASES}"),
    "additional": (put(torch.clone, f"{BIASES}0"), f"it has the weight {BIASES}0"),
    "not a number": (put(lambda weight: weight * float("nan")), f"{BIASES} is not finite"),
    "infinite": (put(lambda weight: weight / 0, BIASES.replace("average.module", "optimizer")), "is not finite"),
    "integers": (put(torch.Tensor.long), "is torch.int64, not torch.float32"),
    "complex": (put(lambda weight: weight.to(torch.complex64)), "is torch.complex64, not torch.float32"),
    "of two types": (put(torch.Tensor.double), "weights are of torch.float32 and torch.float64"),
    "misshapen": (put(torch.Tensor.flatten), "is [80], not [80, 1]"),
    "endless": (put(lambda _: torch.zeros(1).expand(10**13)), "is [10000000000000], not [80, 1]"),
    "sparse": (put(torch.Tensor.to_sparse), "is no ordinary tensor"),
    "nowhere": (put(lambda _: torch.empty(80, 1, device="meta")), "is no ordinary tensor"),
    "text": (put(lambda _: "x"), "is 'x'"),
    "a number for a name": (of_weights(lambda state: state.update({5: state[BIASES]})), "a weight is called 5"),
    "none": (of_weights(lambda state: state.clear()), "it holds no weights"),
    "a list": (lambda content: content.update(state_dict=[1]), "its state_dict is a list of 1"),
    "no entry": (lambda content: content.pop("state_dict"), "its state_dict is None"),
}


@pytest.mark.parametrize("name", WEIGHTS)
def test_weights_that_are_none(name: str, tmp_path: Path) -> None:
    edit, reason = WEIGHTS[name]
    assert reason in refused(tmp_path / "x.ckpt", edit)


def of_layout(**columns: Any) -> Callable[[dict[str, Any]], Any]:
    return lambda content: content["meta_opt"]["layout"].update(columns)


def of_model(**options: Any) -> Callable[[dict[str, Any]], Any]:
    return lambda content: content["meta_opt"]["model"].update(options)


def laughs(content: dict[str, Any]) -> None:
    value: list[Any] = ["ha"] * 10
    for _ in range(12):
        value = [value] * 10
    content["meta_opt"]["model"]["num_steps"] = value


def goes_round(content: dict[str, Any]) -> None:
    value: list[Any] = []
    value.append(value)
    content["meta_opt"]["model"]["num_steps"] = value


def nested(depth: int) -> list[Any]:
    return [nested(depth - 1)] if depth else []


def of_loops(value: Any) -> Callable[[dict[str, Any]], Any]:
    """Twice a value of twice a value and so on."""

    def edit(content: dict[str, Any]) -> None:
        held = value
        for _ in range(60):
            held = {"one": held, "other": held}
        content["loops"] = held

    return edit


def holds_itself(content: dict[str, Any]) -> None:
    content["loops"] = {}
    content["loops"]["loops"] = content["loops"]


def hides_a_method(content: dict[str, Any]) -> None:
    content["meta_opt"]["model"] = OrderedDict(content["meta_opt"]["model"])
    content["meta_opt"]["model"].values = None


RECIPES: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "a large layout": (of_layout(shapes=[[10**12], [1], [1], [1]]), "layout must have from 1 to 1e+10 coordinates"),
    "a layout beyond floats": (
        of_layout(shapes=[[2**62] * 32, [1], [1], [1]]),
        "must have from 1 to 1e+10 coordinates",
    ),
    "a layout of nothing": (of_layout(shapes=[[0]] * 4), "layout must have from 1 to 1e+10 coordinates"),
    "a negative length": (of_layout(shapes=[[-1], [1], [1], [1]]), "layout.shapes has a list of 1"),
    "shapes that are none": (of_layout(shapes="abcd"), "layout.shapes is 'abcd'"),
    "fewer shapes": (of_layout(shapes=[[1]]), "layout.shapes is a list of 1"),
    "names that are none": (of_layout(names=[1, 2, 3, 4]), "layout.names has 1"),
    "a name twice": (of_layout(names=["a", "a", "b", "c"]), "layout.names has a name twice"),
    "depths that are none": (of_layout(depths=[[0.0]] * 4), "layout.depths has a list of 1"),
    "laughs": (laughs, "what is in it several times stands for too much"),
    "goes round": (goes_round, "a list of 1 holds itself"),
    "many values": (of_model(num_steps=[0] * 600_000), "more than 500000 values are in it"),
    "deep": (of_model(num_steps=nested(20)), "is nested too deep"),
    "loops without end": (of_loops({}), "what is in it several times stands for too much"),
    "loops of numbers": (of_loops(1), "what is in it several times stands for too much"),
    "itself": (holds_itself, "a dict of 1 holds itself"),
    "without a method": (hides_a_method, "has attributes"),
    "a long text": (
        lambda content: content["meta_opt"]["optimizer"].update(class_path="x" * 10**7),
        "(10000000 characters)",
    ),
    "no steps": (lambda content: content["meta_opt"]["model"].pop("num_steps"), "incomplete, it has no 'num_steps'"),
    "no whole steps": (of_model(num_validation_steps=2.5), "meta_opt.model.num_validation_steps is 2.5"),
    "steps without end": (of_model(num_steps=10**15), "meta_opt.model.num_steps is 1000000000000000"),
    "less than no problem": (of_model(num_validation_problems=-1), "meta_opt.model.num_validation_problems is -1"),
    "a seed that is none": (of_model(seed="x"), "meta_opt.model.seed is 'x'"),
    "held back or not": (of_model(held_back="yes"), "meta_opt.model.held_back is 'yes'"),
    "a number for a name": (lambda content: content["meta_opt"]["model"].update({7: 7}), "meta_opt.model has the name"),
    "a tensor": (lambda content: content["meta_opt"].update(model=torch.zeros(3)), "meta_opt.model is a Tensor"),
    "no format": (lambda content: content["meta_opt"].update(format=True), "its format is True"),
    "settings that are none": (lambda content: content.update(meta_opt_run=5), "5 is where options should be"),
} | {
    f"{part} {kind}": (lambda content, part=part, value=value: content["meta_opt"].update({part: value}), "damaged")
    for part in ("optimizee", "optimizer", "model", "layout")
    for kind, value in {"none": None, "a list": [], "text": "x", "a number": 5}.items()
}


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_that_are_rubbish(name: str, tmp_path: Path) -> None:
    edit, reason = RECIPES[name]
    assert reason in refused(tmp_path / "x.ckpt", edit)


def test_nesting_that_no_recursion_survives(tmp_path: Path) -> None:
    depth = 200_000
    path = tmp_path / "x.ckpt"
    torch.save({"meta_opt": "here"}, path)
    # The same archive with another pickle: {"meta_opt": [[[...]]]}.
    body = b"\x80\x02}X\x08\x00\x00\x00meta_opt" + b"]" * depth + b"a" * (depth - 1) + b"s."
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(tmp_path / "y.ckpt", "w") as new:
        for entry in old.infolist():
            new.writestr(entry.filename, body if entry.filename.endswith("data.pkl") else old.read(entry))
    with pytest.raises(CheckpointError, match="is not a checkpoint of meta-opt"):
        load_optimizer(tmp_path / "y.ckpt")


@pytest.mark.parametrize("name", sorted(pretrained()))
def test_weights_of_another_type_are_loaded_as_before(name: str, tmp_path: Path) -> None:
    content = load(pretrained()[name])
    content["state_dict"] = {
        key: tensor.double() if isinstance(tensor, torch.Tensor) and tensor.is_floating_point() else tensor
        for key, tensor in content["state_dict"].items()
    }
    torch.save(content, tmp_path / "x.ckpt")
    one, two = load_optimizer(tmp_path / "x.ckpt"), load_optimizer(pretrained()[name])
    torch.testing.assert_close(one.state_dict(), two.state_dict(), rtol=0, atol=0)
