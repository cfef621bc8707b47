"""The commands that train and evaluate: LightningCLI with optimizees and optimizers by name, and one-line errors."""

from __future__ import annotations

import os
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
import yaml
from jsonargparse import Namespace
from lightning.pytorch import Trainer, seed_everything
from lightning.pytorch.callbacks import ProgressBar
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from meta_opt import __version__, registry
from meta_opt.cli import launched, requeueing
from meta_opt.cli.arithmetic import flush_denormals
from meta_opt.cli.commands import COMMANDS
from meta_opt.cli.defaults import OF_THE_BEGINNING, RESUMED_SETTINGS, find_defaults, recommended_by, set_defaults
from meta_opt.cli.elastic import ElasticCheckpointIO, meet_anew
from meta_opt.cli.files import with_dotted_paths
from meta_opt.cli.option_errors import check_nulls, check_plain, check_seed, check_trainer_options, errors_of_the_parser
from meta_opt.cli.output import quiet_lightning
from meta_opt.cli.parser import Parser, Shown, add_plugin_argument, errors_of_plugins, offer_names
from meta_opt.cli.processes import Companions, Processes, starts_processes
from meta_opt.cli.run_report import RunReport
from meta_opt.cli.training_errors import meaning_of, mismatch
from meta_opt.errors import CheckpointError, MetaOptError, StorageError, shown
from meta_opt.evaluation.monitoring import ValidationCurves
from meta_opt.evaluation.reference import Reference
from meta_opt.memory import LESS_MEMORY, bounded, shortage
from meta_opt.messages import clipped, described, own_frames
from meta_opt.meta_training.interruption import Interruption
from meta_opt.meta_training.judging import RunCheckpoint, StopWhenStale
from meta_opt.meta_training.meta_learner import MetaLearner
from meta_opt.meta_training.progress import EpisodeBar
from meta_opt.meta_training.recommended import Preset, trainer_defaults
from meta_opt.meta_training.run_folder import RunFolder
from meta_opt.saved.runs import Run, relative


def run(command: str, options: list[str]) -> int:
    """Run ``fit``, ``validate`` or ``test``; returns the exit status."""
    flush_denormals()
    quiet_lightning()
    argv = sys.argv
    sys.argv = [argv[0], command, *options]  # what DDP starts the other processes with
    try:
        # A GPU's memory is mapped, and would be counted.
        with nullcontext() if torch.cuda.is_available() else bounded():
            cli = MetaOptCLI(command, options)
    except Shown as end:  # --help, --print_config
        return int(end.code or 0)
    finally:
        sys.argv = argv
    return cli.status


class CommandParser(Parser, LightningArgumentParser):
    """The parser that LightningCLI wants, with our errors."""


