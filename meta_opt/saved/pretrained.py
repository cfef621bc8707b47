"""The checkpoints that come with meta-opt, and what their cards say; imports no torch."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from meta_opt.errors import CheckpointError
from meta_opt.messages import clipped, offered

# In a wheel the pretrained checkpoints lie in the package, in a checkout beside it.
_FOLDERS = (Path(__file__).parents[1] / "pretrained", Path(__file__).parents[2] / "checkpoints" / "pretrained")
_ROW = re.compile(r"^\| (\d+) \| (\w+) \| [^|]+ \| ([^| ]+) \| [^|]+ \| ([^| ]+) \|$", re.MULTILINE)


@dataclass(frozen=True)
class Card:
    """What the card of a pretrained optimizer says.

    Attributes:
        task: What the optimizer is for.
        num_steps: Steps of the first comparison with tuned baselines, the longest of them; None without one.
        loss_sum: Its sum of losses there, relative to the best baseline.
        final_loss: Its final loss there, relative to the best baseline.
        optimizee: What that was on, where the command names it.
    """

    task: str
    num_steps: int | None = None
    loss_sum: str = ""
    final_loss: str = ""
    optimizee: str = ""

    @property
    def headline(self) -> str:
        """Both ratios in words."""
        if self.num_steps is None:
            return "no single ratio in its card"
        where = f" of {self.optimizee}" if self.optimizee else ""
        return f"sum of losses {self.loss_sum}x, final loss {self.final_loss}x in {self.num_steps} steps{where}"


def pretrained() -> dict[str, Path]:
    """The checkpoints that come with meta-opt, by name."""
    return {path.stem: path for folder in reversed(_FOLDERS) for path in sorted(folder.glob("*.ckpt"))}


def pretrained_path(name: str) -> Path:
    """The checkpoint that comes with meta-opt under this name.

    Raises:
        CheckpointError: If there is none; names the offered match and all there are.
    """
    paths = pretrained()
    if name not in paths:
        there = offered(name, paths, f"there are {', '.join(paths) or 'none'}")
        raise CheckpointError(f"no pretrained optimizer is called {clipped(name)!r}; {there}")
    return paths[name]


def read_card(name: str) -> Card:
    """The card of a pretrained optimizer.

    Raises:
        CheckpointError: If there is no such optimizer.
    """
    path = pretrained_path(name).with_suffix(".md")
    if not path.is_file():
        return Card("no card is beside its checkpoint")
    text = path.read_text(encoding="utf-8")
    paragraphs = text.split("\n\n")
    task = " ".join(paragraphs[1].split()) if len(paragraphs) > 1 else ""
    for command, table in zip(paragraphs, paragraphs[2:], strict=False):  # what the means are of is said between them
        rows = [match for match in _ROW.finditer(f"{table}\n") if match[2] == name]
        if rows:
            named = re.search(r"--optimizee (\w+)", command)
            return Card(task, int(rows[-1][1]), rows[-1][3], rows[-1][4], named[1] if named else "")
    return Card(task)
