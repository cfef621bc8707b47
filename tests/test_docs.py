"""The examples in the documentation run."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints_for_tests import save_untrained

from meta_opt import recipes
from meta_opt_optimizees.digits_mlp import DigitsMlp

DOCS = Path(__file__).parent.parent / "docs"
AS_ADAM = {"inputs": "log_sign+moments", "base_step": 0.03, "initial_output": 0.0}  # works without meta-training


def python_blocks(page: str) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```$", (DOCS / page).read_text(), re.MULTILINE | re.DOTALL)


class TwoGroups(DigitsMlp):
    """Weights and biases under the names that the page has for its groups."""

    def groups(self) -> dict[str, str]:
        return {f"{layer}.{kind}": group for layer in ("hidden1", "output") for kind, group in
                (("weight", "conv"), ("bias", "linear"))}  # fmt: skip


@pytest.mark.filterwarnings("ignore:.*does not have many workers", "ignore:.*logging interval")
def test_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(recipes, "_PRETRAINED", (tmp_path / "pretrained",))
    save_untrained(tmp_path / "pretrained" / "general_mlp.ckpt", DigitsMlp(), **AS_ADAM)
    save_untrained(tmp_path / "checkpoints" / "digits_mlp" / "run_0" / "best.ckpt", DigitsMlp(), **AS_ADAM)
    save_untrained(tmp_path / "checkpoints" / "two_networks.ckpt", TwoGroups(), share="group", **AS_ADAM)
    torch.manual_seed(0)
    names: dict[str, Any] = {"__name__": "use"}
    loop, checkpoint, lightning, networks, resume = python_blocks("use.md")

    exec(loop, names)
    assert names["loss"] < 0.5 < math.log(10)

    exec(checkpoint, names)
    exec(lightning, names)
    module, trainer = names["classifier"], names["trainer"]
    assert module.training_step((names["images"], names["labels"]), 0) < 0.5
    assert trainer.optimizers[0].param_groups[0]["lr"] == pytest.approx(0.0)  # T_max epochs are over

    exec(networks, names)
    assert [group["network"] for group in names["optimizer"].param_groups] == ["conv", "linear"]
    exec(resume, names)
    assert len(names["optimizer"].state) == 4
