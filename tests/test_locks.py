"""Locks are held by one, and freed when that one is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from meta_opt.locks import BusyError, acquire, locked

HOLD = "import sys, time; from meta_opt.locks import acquire; from pathlib import Path; "
HOLD += "acquire(Path(sys.argv[1])); print('held', flush=True); time.sleep(100)"


def test_a_folder_is_held_by_one(tmp_path: Path) -> None:
    with locked(tmp_path), pytest.raises(BusyError):
        acquire(tmp_path)
    with locked(tmp_path):
        assert list(tmp_path.iterdir()) == []


def test_a_killed_process_frees_it(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        with pytest.raises(BusyError):
            acquire(tmp_path, wait=0.2)
        process.send_signal(signal.SIGKILL)
        process.wait()
    os.close(acquire(tmp_path))
