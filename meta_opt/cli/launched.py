"""Processes that torchrun or SLURM has started: how many there are, and that the trainer uses all of them.

Lightning joins them only if ``trainer.devices`` and ``trainer.num_nodes`` say so, and else lets every one train alone.
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from meta_opt.errors import MetaOptError

if TYPE_CHECKING:
    from lightning.pytorch import Trainer


@dataclass(frozen=True)
class Launch:
    """What a launcher has started.

    Attributes:
        by: Its name.
        processes: Processes on all nodes.
        nodes: How many nodes they are on.
    """

    by: str
    processes: int
    nodes: int


def find_launch() -> Launch | None:
    """The launcher that this process tells of in its environment, if any.

    Raises:
        MetaOptError: If SLURM has reserved several tasks, and only this process was started; or if it has started
            several in a job whose name tells Lightning that they are one.
    """
    if "TORCHELASTIC_RUN_ID" in os.environ:
        processes = _number("WORLD_SIZE")
        return Launch("torchrun", processes, max(1, processes // _number("LOCAL_WORLD_SIZE")))
    if "SLURM_NTASKS" not in os.environ:
        return None
    tasks, in_step = _number("SLURM_NTASKS"), "SLURM_STEP_ID" in os.environ
    if (name := os.environ.get("SLURM_JOB_NAME")) in ("bash", "interactive"):
        # The first task may be a shell, in which this is the only command.
        if tasks > 1 and in_step and os.environ.get("SLURM_PROCID", "0") != "0":
            raise MetaOptError(
                f"srun has started {tasks} tasks in a job named {name}, where each would run alone: start the command "
                "with srun --job-name train"
            )
        return None
    if tasks > 1 and not in_step:
        raise MetaOptError(
            f"SLURM has reserved {tasks} tasks, and started only this process: start the command with srun, or with "
            "SLURM_JOB_NAME=interactive for one process"
        )
    return Launch("srun", tasks, _number("SLURM_NNODES"))


def join(config: dict[str, Any]) -> None:
    """Let a trainer use all processes that were started, where its options leave that open.

    Args:
        config: Arguments of the trainer, changed in place.

    Raises:
        MetaOptError: If it would wait for processes that nobody starts.
    """
    launch = find_launch()
    if launch is not None:
        if config.get("devices") in (None, "auto"):
            config["devices"] = max(1, launch.processes // launch.nodes)
        if config.get("num_nodes") in (None, 1):
            config["num_nodes"] = launch.nodes
    elif (config.get("num_nodes") or 1) > 1 and not os.environ.get("MASTER_ADDR"):
        raise MetaOptError(
            f"trainer.num_nodes {config['num_nodes']} needs processes that were started on every node, by torchrun or "
            "SLURM, and found neither"
        )


def check(trainer: Trainer) -> None:
    """See that a trainer uses exactly the processes that were started; say what it waits for on other nodes.

    Raises:
        MetaOptError: If it does not.
    """
    from lightning.pytorch.strategies.launchers import _MultiProcessingLauncher  # comparisons do without

    if isinstance(trainer.strategy.launcher, _MultiProcessingLauncher):
        raise MetaOptError("trainer.strategy must be ddp for several processes: those of spawn and fork return no run")
    launch = find_launch()
    used = trainer.num_devices * trainer.num_nodes
    if launch is not None and (used, trainer.num_nodes) != (launch.processes, launch.nodes):
        raise MetaOptError(
            f"{launch.by} has started {launch.processes} processes on {_nodes(launch.nodes)}, and trainer.devices and "
            f"trainer.num_nodes ask for {used} on {_nodes(trainer.num_nodes)}; leave these options out"
        )
    if trainer.num_nodes > 1 and trainer.is_global_zero:
        print(f"waiting for all {used} processes on {trainer.num_nodes} nodes", file=sys.stderr)


def _nodes(number: int) -> str:
    return f"{number} node" + "s" * (number != 1)


def _number(name: str) -> int:
    """A number of the environment; 1 where there is none."""
    try:
        return max(1, int(os.environ.get(name) or 1))
    except ValueError:
        raise MetaOptError(f"{name} must be a number, not {os.environ[name]!r}") from None
