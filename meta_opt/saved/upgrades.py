"""Checkpoints of earlier formats in the form of today's."""

from __future__ import annotations

from typing import Any

FORMAT = 2
COUNTERS = ("episode", "skipped", "skipped_in_a_row")


def upgraded(checkpoint: dict[str, Any]) -> dict[str, Any]:
    """A checkpoint of any format as one of the newest."""
    recipe = checkpoint["meta_opt"]
    whole = all(isinstance(recipe.get(part), dict) for part in ("model", "optimizer"))
    return _from_1(checkpoint) if recipe["format"] == 1 and whole else checkpoint


def _from_1(checkpoint: dict[str, Any]) -> dict[str, Any]:
    """Format 1 had the estimator's options and the LSTM's engine among the model's, and counters among the weights."""
    recipe, state = checkpoint["meta_opt"], dict(checkpoint.get("state_dict", {}))
    model, optimizer = dict(recipe["model"]), dict(recipe["optimizer"])
    second_derivatives = model.pop("second_derivatives", False)
    first_order = {name: model.pop(name) for name in ("update_every", "replay_fraction") if name in model}
    engine = model.pop("engine", "auto")
    if optimizer.get("class_path") == "coordinatewise_lstm" and isinstance(optimizer.get("init_args"), dict):
        optimizer["init_args"] = {**optimizer["init_args"], "engine": engine}
    estimator = {
        "class_path": "second_order" if second_derivatives else "first_order",
        "init_args": {} if second_derivatives else first_order,
    }
    state["_extra_state"] = {name: int(state.pop(name)) for name in COUNTERS if name in state}
    recipe = {**recipe, "format": FORMAT, "model": model, "optimizer": optimizer, "estimator": estimator}
    return {**checkpoint, "meta_opt": recipe, "state_dict": state}
