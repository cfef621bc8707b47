"""What a run says at its end: what was done, where it is kept, and how to go on."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from meta_opt import registry
from meta_opt.cli.elastic import restarts_left
from meta_opt.evaluation.reference import Reference
from meta_opt.meta_training.endings import cut_short_by
from meta_opt.meta_training.judging import RunCheckpoint
from meta_opt.meta_training.meta_learner import MetaLearner
from meta_opt.meta_training.run_folder import RunFolder
from meta_opt.saved.runs import relative

_LONGER = {
    "--trainer.max_steps": "--trainer.max_steps, or -1,",
    "--trainer.max_time": "--trainer.max_time, which is that of the whole run,",
}


class RunReport:
    """What is said of a run.

    Attributes:
        folder: Where it is kept; None before it is known, and for commands that keep nothing.
    """

    def __init__(self, command: str, options: Sequence[str], classes: Mapping[registry.Kind, type[Any]]) -> None:
        """Say nothing yet.

        Args:
            command: fit, validate or test.
            options: The arguments after it.
            classes: Of optimizee, optimizer and estimator.
        """
        self.folder: RunFolder | None = None
        self._command = command
        self._options = options
        self._classes = classes

    def saved(self) -> list[Path]:
        """The checkpoints that there are of the run."""
        run = None if self.folder is None else self.folder.run
        paths = [] if run is None else [run.checkpoints / f"{name}.ckpt" for name in ("last", "best")]
        return [path for path in paths if path.is_file()]

    def how_to_go_on(self, when: str = "") -> str:
        """After a run that could not go on."""
        if saved := self.saved():
            return f"{when}go on with: {self._resumed(saved[0])}"
        if when:
            return "nothing was saved; --trainer.default_root_dir puts runs elsewhere"
        return "begin anew: no checkpoint was saved"

    def how_to_start_again(self) -> str:
        """After a process was lost."""
        if self._command != "fit":
            return "start the command again"
        return "torchrun starts all of them again" if restarts_left() else self.how_to_go_on()

    @rank_zero_only
    def end(self, trainer: Trainer, model: MetaLearner, reference: Reference, *, interrupted: bool) -> bool:
        """Print what was done, where it is, and what can be done with it; returns whether nothing was learned."""
        folder = self.folder
        if folder is None or folder.run is None:
            return False
        cut = None if interrupted else cut_short_by(trainer)
        print(f"\n{self._done(folder, model, cut, interrupted=interrupted)}")
        if (curves := model.validation_curves) is not None and curves.not_finite:
            print(f"not finite on {curves.not_finite} of {curves.losses.shape[1]} validation problems")
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, RunCheckpoint) and callback.never_finite:
                print(f"{callback.monitor} was never finite, and best.ckpt is that of the first validation")
        nothing = model.skipped == model.episode and not interrupted
        if nothing:
            print("nothing was learned")
        elif reference.best is not None:
            whole = not interrupted and folder.started and cut is None
            print(reference.said(model.lr, trainer.max_epochs if whole else None))
        best, last = (folder.run.checkpoints / f"{name}.ckpt" for name in ("best", "last"))
        shown = [
            ("best checkpoint", best),
            ("last checkpoint", last),
            ("config", folder.run.checkpoints / "config.yaml"),
        ]
        for title, path in [*shown, ("TensorBoard log", folder.run.logs)]:
            if path.exists():
                print(f"  {title:15}  {relative(path)}")
        following = []
        if interrupted and last.exists():
            following.append(self._resumed(last))
        elif best.exists():
            for command in ("test", "compare"):
                kinds = registry.KINDS if command == "test" else ("optimizee", "optimizer")
                options = [relative(best), *self._foreign_classes(kinds)]
                following.append(f"{_program()} {command} --ckpt_path {shlex.join(options)}")
        if folder.run.logs.exists():
            following.append(f"tensorboard --logdir {shlex.quote(relative(folder.run.logs.parent.parent))}")
        if following:
            print("next:", *following, sep="\n  ")
        else:
            print(self.how_to_go_on())
        return nothing

    def _done(self, folder: RunFolder, model: MetaLearner, cut: str | None, *, interrupted: bool) -> str:
        """How far the run is, and why it ended."""
        done = "stopped" if interrupted else "finished" if folder.started else "had finished"
        skipped = f", {model.skipped} skipped: not finite" if model.skipped else ""
        if interrupted or folder.started:
            more = f": stopped by {cut}" if cut else ""
        else:
            longer = _LONGER.get((cut or "").partition(" ")[0], "--trainer.max_epochs")
            more = f"; a higher {longer} goes on with it"
        return f"{done} after {model.episode} episodes{skipped}{more}"

    def _resumed(self, checkpoint: Path) -> str:
        """The command that goes on with a checkpoint, with the options that the run was begun with."""
        options = list(self._options)
        while "--ckpt_path" in options:
            index = options.index("--ckpt_path")
            del options[index : index + 2]
        options = [option for option in options if not option.startswith("--ckpt_path=")]
        return f"{_program()} fit {shlex.join([*options, '--ckpt_path', relative(checkpoint)])}"

    def _foreign_classes(self, kinds: Collection[registry.Kind]) -> list[str]:
        """The options that name classes which a checkpoint may not name, as they are no installed plugins."""
        named = (
            (f"--{registry.OPTIONS[kind]}", registry.reference(cls))
            for kind, cls in self._classes.items()
            if kind in kinds and "." in registry.name_of(cls)
        )
        return [part for option in named for part in option]


def _program() -> str:
    script = Path(sys.argv[0])
    return f"python {shlex.quote(relative(script))}" if script.name == "cli.py" else "meta-opt"
