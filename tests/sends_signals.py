"""A callback that sends its own process a signal at a chosen moment, not after torchrun has restarted it."""

import os

from lightning.pytorch import Callback


class SendSignal(Callback):
    """Sends a signal ``times`` times when ``hook`` is called before a given episode."""

    def __init__(self, hook: str, episode: int, number: int, times: int = 1, rank: int | None = None) -> None:
        self.hook = hook
        self.episode = episode
        self.number = number
        self.times = times
        self.rank = rank

    def _called(self, hook, module):
        here = self.rank in (None, module.global_rank) and os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") == "0"
        if here and hook == self.hook and int(module.episode) == self.episode:
            while self.times:
                self.times -= 1
                os.kill(os.getpid(), self.number)

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self._called("episode", pl_module)

    def on_validation_start(self, trainer, pl_module):
        self._called("validation", pl_module)

    def on_train_epoch_end(self, trainer, pl_module):
        self._called("epoch_end", pl_module)
