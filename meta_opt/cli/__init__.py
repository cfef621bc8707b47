"""The command ``meta-opt``. Everything that needs torch is imported by the commands that need it."""

from __future__ import annotations

import importlib
import signal
import sys
from typing import Any

from meta_opt import __version__, registry
from meta_opt.cli.commands import COMMANDS, HELP
from meta_opt.cli.output import discard, quiet_log_writers, safe_output
from meta_opt.errors import MetaOptError
from meta_opt.installed import reading_problem
from meta_opt.memory import LESS_MEMORY, shortage
from meta_opt.messages import clipped, described, offered, one_line, own_frames

__all__ = ["main"]


def main(args: list[str] | None = None) -> int:
    """Run a command.

    Args:
        args: The command and its options; default: those of the process.

    Returns:
        The exit status: 0, 2 for an error that is the user's or a plugin's to mend (one line on standard error says
        which), 1 if what the command printed could not be written or another of its processes was lost, or 128 and the
        number of the signal that stopped it.
    """
    with safe_output() as output, quiet_log_writers():
        try:
            status = _status(sys.argv[1:] if args is None else list(args))
            output.release()
        except BrokenPipeError:  # who reads the output has enough; what is left in the buffer has no place to go
            discard(sys.stdout)
            return 128 + signal.SIGPIPE
        if output.lost and status == 0:
            print(f"meta-opt: error: standard output could not be written: {output.lost}", file=sys.stderr)
            return 1
    return status


def _status(args: list[str]) -> int:
    """Run a command; errors in one line."""
    try:
        return _run(args)
    except MetaOptError as error:
        message = str(error)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        raise
    except (Exception, SystemExit) as error:
        plugins = registry.modules_of_plugins()
        if own_frames(error, plugins) or isinstance(error, SystemExit):
            message = f"a plugin failed with {described(error, plugins)}"
        elif short := shortage(error):
            message = f"{short}; {LESS_MEMORY}"
        elif unreadable := reading_problem(error):
            message = unreadable
        else:
            raise  # an error of meta-opt's
    print("meta-opt: error:", one_line(message), file=sys.stderr)
    return 2


def _run(args: list[str]) -> int:
    if not args:
        raise MetaOptError(f"say what to do: {', '.join(COMMANDS)} (meta-opt --help tells more)")
    name, *options = args
    if name in ("-h", "--help"):
        print(HELP, end="")
        return 0
    if name == "--version":
        print(f"meta-opt {__version__}")
        return 0
    if name not in COMMANDS:
        there = offered(name, COMMANDS, f"there are {', '.join(COMMANDS)}")
        raise MetaOptError(f"no command is called {clipped(name)!r}; {there}")
    command = COMMANDS[name]
    if name in ("list", "new"):  # which need not read options, and answer at once
        return _module(command.module).run(options)
    from meta_opt.cli.reading_first import check_names, with_checkpoint_of_pretrained, with_values_joined

    options = with_values_joined(options)
    if name in ("validate", "test"):
        options = with_checkpoint_of_pretrained(options)
    if command.with_classes:
        from meta_opt.cli.option_help import class_asked_for_help, print_class_help

        if asked := class_asked_for_help(name, options):
            return print_class_help(*asked)
    wants_help = bool({"-h", "--help"} & set(options))
    if wants_help and command.help_module:
        print(_module(command.help_module).HELP, end="")
        return 0
    if name not in ("study", "check"):  # whose names are their own
        check_names(options)
    if command.module:
        return _module(command.module).run(options)
    if wants_help:
        from meta_opt.cli.option_help import print_help

        return print_help(name, options)
    from meta_opt.cli.training import run

    return run(name, ["--help" if option == "--help_all" else option for option in options])


def _module(name: str | None) -> Any:
    return importlib.import_module(f"meta_opt.cli.{name}")
