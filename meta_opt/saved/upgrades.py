"""What checkpoints of earlier formats say, in today's words."""

from __future__ import annotations

from typing import Any

FORMAT = 2


def upgraded(recipe: dict[str, Any]) -> dict[str, Any]:
    """The entry ``meta_opt`` of a checkpoint of any format, as the newest would have it."""
    return _from_1(recipe) if recipe["format"] == 1 else recipe


def _from_1(recipe: dict[str, Any]) -> dict[str, Any]:
    """Format 1 had the estimator's options, and the engine of the LSTM, among those of the model."""
    model, optimizer = dict(recipe["model"]), dict(recipe["optimizer"])
    second_derivatives = model.pop("second_derivatives", False)
    first_order = {name: model.pop(name) for name in ("update_every", "replay_fraction") if name in model}
    engine = model.pop("engine", "auto")
    if optimizer["class_path"] == "coordinatewise_lstm":
        optimizer["init_args"] = {**optimizer["init_args"], "engine": engine}
    estimator = {
        "class_path": "second_order" if second_derivatives else "first_order",
        "init_args": {} if second_derivatives else first_order,
    }
    return {**recipe, "format": FORMAT, "model": model, "optimizer": optimizer, "estimator": estimator}
