"""``python -m meta_opt.cli.study_worker``: does the runs of a study, see :mod:`meta_opt.studies.workers`."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

import torch

from meta_opt.cli import main
from meta_opt.cli.arithmetic import flush_denormals
from meta_opt.cli.asked import optimizee_of
from meta_opt.studies.running import StoppedError, perform
from meta_opt.studies.workers import serve

_imported: dict[str, str] = {}  # hashes of the files of earlier runs


def _perform(work: Mapping[str, Any], run: int) -> dict[str, Any]:
    if any(_imported.setdefault(name, value) != value for name, value in work.get("files", {}).items()):
        sys.exit(1)  # classes stay as they were imported: the run is begun again in another process
    try:
        return perform(work, run, main, optimizee_of)
    except StoppedError:
        sys.exit(1)


if __name__ == "__main__":
    torch.set_num_threads(1)
    flush_denormals()
    serve(_perform)
