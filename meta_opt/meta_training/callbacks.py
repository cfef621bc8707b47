"""What the command line adds to Lightning's training loop: where a run is kept, and how it stops."""

from __future__ import annotations

import contextlib
import math
import os
import shutil
import signal
import threading
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from types import FrameType
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger

from meta_opt.errors import MetaOptError, StorageError
from meta_opt.locks import BusyError, acquire
from meta_opt.saved.checkpoints import remove_leftovers
from meta_opt.saved.recipes import RUN_SETTINGS
from meta_opt.saved.runs import Run, relative
from meta_opt.storage import write

_OF_OPTIONS = {"RunCheckpoint", "Timer"}  # callbacks that come and go with enable_checkpointing and max_time
_OF_VALIDATION = ("num_validation_problems", "meta_loss", "step_weights", "held_back", "seed")


class RunLogger(TensorBoardLogger):
    """TensorBoard's log of a run: over episodes, without the number of the epoch."""

    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Log, but for ``epoch``, which Lightning adds to everything."""
        super().log_metrics({name: value for name, value in metrics.items() if name != "epoch"}, step)


class Judging(Callback):
    """What remembers a best validation, and forgets it when a run goes on that is validated on something else.

    Attributes:
        anew: Whether the checkpoint that a run goes on from was validated on something else.
    """

    anew = False

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Compare what was validated on then and now; called before the state is loaded."""
        now = pl_module.recipe()  # type: ignore[operator]
        self.anew = _validated_on(checkpoint["meta_opt"]) != _validated_on(now)


def _validated_on(recipe: Mapping[str, Any]) -> tuple[Any, ...]:
    model = recipe["model"]
    steps = model.get("num_validation_steps") or model.get("num_steps")
    return recipe["optimizee"], steps, *(model.get(name) for name in _OF_VALIDATION)


class StopWhenStale(Judging, EarlyStopping):
    """Stops meta-training when what chooses the best checkpoint (``model.monitor``) no longer falls.

    Without validation it does nothing.
    """

    def __init__(
        self,
        patience: int = 20,
        min_delta: float = 0.0,
        stopping_threshold: float | None = None,
        divergence_threshold: float | None = None,
    ) -> None:
        """Watch what ``model.monitor`` names.

        Args:
            patience: Stop after this many validations without improvement.
            min_delta: What counts as improvement.
            stopping_threshold: Stop once it is lower than this.
            divergence_threshold: Stop once it is higher than this.

        Raises:
            MetaOptError: If a value is out of range.
        """
        if patience < 1:
            raise MetaOptError(f"early_stopping.patience must be at least 1, not {patience}")
        if not 0.0 <= min_delta < math.inf:
            raise MetaOptError(f"early_stopping.min_delta must be a number of 0 or more, not {min_delta}")
        super().__init__(
            "val/objective",
            strict=False,
            min_delta=min_delta,
            patience=patience,
            check_finite=False,
            stopping_threshold=stopping_threshold,
            divergence_threshold=divergence_threshold,
        )

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on counting; patience is what was asked for now, not what was asked for then."""
        if not self.anew:
            super().load_state_dict({**state_dict, "patience": self.patience})

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Do not train on when the checkpoint is that of a run which had stopped."""
        if self.stopped_epoch and self.wait_count >= self.patience:
            trainer.should_stop = True


