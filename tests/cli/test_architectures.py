"""Each architecture through the command line: meta-train, go on, compare."""

import json
from pathlib import Path

import pytest

SMALL = [
    *("--model.episodes_per_epoch", "1", "--model.num_steps", "4", "--model.unroll_length", "2"),
    *("--model.num_problems", "2", "--model.num_validation_problems", "2", "--optimizee.dimension", "3"),
    *("--trainer.accelerator", "cpu"),
]


@pytest.mark.parametrize("name", ["lstm_gac", "ntm_bfgs", "hierarchical_rnn"])
def test_fit_resume_and_compare(meta_opt, name):
    status, _, errors = meta_opt(
        *("fit", "--optimizee", "quadratic", "--optimizer", name, "--trainer.max_epochs", 1), *SMALL
    )
    assert status == 0, errors
    status, _, errors = meta_opt("fit", "--ckpt_path", "last", "--trainer.max_epochs", 2)
    assert status == 0, errors
    status, _, errors = meta_opt(
        *("compare", "--ckpt_path", "best", "--num_problems", 2, "--num_validation_problems", 2),
        *("--baselines", "LBFGS", "BFGS", "--out", "compared"),
    )
    assert status == 0, errors
    results = json.loads(Path("compared/results.json").read_text())
    assert all(found in json.dumps(results) for found in ("LBFGS", "BFGS", "quadratic/run_0"))


def test_a_dense_memory_that_would_be_too_large_is_refused_in_one_line(meta_opt):
    status, _, errors = meta_opt(
        *("fit", "--optimizee", "quadratic", "--optimizer", "ntm_bfgs"), *SMALL, "--optimizee.dimension", 2001
    )
    assert status == 2
    assert "a dense memory is for at most 2,000 coordinates, and here are 2,001: set optimizer.rank" in errors
    assert len(errors.strip().splitlines()) == 1
