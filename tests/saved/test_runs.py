import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from meta_opt.errors import CheckpointError
from meta_opt.saved.runs import Run, relative


def test_no_two_runs_have_the_same_name(tmp_path):
    with ThreadPoolExecutor(8) as pool:
        runs = list(pool.map(lambda _: Run.claim(tmp_path, "bowl"), range(20)))
    assert sorted(run.name for run in runs) == sorted(f"run_{number}" for number in range(20))


def test_a_name_is_not_used_again_while_its_log_is_there(tmp_path):
    run = Run.claim(tmp_path, "bowl")
    run.logs.mkdir(parents=True)
    run.checkpoints.rmdir()
    assert Run.claim(tmp_path, "bowl").name == "run_1"


def test_the_run_of_a_checkpoint(tmp_path):
    run = Run.claim(tmp_path.resolve(), "bowl")
    assert Run.containing(run.checkpoints / "last.ckpt") == run
    assert Run.containing(tmp_path / "last.ckpt") is None
    assert Run.containing(tmp_path / "checkpoints" / "pretrained" / "mnist.ckpt") is None


def test_the_newest_run_is_the_one_that_saved_last(tmp_path):
    runs = [Run.claim(tmp_path, name) for name in ("bowl", "bowl", "valley", "bowl")]
    for run, seconds in zip(runs[:3], (100, 300, 200), strict=True):
        (run.checkpoints / "last.ckpt").write_text("")
        os.utime(run.checkpoints / "last.ckpt", (seconds, seconds))
    assert Run.newest(tmp_path, None) == runs[1]
    assert Run.newest(tmp_path, "valley") == runs[2]
    with pytest.raises(CheckpointError, match=r"no run with a last\.ckpt in .*/hill"):
        Run.newest(tmp_path, "hill")


def test_paths_are_shown_as_they_are_typed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert relative(tmp_path / "a" / "b") == "a/b"
    assert relative(Path("a")) == "a"
    assert relative(Path("/elsewhere")) == "/elsewhere"
