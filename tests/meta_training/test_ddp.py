"""Data-parallel meta-training on CPU processes."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

SCRIPT = Path(__file__).parents[1] / "fit_in_processes.py"


@pytest.mark.slow
def test_two_processes_equal_one(tmp_path: Path) -> None:
    """Of two pairs of particles each, one of four pairs, on the same problems. (tests/cli has first order.)"""
    results = []
    for devices in (1, 2):
        out = tmp_path / f"{devices}.pt"
        environment = {**os.environ, "PYTHONPATH": str(SCRIPT.parent), "OMP_NUM_THREADS": "1"}
        command = [sys.executable, str(SCRIPT), str(devices), str(out)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        results.append(torch.load(out, weights_only=True))
    for one, two in zip(*results, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-9, atol=1e-12)
