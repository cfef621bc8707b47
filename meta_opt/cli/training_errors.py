"""What errors mean that come out of Lightning and torch."""

from __future__ import annotations

import re
import traceback
from pathlib import Path

import lightning
import torch

from meta_opt.errors import CheckpointError, MetaOptError
from meta_opt.messages import clipped
from meta_opt.saved.runs import relative

_OURS = Path(__file__).parents[1]
_CALLBACKS = Path(lightning.pytorch.callbacks.__file__).parent
_MODULES = Path(torch.nn.modules.__file__).parent  # where a missing attribute of a module is noticed


def meaning_of(error: Exception, checkpoint: Path | None) -> Exception:
    """What an error means where Lightning was restoring a checkpoint, or met an option that cannot be.

    Raises:
        Exception: The error itself, where it means neither.
    """
    files = [Path(frame.filename) for frame in traceback.extract_tb(error.__traceback__)]
    if checkpoint is not None and any(file.stem == "checkpoint_connector" for file in files):
        text = f"{type(error).__name__}: {clipped(error)}"
        return CheckpointError(f"{relative(checkpoint)} is damaged, and fit cannot go on with it ({text})")
    if Path(lightning.__file__).parent in next(file for file in reversed(files) if file.parent != _MODULES).parents:
        return MetaOptError(f"the trainer cannot work with these options: {clipped(error, 300)}")
    last = next(file for file in reversed(files) if file.parent == _CALLBACKS or _OURS in file.parents)
    if last.parent == _CALLBACKS:
        return MetaOptError(f"a callback of the trainer failed: {type(error).__name__}: {clipped(error, 300)}")
    raise error


def mismatch(message: str) -> str:
    """Torch's list of missing, unexpected and misshapen weights, the first of each."""
    parts = []
    for title, pattern in (("lacks", "Missing"), ("has", "Unexpected")):
        if match := re.search(rf"{pattern} key\(s\) in state_dict: (.*)", message):
            names = re.findall(r'"([^"]+)"', match[1])
            parts.append(f"it {title} {names[0]}" + (f" and {len(names) - 1} more" if len(names) > 1 else ""))
    if shapes := re.findall(r"size mismatch for (\S+): .*?Size\((.*?)\).*?Size\((.*?)\)", message):
        name, found, expected = shapes[0]
        parts.append(f"{name} is [{found.strip('[]')}], not [{expected.strip('[]')}]")
    return "; ".join(parts)
