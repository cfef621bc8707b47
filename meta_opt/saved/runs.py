"""Where a training run keeps what it makes: ``checkpoints/<optimizee>/<run>/`` and ``logs/<optimizee>/<run>/``."""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass
from pathlib import Path

from meta_opt.errors import CheckpointError

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
        """A new run with the next free name; making its folder is what claims it, so two can't get the same one."""
        for number in itertools.count():
            run = cls(root, optimizee, f"run_{number}")
            if run.logs.exists():
                continue
            try:
                run.checkpoints.mkdir(parents=True)
            except FileExistsError:
                continue
            return run
        raise AssertionError

    @classmethod
    def containing(cls, checkpoint: Path) -> Run | None:
        """The run whose folder a checkpoint lies in, if it lies in one."""
        folder = checkpoint.resolve().parent
        if not _NAME.fullmatch(folder.name) or folder.parent.parent.name != "checkpoints":
            return None
        return cls(folder.parent.parent.parent, folder.parent.name, folder.name)

    @classmethod
    def newest(cls, root: Path, optimizee: str | None) -> Run:
        """The run that saved a checkpoint last.

        Args:
            root: Folder that holds ``checkpoints``.
            optimizee: Name of the optimizee; None for any.

        Raises:
            CheckpointError: If there is none.
        """
        folder = root / "checkpoints"
        paths = folder.glob(f"{optimizee or '*'}/run_*/last.ckpt")
        found = [path for path in paths if _NAME.fullmatch(path.parent.name)]
        if not found:
            where = folder / optimizee if optimizee else folder
            raise CheckpointError(f"there is no run with a last.ckpt in {relative(where)}; give a path as --ckpt_path")
        path = max(found, key=lambda path: (path.stat().st_mtime_ns, int(path.parent.name.removeprefix("run_"))))
        return cls(root, path.parent.parent.name, path.parent.name)


def relative(path: Path) -> str:
    """``path`` as it is typed: relative to the current folder if it lies inside."""
    try:
        return str(path.absolute().relative_to(Path.cwd()))
    except ValueError:
        return str(path)