class MetaOptCLI(LightningCLI):
    """One command, parsed and run.

    Attributes:
        status: Exit status.
    """

    def __init__(self, command: str, options: list[str]) -> None:
        """Parse and run.

        Args:
            command: fit, validate or test.
            options: The arguments after the command.
        """
        self.status = 0
        self._command = command
        self._interruption = Interruption()
        self._processes = Processes()
        self._reference = Reference()
        arguments = with_dotted_paths(options, command)
        self._defaults = find_defaults(command, arguments)
        self._report = RunReport(command, options, self._defaults.classes)
        self._companions = Companions(self._processes, self._report.how_to_start_again)
        about = {
            "description": COMMANDS[command].what,
            "usage": f"meta-opt {command} {'--optimizee NAME' if command == 'fit' else '--ckpt_path PATH'} [OPTIONS]",
            "dump_header": [f"meta-opt {__version__}"],
        }
        super().__init__(
            MetaLearner,
            save_config_callback=None,
            trainer_defaults=trainer_defaults(),
            seed_everything_default=0,
            parser_class=CommandParser,
            parser_kwargs={"prog": "meta-opt", "allow_abbrev": False, command: about},
            args=[command, *arguments],
            auto_configure_optimizers=False,
            load_from_checkpoint_support=False,
        )

    # ------------------------------------------------------------------------------------------------------- options

    def subcommands(self) -> dict[str, set[str]]:  # type: ignore[override]
        """The one command that was given: building the parsers of the others would take time."""
        loaders = {"train_dataloaders", "val_dataloaders"} if self._command == "fit" else {"dataloaders"}
        return {self._command: {"model", "datamodule", "ckpt_path", "weights_only", *loaders}}

    def add_default_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """The seed."""
        parser.add_argument("--seed_everything", type=int, default=0, help="All randomness comes from this.")

    def add_core_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Trainer, model, optimizee and optimizer."""
        kinds: tuple[registry.Kind, ...] = ("optimizee", "optimizer")
        for kind in kinds:
            add_plugin_argument(parser, kind, self._defaults.classes.get(kind))
        offer_names("estimator", self._defaults.classes.get("estimator"))
        parser.add_lightning_class_args(MetaLearner, "model")
        for kind in kinds:
            parser.link_arguments(kind, f"model.{kind}", apply_on="instantiate")
        parser.link_arguments("seed_everything", "model.seed")
        use = "a run to go on with, or 'last'" if self._command == "fit" else "what to load, or 'best' or 'last'"
        text = f"Checkpoint of {use}: that of the newest run (of the optimizee, if one is given)."
        parser.add_argument("--ckpt_path", type=str | None, default=None, help=text)
        if self._command == "fit":
            text = "Defaults: what optimizee and optimizer recommend, or the paper's own settings."
            parser.add_argument("--preset", type=Preset, default="recommended", help=text)
            parser.add_lightning_class_args(StopWhenStale, "early_stopping")
        parser.add_lightning_class_args(self.trainer_class, "trainer")
        parser.set_defaults({f"trainer.{name}": value for name, value in self.trainer_defaults.items()})

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse on top of recommended and checkpointed settings."""
        defaults = self._defaults
        without = () if self._command == "fit" else ("early_stopping",)
        set_defaults(self._parser(self._command), defaults, without=without)
        with errors_of_the_parser():
            self.config = parser.parse_args(args)
        config = self.config[self._command]
        for group in ("model", "trainer", *(() if without else ("early_stopping",))):
            if not isinstance(config.get(group), Namespace):
                raise MetaOptError(f"--{group} must be options by name, not {shown(config.get(group))}")
        for group, made in (("model", MetaLearner), ("trainer", Trainer)):
            check_nulls(group, made, config[group])
        for kind, cls in defaults.classes.items():
            part = config.model.estimator if kind == "estimator" else config[kind]
            if isinstance(part, Namespace):
                check_nulls(registry.OPTIONS[kind], cls, part.get("init_args") or {})
        if self._command == "fit" and defaults.checkpoint is not None:
            for option in OF_THE_BEGINNING:
                if option in defaults.options and config[option] != defaults.options[option]:
                    raise MetaOptError(
                        f"--{option} {clipped(config[option])} is for the beginning of a run, and this one goes on: "
                        "leave it out, or --ckpt_path for a new run"
                    )
        check_seed(config.seed_everything)
        if config.optimizer is None:
            raise MetaOptError(f"--optimizer must be one of {', '.join(registry.names('optimizer'))}, not null")
        if self._command != "fit" and defaults.checkpoint is None:
            raise MetaOptError(
                f"say what to {self._command}, with --ckpt_path, a path, or last or best of the newest run, or with "
                "--pretrained, a name"
            )
        if config.optimizee is None:
            names = ", ".join(registry.names("optimizee")) or "none is installed"
            raise MetaOptError(f"say what to learn on, with --optimizee ({names}), or give a --ckpt_path")
        self.config[self._command].ckpt_path = None if defaults.checkpoint is None else str(defaults.checkpoint)

    def _parse_ckpt_path(self) -> None:
        """Nothing: the stock method would put the checkpoint's settings above what the user says."""

    def _set_seed(self) -> None:
        seed_everything(self._get(self.config, "seed_everything"), workers=True, verbose=False)

    # ------------------------------------------------------------------------------------------------------- objects

    def instantiate_classes(self) -> None:
        """Make everything."""
        with errors_of_the_parser(), errors_of_plugins(self.parser):
            self._instantiate()
        if self._command == "fit":
            for kind in registry.KINDS:
                check_plain(registry.OPTIONS[kind], getattr(self.model, kind))

    def _instantiate(self) -> None:
        """Make everything; of a value that cannot be and that nobody said, say who recommends it."""
        try:
            super().instantiate_classes()
        except MetaOptError as error:
            option = str(error).partition(" ")[0]
            default = self._defaults.options.get(option)
            if default is None or self.config[self._command].get(option) != default:
                raise
            if who := recommended_by(self._defaults, option):
                raise MetaOptError(f"{who} recommends a setting that cannot be: {error}") from error
            raise

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """The trainer, with checkpoints, log and signals arranged as meta-opt does."""
        config = dict(self._get(self.config_init, "trainer"))
        callbacks = [*_listed(config.get("callbacks")), self._companions, self._interruption]
        if self._command == "fit":
            monitor = self._get(self.config_init, "model").monitor
            stop = self._get(self.config_init, "early_stopping")
            stop.monitor = monitor
            folder = self._report.folder = self._run_folder(config)
            # The folder is the first, as it brings the log that others may ask for.
            callbacks = [folder, *callbacks, self._reference, ValidationCurves(self._reference), stop]
            if config.get("enable_checkpointing") is not False and not config.get("fast_dev_run"):
                callbacks += [RunCheckpoint("best", monitor), RunCheckpoint("last")]
        else:
            config["enable_checkpointing"] = False
        if config.get("logger") in (None, True):
            config["logger"] = False
        config["plugins"] = [*_listed(config.get("plugins")), ElasticCheckpointIO()]
        if starts_processes(config["plugins"]):
            config["plugins"].append(self._processes)
        if config.get("enable_progress_bar") is not False and not any(isinstance(c, ProgressBar) for c in callbacks):
            callbacks.append(EpisodeBar())
        config["callbacks"] = callbacks
        check_trainer_options(config, self._command)
        launched.join(config)
        try:
            trainer = self.trainer_class(**{**config, **kwargs})
        except Exception as error:  # what Lightning raises for options that cannot be is not specified
            raise MetaOptError(f"the trainer cannot be made: {clipped(error, 300)}") from error
        launched.check(trainer)
        begins = self._command == "fit" and self._defaults.checkpoint is None
        requeueing.turn_off(trainer, config["plugins"], begins=begins)
        return trainer

    def _run_folder(self, config: dict[str, Any]) -> RunFolder:
        defaults = self._defaults
        name = registry.name_of(defaults.classes["optimizee"])
        settings = {key: value for key in RESUMED_SETTINGS if _is_plain(value := self.config[self._command].get(key))}
        return RunFolder(
            lambda: Run.claim(defaults.root, name),
            self._config_text(),
            settings,
            run=Run.containing(defaults.checkpoint) if defaults.checkpoint else None,
            logger=config.get("logger") in (None, True),
        )

    def _config_text(self) -> str:
        """The settings of this run, as --config reads them; without the checkpoint, so that it starts anew."""
        text = self._parser(self._command).dump(self.config[self._command], skip_none=False)
        config = yaml.safe_load(text)
        config["ckpt_path"] = None
        for kind, cls in self._defaults.classes.items():
            part = config["model"]["estimator"] if kind == "estimator" else config[kind]
            part["class_path"] = registry.reference(cls)
        return f"# meta-opt {__version__}: meta-opt fit --config THIS_FILE\n" + yaml.safe_dump(config, sort_keys=False)

    # ---------------------------------------------------------------------------------------------------------- runs

    def _run_subcommand(self, subcommand: str) -> None:
        meet_anew()
        self._companions.start(self.trainer)
        try:
            self._run_trainer(subcommand)
        except BaseException:
            if not self._companions.leave(failed=True):
                raise
            self.status = 2
        else:
            stopped_alone = bool(self.status) and not self._interruption.agreed
            self._companions.leave(failed=stopped_alone, said=self.trainer.is_global_zero)

    def _run_trainer(self, subcommand: str) -> None:
        checkpoint = self._defaults.checkpoint
        try:
            getattr(self.trainer, subcommand)(
                self.model, ckpt_path=None if checkpoint is None else str(checkpoint), weights_only=True
            )
        except MisconfigurationException as error:
            raise MetaOptError(str(error)) from error
        except StorageError as error:
            raise StorageError(f"{error}; {self._report.how_to_go_on('when it can be, ')}") from error
        except MetaOptError:
            raise
        except Exception as error:
            raise self._meaning(error, subcommand) from error
        except SystemExit as end:  # Lightning's answer to KeyboardInterrupt, and to SIGTERM before training has begun
            if own_frames(end, registry.modules_of_plugins()):
                raise
            self.status = 143 if self.trainer.received_sigterm else 130
        finally:
            self._interruption.restore()
        if number := self._interruption.signal or self._interruption.agreed:
            self.status = 128 + number
        if subcommand == "fit":
            interrupted = self.status != 0
            if self._report.end(self.trainer, self.model, self._reference, interrupted=interrupted):
                self.status = 1

    def _meaning(self, error: Exception, subcommand: str) -> Exception:
        """What an error means that ended a run.

        Raises:
            Exception: The error itself, where it means nothing else.
        """
        checkpoint, plugins = self._defaults.checkpoint, registry.modules_of_plugins()
        if short := shortage(error):
            return MetaOptError(f"{short}; {LESS_MEMORY}")
        if of_plugin := own_frames(error, plugins):
            if self._report.saved():
                going_on = self._report.how_to_go_on("once it is mended, ")
                return MetaOptError(f"a plugin failed with {described(error, plugins)}; {going_on}")
        elif isinstance(error, OSError) and subcommand == "fit":
            failed = StorageError.of(error, Path(os.fsdecode(error.filename or "the log")))
            return StorageError(f"{failed}; {self._report.how_to_go_on('when it can be, ')}")
        if checkpoint is not None and not of_plugin and "loading state_dict" in str(error):
            fault = mismatch(str(error))
            if fault.startswith("it has ") and subcommand != "fit":  # and lacks nothing
                fault += ", networks for what the optimizee does not have; meta-opt compare leaves them out"
            return CheckpointError(f"the learned optimizer in {relative(checkpoint)} does not fit: {fault}")
        return meaning_of(error, checkpoint)


def _listed(value: Any) -> list[Any]:
    if value is None:
        return []
    return list(value) if isinstance(value, list | tuple) else [value]


def _is_plain(value: Any) -> bool:
    return value is None or isinstance(value, bool | int | float | str)
