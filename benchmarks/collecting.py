"""Results as JSON lines, and meta-trainings by ``meta-opt fit``, neither of which is done twice."""

from __future__ import annotations

import contextlib
import io
import json
import time
from pathlib import Path
from typing import Any

from meta_opt.cli import main

Line = dict[str, Any]


class Lines:
    """A file of JSON lines, one for each thing that has been done."""

    def __init__(self, path: Path) -> None:
        """Read what is there."""
        self._path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        text = path.read_text() if path.exists() else ""
        self.all: list[Line] = [json.loads(line) for line in text.splitlines()]

    def find(self, **key: object) -> Line | None:
        """The line with these values."""
        return next((line for line in self.all if all(line.get(name) == key[name] for name in key)), None)

    def add(self, line: Line) -> None:
        """Append to the file, and print."""
        self.all.append(line)
        with self._path.open("a") as file:
            file.write(json.dumps(line) + "\n")
        print(json.dumps(line), flush=True)


def meta_train(folder: Path, name: str, *options: str) -> Path:
    """The checkpoint that validation chose in a run of ``meta-opt fit`` with these options, which is made once.

    Args:
        folder: Where runs are, a folder for each, and a line on each in runs.jsonl.
        name: Of this run.
        options: Of the command.

    Raises:
        RuntimeError: If a run of this name had other options, or meta-training fails.
    """
    lines = Lines(folder / "runs.jsonl")
    line = lines.find(run=name)
    if line is None:
        started = time.perf_counter()
        root = folder / name / str(time.time_ns())  # next to the leavings of one that was interrupted
        fixed = ["--trainer.default_root_dir", str(root), "--trainer.enable_progress_bar", "false"]
        with contextlib.redirect_stdout(io.StringIO()):
            status = main(["fit", *options, *fixed])
        if status:
            raise RuntimeError(f"meta-opt fit {' '.join(options)} ended with status {status}")
        found = next(root.glob("checkpoints/*/*/best.ckpt"))
        seconds = round(time.perf_counter() - started, 1)
        line = {"run": name, "options": " ".join(options), "seconds": seconds, "checkpoint": str(found)}
        lines.add(line)
    if line["options"] != " ".join(options):
        raise RuntimeError(
            f"{folder / 'runs.jsonl'} has another run {name}, with {line['options']}; take a new --folder"
        )
    return Path(line["checkpoint"])
