"""Going on by itself after torchrun has restarted all processes (``--max-restarts``).

Every ``last.ckpt`` gets a note of the launch that wrote it. A restarted process goes on from the checkpoint with the
note of its own launch; where there is none yet, it does what it was told at first.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from lightning.fabric.plugins.environments.lightning import find_free_network_port
from torch.distributed import TCPStore

from meta_opt.errors import MetaOptError
from meta_opt.saved.checkpoints import AtomicCheckpointIO
from meta_opt.saved.runs import Run, relative
from meta_opt.storage import write

_NOTE = ".launch"  # in the folder of a run


class ElasticCheckpointIO(AtomicCheckpointIO):
    """Notes beside ``last.ckpt`` which launch of torchrun wrote it."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None) -> None:
        """Save ``checkpoint`` as ``path``, and then the note."""
        super().save_checkpoint(checkpoint, path, storage_options)
        note, launch = Path(path).with_name(_NOTE), _launch()
        if Path(path).name != "last.ckpt":
            return
        if launch is not None:
            write(note, launch.encode())
        else:
            note.unlink(missing_ok=True)


def is_elastic() -> bool:
    """Whether torchrun starts the processes again after one was lost."""
    return int(os.environ.get("TORCHELASTIC_MAX_RESTARTS") or 0) > 0


def meet_anew() -> None:
    """Let restarted processes find each other at a new port.

    The agent of torchrun may keep the store that they met at before, with the addresses of those that are gone.
    """
    attempt = int(os.environ.get("TORCHELASTIC_RESTART_COUNT") or 0)
    if attempt == 0 or os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return
    store = TCPStore(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), wait_for_workers=False)
    if os.environ["RANK"] == "0":
        store.set(f"meta_opt/{attempt}", str(find_free_network_port()))
    os.environ["MASTER_PORT"] = store.get(f"meta_opt/{attempt}").decode()
    os.environ["TORCHELASTIC_USE_AGENT_STORE"] = "False"  # the first process opens one there


def restarts_left() -> bool:
    """Whether it will do so once more."""
    return is_elastic() and int(os.environ["TORCHELASTIC_RESTART_COUNT"]) < int(os.environ["TORCHELASTIC_MAX_RESTARTS"])


def checkpoint_of_launch(root: Path, given: str | None) -> Path | None:
    """The last checkpoint that this launch of torchrun has written before it was restarted.

    Args:
        root: Folder that holds ``checkpoints``.
        given: The checkpoint that the command names, whose run may be elsewhere.

    Returns:
        None if the launch has not been restarted, or has not written any.

    Raises:
        MetaOptError: If it could not be told from checkpoints of other launches.
    """
    launch = _launch()
    if launch is None or not is_elastic():
        return None
    notes = list((root / "checkpoints").glob(f"*/run_*/{_NOTE}"))
    if given and (run := Run.containing(Path(given))) is not None:
        notes.append(run.checkpoints / _NOTE)
    own = [note for note in notes if note.is_file() and note.read_text() == launch]
    if int(os.environ["TORCHELASTIC_RESTART_COUNT"]) > 0:
        last = own[0].with_name("last.ckpt") if own else None
        if os.environ["RANK"] == "0":
            print("restarted:", f"going on from {relative(last)}" if last else "beginning anew", file=sys.stderr)
        return last
    if os.environ["RANK"] == "0":
        for note in own:  # of an earlier launch with the same --rdzv-id
            note.unlink(missing_ok=True)
    return None


def _launch() -> str | None:
    """What names this launch of torchrun and no other; None without torchrun.

    On one node the agent, the parent of all processes, is enough; on several the job's id tells, which is the user's.

    Raises:
        MetaOptError: If nothing does.
    """
    name = os.environ.get("TORCHELASTIC_RUN_ID")
    if name is None:
        return None
    if os.environ["WORLD_SIZE"] == os.environ["LOCAL_WORLD_SIZE"]:
        try:
            boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
            started = Path(f"/proc/{os.getppid()}/stat").read_text().rpartition(")")[2].split()[19]
        except OSError:
            pass
        else:
            return f"{name} {boot} {os.getppid()} {started}"
    if name != "none":
        return name
    if is_elastic():
        raise MetaOptError("torchrun --max-restarts needs an --rdzv-id that no other launch has, to go on by itself")
    return None
