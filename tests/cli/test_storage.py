"""Disks that are full and folders that cannot be written: one line, and how to go on; nothing is lost.

Root may write anywhere, whatever the permissions say: what is in the way is a file where a folder should be, or a
system call that fails.
"""

from __future__ import annotations

import errno
import io
import os
import shlex
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from tensorboard.summary.writer.record_writer import RecordWriter
from torch.utils.tensorboard import SummaryWriter

from meta_opt.cli.output import quiet_log_writers

FIT = ("fit", "--optimizee", "bowl", "--optimizee.dimension", "2", "--trainer.enable_progress_bar", "false")
RUN = Path("checkpoints/bowl/run_0")
FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
SMALL = ("--num_steps", "2", "--num_problems", "2", "--num_validation_problems", "1", "--baselines", "SGD")


def fails(meta_opt: Any, *arguments: Any) -> str:
    """The one line that a command fails with."""
    status, _, err = meta_opt(*arguments)
    assert status == 2
    assert err.startswith("meta-opt: error: ")
    assert err.count("\n") == 1
    return str(err).strip()


@contextmanager
def full(after: int) -> Iterator[None]:
    """A disk that is full once so many records of a log are written."""
    left = iter(range(after))
    write = RecordWriter.write

    def failing(self: RecordWriter, data: bytes) -> None:
        if next(left, None) is None:
            raise FULL
        write(self, data)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RecordWriter, "write", failing)
        yield


def test_a_log_on_a_full_disk(meta_opt: Any, plugins: None) -> None:
    long = (*FIT, "--trainer.max_epochs", "3")
    assert meta_opt(*long)[0] == 0
    expected = torch.load(RUN / "last.ckpt", weights_only=True)["state_dict"]
    with full(after=70):
        message = fails(meta_opt, *long, "--trainer.default_root_dir", "x")
    reason, _, command = message.partition("; when it can be, go on with: ")
    assert reason == "meta-opt: error: cannot write the log: No space left on device"
    program, *options = shlex.split(command)
    assert program == "meta-opt"
    status, out, err = meta_opt(*options)
    assert status == 0, err
    assert out.strip().startswith("finished after 9 episodes")
    found = torch.load("x" / RUN / "last.ckpt", weights_only=True)["state_dict"]
    torch.testing.assert_close(found, expected, rtol=0, atol=0, equal_nan=True)


def test_a_log_whose_end_cannot_be_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    writer = SummaryWriter(str(tmp_path))
    before = threading.excepthook
    with quiet_log_writers(), full(after=0):
        writer.add_scalar("last", 1.0)
        with pytest.raises(OSError, match="No space left on device"):
            writer.close()
    assert capsys.readouterr().err == ""
    assert threading.excepthook is before


def test_errors_of_other_threads_are_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[Any] = []
    monkeypatch.setattr(threading, "excepthook", shown.append)
    with quiet_log_writers():
        thread = threading.Thread(target=lambda: 1 / 0)
        thread.start()
        thread.join()
    assert [args.exc_type for args in shown] == [ZeroDivisionError]


def blocked_by(folder: str) -> None:
    """A file where a folder should be."""
    Path(folder).parent.mkdir(parents=True, exist_ok=True)
    Path(folder).touch()


@pytest.mark.parametrize("folder", ["logs", "logs/bowl", "checkpoints", "checkpoints/bowl"])
def test_folders_of_a_run_that_are_blocked(meta_opt: Any, plugins: None, folder: str) -> None:
    blocked_by(folder)
    message = fails(meta_opt, *FIT)
    assert "cannot write" in message
    assert folder.partition("/")[0] in message
    assert message.endswith("; nothing was saved; --trainer.default_root_dir puts runs elsewhere")


@pytest.mark.parametrize("command", ["fit", "compare"])
def test_file_systems_that_are_read_only(
    meta_opt: Any, plugins: None, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    assert meta_opt(*FIT)[0] == 0
    makes = io.open

    def opens(file: Any, mode: str = "r", *arguments: Any, **options: Any) -> Any:
        if set(mode) & set("wax"):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), os.fsencode(file))  # as TensorBoard's path is, bytes
        return makes(file, mode, *arguments, **options)

    monkeypatch.setattr(io, "open", opens)
    options = ("--trainer.max_epochs", "2") if command == "fit" else SMALL
    message = fails(meta_opt, command, "--ckpt_path", "last", *options)
    assert "cannot write" in message
    assert "Read-only file system" in message


def test_a_place_for_a_comparison_with_a_name_too_long(meta_opt: Any, plugins: None) -> None:
    message = fails(meta_opt, "compare", "--pretrained", "quadratic", "--out", "x" * 5000)
    assert "File name too long" in message


@pytest.mark.parametrize("path", ["a\0b", "x" * 5000, "x/" * 3000, "folder", "/dev/zero", "/dev/null", "fifo", "round"])
@pytest.mark.parametrize("command", ["fit", "test", "compare", "plot", "landscape"])
def test_paths_that_are_no_checkpoint(meta_opt: Any, command: str, path: str) -> None:
    Path("folder").mkdir()
    os.mkfifo("fifo")  # reading it would wait for ever
    Path("round").symlink_to("round")
    message = fails(meta_opt, command, "--ckpt_path", path)
    assert "there is no checkpoint" in message or "cannot be read: File name too long" in message
    assert len(message) < 400
