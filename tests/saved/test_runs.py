import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from meta_opt.errors import CheckpointError, StorageError
from meta_opt.saved.runs import Run, relative, short_name


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
    runs = [Run.claim(tmp_path, name) for name in ("bowl", "bowl", "valley")]
    for run, seconds in zip(runs, (100, 300, 200), strict=True):
        (run.checkpoints / "last.ckpt").write_text("")
        os.utime(run.checkpoints / "last.ckpt", (seconds, seconds))
    assert Run.newest(tmp_path, None) == runs[1]
    assert Run.newest(tmp_path, "valley") == runs[2]
    with pytest.raises(CheckpointError, match="there is no run in .*/hill"):
        Run.newest(tmp_path, "hill")


def test_paths_are_shown_as_they_are_typed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert relative(tmp_path / "a" / "b") == "a/b"
    assert relative(Path("a")) == "a"
    assert relative(Path("/elsewhere")) == "/elsewhere"


def test_names_of_checkpoints_are_short_and_printable(tmp_path):
    run = Run.claim(tmp_path, "\x1b[31mbowl")
    assert short_name(run.checkpoints / "best.ckpt") == " [31mbowl/run_0"
    assert short_name(run.checkpoints / "last.ckpt") == " [31mbowl/run_0/last"
    assert short_name(tmp_path / "\x1b[2Jmine.ckpt") == " [2Jmine"


def test_a_newer_run_without_a_checkpoint_is_not_passed_over(meta_opt, tmp_path):
    old, new = Run.claim(tmp_path, "bowl"), Run.claim(tmp_path, "bowl")
    (old.checkpoints / "last.ckpt").write_text("")
    (new.checkpoints / "config.yaml").write_text("")
    os.utime(old.checkpoints / "last.ckpt", (100, 100))
    assert Run.newest(tmp_path, None) == new
    status, _, err = meta_opt("fit", "--ckpt_path", "last")
    assert status == 2
    assert "the newest run, checkpoints/bowl/run_1, has no last.ckpt: it has saved nothing; give the path" in err
    (new.checkpoints / "last.ckpt").write_text("")
    assert "has no best.ckpt, only checkpoints/bowl/run_1/last.ckpt; give" in meta_opt("test", "--ckpt_path", "best")[2]


@pytest.mark.parametrize("blocked", ["checkpoints", "checkpoints/bowl"])
def test_what_is_in_the_way_of_a_run_is_said(tmp_path, blocked):
    (tmp_path / blocked).parent.mkdir(exist_ok=True)
    (tmp_path / blocked).write_text("")
    with pytest.raises(StorageError, match="cannot write .*run_0: Not a directory"):
        Run.claim(tmp_path, "bowl")
    (tmp_path / blocked).unlink()
    (tmp_path / blocked).symlink_to("nowhere/at_all")
    with pytest.raises(StorageError, match="cannot write .*run_0: File exists"):
        Run.claim(tmp_path, "bowl")
