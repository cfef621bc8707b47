"""The learned optimizer on a model that several processes share."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints_for_tests import save_untrained
from problems_for_tests import Regression

SCRIPT = Path(__file__).parents[1] / "step_in_processes.py"
MOMENTS: dict[str, Any] = {"inputs": "log_sign+moments", "base_step": 0.03}


def steps(checkpoint: Path, how: str, processes: int, out: Path) -> str:
    command = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes), str(SCRIPT)]
    done = subprocess.run(
        [sys.executable, *command, str(checkpoint), how, str(out)], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_shards_and_copies_take_the_same_steps(tmp_path: Path) -> None:
    path = save_untrained(tmp_path / "untrained.ckpt", Regression(), **MOMENTS)
    found = {}
    for how, processes in (("whole", 1), ("ddp", 2), ("fsdp", 2)):
        assert steps(path, how, processes, tmp_path / how) == ""
        found[how] = torch.load(tmp_path / how, weights_only=True)
    moved = [tuple(param.shape) for param in found["whole"]]
    assert moved == [(5, 3), (5,), (1, 5)]  # the last is on one process alone, and the others are cut unevenly
    torch.testing.assert_close(found["ddp"], found["whole"], rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(found["fsdp"], found["whole"], rtol=1e-9, atol=1e-12)


@pytest.mark.slow
def test_what_looks_at_whole_tensors_refuses_shards(tmp_path: Path) -> None:
    path = save_untrained(tmp_path / "untrained.ckpt", Regression(), **{**MOMENTS, "tensor_features": True})
    said = steps(path, "fsdp", 2, tmp_path / "out")
    assert said.startswith("refused: this learned optimizer sees whole tensors, found a parameter of (5, 3)")
    assert said.count("\n") == 1
