"""Where a training run keeps what it makes: ``checkpoints/<optimizee>/<run>/`` and ``logs/<optimizee>/<run>/``."""

from __future__ import annotations

import contextlib
import itertools
import os
import re
from dataclasses import dataclass
from pathlib import Path

from meta_opt.errors import CheckpointError, StorageError
from meta_opt.messages import printable

_NAME = re.compile(r"run_(\d+)")


@dataclass(frozen=True)
class Run:
    """One training run.

    Attributes:
        root: Folder that holds ``checkpoints`` and ``logs``.
        optimizee: Name of the optimizee.
        name: ``run_0``, ``run_1``, ...
    """

    root: Path
    optimizee: str
    name: str

    @property
    def checkpoints(self) -> Path:
        """Folder of ``best.ckpt``, ``last.ckpt`` and ``config.yaml``."""
        return self.root / "checkpoints" / self.optimizee / self.name

    @property
    def logs(self) -> Path:
        """Folder of TensorBoard's event files."""
        return self.root / "logs" / self.optimizee / self.name

    @classmethod
    def claim(cls, root: Path, optimizee: str) -> Run:
        """A new run with the next free name; making its folder is what claims it, so two can't get the same one.

        Raises:
            StorageError: If its folder cannot be made.
        """
        for number in itertools.count():
            run = cls(root, optimizee, f"run_{number}")
            if run.logs.exists():
                continue
            try:
                run.checkpoints.mkdir(parents=True)
            except FileExistsError as error:
                if os.path.lexists(run.checkpoints):
                    continue
                raise StorageError.of(error, run.checkpoints) from error  # what is in its way is above it
            except OSError as error:
                raise StorageError.of(error, run.checkpoints) from error
            return run
        raise AssertionError

    @classmethod
    def containing(cls, checkpoint: Path) -> Run | None:
        """The run whose folder a checkpoint lies in, if it lies in one."""
        folder = real_path(checkpoint).parent
        if not _NAME.fullmatch(folder.name) or folder.parent.parent.name != "checkpoints":
            return None
        return cls(folder.parent.parent.parent, folder.parent.name, folder.name)

    @classmethod
    def newest(cls, root: Path, optimizee: str | None) -> Run:
        """The run that was begun, or has saved something, last, whether it has a checkpoint or not.

        Args:
            root: Folder that holds ``checkpoints``.
            optimizee: Name of the optimizee; None for any.

        Raises:
            CheckpointError: If there is none.
        """
        folder = root / "checkpoints"
        paths = folder.glob(f"{optimizee or '*'}/run_*")
        found = [path for path in paths if _NAME.fullmatch(path.name) and path.is_dir()]
        if not found:
            where = folder / optimizee if optimizee else folder
            raise CheckpointError(f"there is no run in {relative(where)}; give a path as --ckpt_path")
        path = max(found, key=lambda path: (_last_change(path), int(path.name.removeprefix("run_"))))
        return cls(root, path.parent.name, path.name)


def _last_change(folder: Path) -> int:
    """When a run last wrote one of its files, in nanoseconds; when it was begun, if it has none yet."""
    times = []
    for path in (*folder.glob("*.ckpt"), folder / "config.yaml"):
        with contextlib.suppress(OSError):
            times.append(path.stat().st_mtime_ns)
    return max(times, default=0) or folder.stat().st_mtime_ns


def real_path(path: Path) -> Path:
    """``path`` without symbolic links; links that go round, which ``Path.resolve`` may refuse, stay as they are."""
    return Path(os.path.realpath(path))


def relative(path: Path) -> str:
    """``path`` as it is typed: relative to the current folder if it lies inside."""
    try:
        return str(path.absolute().relative_to(Path.cwd()))
    except ValueError:
        return str(path)


def short_name(checkpoint: Path) -> str:
    """``quadratic/run_0`` for the best checkpoint of a run, ``quadratic/run_0/last``, and of others the file's name."""
    if found := Run.containing(checkpoint):
        end = "" if checkpoint.stem == "best" else f"/{checkpoint.stem}"
        return printable(f"{found.optimizee}/{found.name}{end}")
    return printable(checkpoint.stem)
