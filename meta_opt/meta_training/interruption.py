"""How meta-training stops on a signal: where resuming is exact."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from meta_opt.meta_training.judging import RunCheckpoint


class Interruption(Callback):
    """Stops meta-training on Ctrl-C and SIGTERM where resuming is exact; at once on the second.

    Under SLURM also on SIGUSR1, which jobs are sent before their time is up if they ask for it (``--signal=USR1@90``).

    The place is the end of an episode, or of the epoch where that episode is the last of its epoch. Validation that
    follows it is finished, and is in the checkpoint, so that resuming neither repeats nor misses it.

    Attributes:
        signal: The signal that was received, if any.
        saved: The checkpoint that was written because of it.
        agreed: The signal for which all processes stop at the same place, if they do; another may have received it.
    """

    def __init__(self) -> None:
        """Do nothing until training starts."""
        self.signal: signal.Signals | None = None
        self.saved: Path | None = None
        self.agreed: signal.Signals | None = None
        self._first_process = True
        self._former: dict[signal.Signals, Any] = {}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take over from Lightning's own handlers, which stop in the middle of things."""
        if trainer.received_sigterm:
            self.signal = signal.SIGTERM
        self._first_process = trainer.is_global_zero
        if threading.current_thread() is threading.main_thread():
            numbers = [signal.SIGINT, signal.SIGTERM]
            if "SLURM_JOB_ID" in os.environ and signal.getsignal(signal.SIGUSR1) == signal.SIG_DFL:
                numbers.append(signal.SIGUSR1)  # unless a plugin of the user's does something with it
            for number in numbers:
                self._former[number] = signal.signal(number, self._receive)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        again, self.signal = self.signal is not None, signal.Signals(number)
        if again:
            self.agreed = None  # other processes may be elsewhere
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
        """Save, if it is time to stop and the epoch does not end here."""
        if batch_idx + 1 < trainer.num_training_batches and self._agree(trainer):
            for callback in trainer.checkpoint_callbacks:
                if isinstance(callback, RunCheckpoint) and callback.monitor is None:
                    callback.save_in_epoch(trainer)
                    self.saved = callback.path

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Stop; only now, when the last episode has been logged."""
        if self.agreed:
            raise KeyboardInterrupt

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop after what ends an epoch."""
        if self._agree(trainer):
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

    def _agree(self, trainer: Trainer) -> bool:
        """Whether to stop; the same in all processes, whichever the signal reached."""
        own = torch.tensor(self.signal or 0, device=trainer.strategy.root_device)
        if number := int(trainer.strategy.reduce(own, reduce_op="max")):
            self.agreed = signal.Signals(number)
        return number > 0