class RunCheckpoint(Judging, ModelCheckpoint):
    """``best.ckpt`` or ``last.ckpt`` in the folder of the run."""

    def __init__(self, filename: str, monitor: str | None = None) -> None:
        """Name the file; the folder is set when the run has one.

        Args:
            filename: Name of the file, without suffix.
            monitor: Save when this is lower than ever; otherwise at the end of every epoch, and of training.
        """
        super().__init__(
            filename=filename,
            monitor=monitor,
            save_on_train_epoch_end=not monitor,
            enable_version_counter=False,
        )
        self._unfinished = False  # whether the epoch was left in the middle, and what it did is saved

    @property
    def path(self) -> Path:
        """The file."""
        return Path(self.dirpath or ".") / f"{self.filename}{self.FILE_EXTENSION}"

    @property
    def never_finite(self) -> bool:
        """Whether a best checkpoint was saved for a figure that was never finite."""
        return self.best_model_score is not None and not bool(self.best_model_score.isfinite())

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Say that a best is forgotten."""
        super().on_load_checkpoint(trainer, pl_module, checkpoint)
        if self.anew and self.monitor is not None and trainer.is_global_zero:
            print("validation is on other problems or steps than before: best.ckpt is chosen anew")

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """An epoch goes on, and is not counted as done: Lightning does where ``max_steps`` is set in a resumed run."""
        self._unfinished = False
        progress = trainer.fit_loop.epoch_progress
        trackers: tuple[Any, ...] = (progress.total, progress.current)
        for tracker in trackers:
            tracker.processed = min(tracker.processed, tracker.started - 1)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save where training ends in the middle of an epoch: after it, Lightning counts the epoch as done."""
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
        if self.monitor is None and batch_idx + 1 < trainer.num_training_batches and _ends(trainer):
            trainer.save_checkpoint(self.path)
            self._unfinished = True

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save, unless the epoch was left in the middle."""
        if not self._unfinished:
            super().on_train_epoch_end(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keep what was done since the last epoch was saved."""
        if self.monitor is None and not self._unfinished and trainer.global_step > self._last_global_step_saved:
            trainer.save_checkpoint(self.path)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Remember the best so far, wherever its folder is now; the best of another run does not count."""
        if self.path.exists() and not (self.anew and self.monitor is not None):
            path = str(self.path)
            here: dict[str, Any] = {
                name: path if state_dict[name] else "" for name in ("best_model_path", "kth_best_model_path")
            }
            here["best_k_models"] = dict.fromkeys([path][: len(state_dict["best_k_models"])], state_dict["kth_value"])
            super().load_state_dict({**state_dict, **here, "dirpath": self.dirpath})


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
        if self._logger:
            trainer.logger = RunLogger(run.logs.parent.parent, run.logs.parent.name, run.name, default_hp_metric=False)

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
        """Say which callbacks the run had that are not there now: a checkpoint cannot make them."""
        now = {type(callback).__qualname__ for callback in trainer.callbacks}  # type: ignore[attr-defined]
        missing = {key.partition("{")[0] for key in checkpoint.get("callbacks", ())} - now - _OF_OPTIONS
        if missing and trainer.is_global_zero:
            names = ", ".join(sorted(missing))
            warnings.warn(f"the run goes on without {names}: say --trainer.callbacks as before", stacklevel=2)

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


class Interruption(Callback):
    """Stops meta-training on Ctrl-C and SIGTERM where resuming is exact; at once on the second.

    The place is the end of an episode, or of the epoch where that episode is the last of its epoch: validation and
    the checkpoint that follow it are finished then, so that resuming neither repeats nor misses them.

    Attributes:
        signal: The signal that was received, if any.
        saved: The checkpoint that was written because of it.
        agreed: Whether all processes stop, at the same place.
    """

    def __init__(self) -> None:
        """Do nothing until training starts."""
        self.signal: signal.Signals | None = None
        self.saved: Path | None = None
        self.agreed = False
        self._first_process = True
        self._former: dict[signal.Signals, Any] = {}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take over from Lightning's own handlers, which stop in the middle of things."""
        if trainer.received_sigterm:
            self.signal = signal.SIGTERM
        self._first_process = trainer.is_global_zero
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._former[number] = signal.signal(number, self._receive)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        again, self.signal = self.signal is not None, signal.Signals(number)
        if again:
            raise KeyboardInterrupt
        if self._first_process:  # not by print, which may be what was interrupted
            os.write(2, f"\n{self.signal.name}: stopping after this episode; once more to stop at once\n".encode())

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Let SIGTERM end an evaluation; Lightning's handler would only note it."""
        if trainer.state.fn != "fit" and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, signal.SIG_DFL)

    on_validation_start = on_test_start

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save, if it is time to stop and nothing else is due after this episode."""
        if not _validates_after(trainer, batch_idx) and self._wanted(trainer):
            for callback in trainer.checkpoint_callbacks:
                if isinstance(callback, RunCheckpoint) and callback.monitor is None:
                    trainer.save_checkpoint(callback.path, weights_only=False)
                    self.saved = callback.path
            self.agreed = True

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Stop; only now, when the last episode has been logged."""
        if self.agreed:
            raise KeyboardInterrupt

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop after what ends an epoch."""
        if self._wanted(trainer):
            trainer.should_stop = True

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Give the signals back, before Lightning does the same with its own."""
        self.restore()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Give the signals back."""
        self.restore()

    def restore(self) -> None:
        """Give the signals back to who had them."""
        while self._former:
            signal.signal(*self._former.popitem())

    def _wanted(self, trainer: Trainer) -> bool:
        """Whether to stop; the same in all processes, whichever the signal reached."""
        return bool(trainer.strategy.reduce_boolean_decision(self.signal is not None, all=False))


def _ends(trainer: Trainer) -> bool:
    """Whether training stops after this episode, by ``max_steps`` or ``max_time``."""
    stops = trainer.should_stop and trainer.fit_loop._can_stop_early
    return stops or 0 <= trainer.max_steps <= trainer.global_step


def _validates_after(trainer: Trainer, batch_idx: int) -> bool:
    number = batch_idx + 1
    every = trainer.val_check_batch
    return number >= trainer.num_training_batches or bool(every and number % every == 0)
