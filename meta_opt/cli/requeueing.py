"""SLURM's signal to requeue a job ends a run in good order, and no run begins with what another has left for that.

Lightning would answer the signal with a checkpoint in the middle of an episode, ``hpc_ckpt_1.ckpt`` in the working
folder, and train on. Every later run in that folder would begin with it, without a word and whatever its own settings.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

from lightning.fabric.plugins.environments import SLURMEnvironment
from lightning.pytorch import Trainer

from meta_opt.errors import MetaOptError
from meta_opt.saved.runs import relative


def turn_off(trainer: Trainer, plugins: Collection[Any], *, begins: bool) -> None:
    """Let a trainer not requeue the job, unless a plugin of the user's is there for that.

    Args:
        trainer: Just made.
        plugins: Those that it was given.
        begins: Whether it is for a run that begins, without a checkpoint.

    Raises:
        MetaOptError: If Lightning would begin with what another run has left.
    """
    if any(isinstance(plugin, SLURMEnvironment) and plugin.auto_requeue for plugin in plugins):
        return
    environment = trainer._accelerator_connector.cluster_environment  # of one process the strategy does not know it
    if isinstance(environment, SLURMEnvironment):
        environment.auto_requeue = False
    if not begins or not SLURMEnvironment.detect():
        return
    if left := sorted(Path(trainer.default_root_dir).glob("*hpc_ckpt_*")):
        raise MetaOptError(
            f"under SLURM Lightning would begin with {relative(left[0])}, which another run has left: move it away, "
            "or go on with it by --ckpt_path"
        )
