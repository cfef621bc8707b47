"""Where a run is kept: its folders, its settings and its log, and that no other process trains it."""

from __future__ import annotations

import contextlib
import os
import shutil
import warnings
from collections.abc import Callable, Mapping
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger

from meta_opt.errors import MetaOptError, StorageError
from meta_opt.locks import BusyError, acquire
from meta_opt.messages import clipped
from meta_opt.meta_training.judging import RunCheckpoint
from meta_opt.saved.checkpoints import remove_leftovers
from meta_opt.saved.recipes import RUN_SETTINGS
from meta_opt.saved.runs import Run, relative
from meta_opt.storage import write

_OF_OPTIONS = {"RunCheckpoint", "Timer"}  # callbacks that come and go with enable_checkpointing and max_time


class RunLogger(TensorBoardLogger):
    """TensorBoard's log of a run: over episodes, without the number of the epoch."""

    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Log, but for ``epoch``, which Lightning adds to everything."""
        super().log_metrics({name: value for name, value in metrics.items() if name != "epoch"}, step)


class RunFolder(Callback):
    """Gives a run its folders when training starts, not before, and keeps its settings.

    Attributes:
        run: The run, once it has folders.
        started: Whether there was anything to train.
    """

    def __init__(
        self,
        claim: Callable[[], Run],
        config: str,
        settings: dict[str, Any],
        *,
        run: Run | None = None,
        logger: bool = True,
    ) -> None:
        """Prepare, without making anything.

        Args:
            claim: Makes a new run.
            config: What ``config.yaml`` is to hold.
            settings: Settings by option name, plain values, to be kept in checkpoints.
            run: The run to go on with; None for a new one.
            logger: Whether to log to TensorBoard.
        """
        self.run = run
        self.started = False
        self._claimed = False
        self._vanished = False
        self._lock: int | None = None
        self._claim = claim
        self._config = config
        self._settings = settings
        self._logger = logger

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Make the folders, in the first process, and tell everyone who writes to them."""
        if stage != "fit" or getattr(trainer, "fast_dev_run", False):  # an attribute that Lightning declares nowhere
            return
        if self.run is None and trainer.is_global_zero:
            self.run = self._claim()
            self._claimed = True
        busy = trainer.is_global_zero and not self._lock_run()
        run, busy = trainer.strategy.broadcast((self.run, busy))
        assert run is not None
        if busy:
            raise MetaOptError(
                f"another process is training {relative(run.checkpoints)}: wait until it ends, or leave --ckpt_path "
                "out for a new run"
            )
        self.run = run
        for callback in trainer.checkpoint_callbacks:
            if isinstance(callback, RunCheckpoint):
                callback.dirpath = str(run.checkpoints.resolve())
        self._open_log(trainer)

    def _open_log(self, trainer: Trainer, purge_step: int | None = None) -> None:
        """Log to the folder of the run; what is there from ``purge_step`` on, TensorBoard then leaves out."""
        if self._logger and self.run is not None:
            logs = self.run.logs
            options: dict[str, Any] = {"default_hp_metric": False, "purge_step": purge_step}
            trainer.logger = RunLogger(logs.parent.parent, logs.parent.name, self.run.name, **options)

    def _lock_run(self) -> bool:
        """Hold the lock of the run until :meth:`release` or the end of the process; False if another does."""
        assert self.run is not None
        try:
            self._lock = acquire(self.run.checkpoints)
        except BusyError:
            return False
        except OSError as error:
            warnings.warn(f"{relative(self.run.checkpoints)} cannot be locked: {error.strerror}", stacklevel=2)
        return True

    def release(self) -> None:
        """Let others train the run."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Let others train the run."""
        self.release()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the settings: what is restored has been, and nothing has gone wrong."""
        self.started = True
        if self.run is not None and trainer.is_global_zero:
            remove_leftovers(self.run.checkpoints)
            self._write_config()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Leave no empty folder and no empty log behind where nothing came of it."""
        self.release()
        if self.run is not None and self._claimed and not self.started:
            shutil.rmtree(self.run.logs, ignore_errors=True)
            for folder in (self.run.checkpoints, self.run.logs):
                with contextlib.suppress(OSError):  # up to the first that holds something else
                    for empty in (folder, *folder.parents[:2]):
                        if empty.exists():
                            empty.rmdir()

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Say which callbacks the run had that are not there now, and log over what came after the checkpoint."""
        now = {type(callback).__qualname__ for callback in trainer.callbacks}  # type: ignore[attr-defined]
        missing = {key.partition("{")[0] for key in checkpoint.get("callbacks", ())} - now - _OF_OPTIONS
        if missing and trainer.is_global_zero:
            names = clipped(", ".join(sorted(missing)), 240)
            warnings.warn(f"the run goes on without {names}: say --trainer.callbacks as before", stacklevel=2)
        episode: Any = pl_module.episode
        self._open_log(trainer, purge_step=episode)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Keep the settings that resuming needs; notice where the run's folder is gone, which saving makes anew."""
        checkpoint[RUN_SETTINGS] = self._settings
        if self.run is not None and self.started and not self.run.checkpoints.is_dir() and trainer.is_global_zero:
            self._vanished = True
            self._write_config()

    def _write_config(self) -> None:
        assert self.run is not None
        write(self.run.checkpoints / "config.yaml", self._config.encode())

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Stop where the folder has vanished; only now, when everything is saved in a new one."""
        if trainer.strategy.broadcast(self._vanished):
            assert self.run is not None
            raise StorageError(f"{relative(self.run.checkpoints)} vanished while training; it was made anew")

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """As before an episode."""
        self.on_train_batch_start(trainer, pl_module, None, 0)
