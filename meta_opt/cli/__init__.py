"""The command ``meta-opt``. Everything that needs torch is imported by the commands that need it."""

from __future__ import annotations

import signal
import sys

from meta_opt import __version__, registry
from meta_opt.cli.output import discard, quiet_log_writers, safe_output
from meta_opt.errors import MetaOptError
from meta_opt.memory import shortage
from meta_opt.messages import clipped, described, nearest, one_line, own_frames

__all__ = ["main"]

HELP = """\
usage: meta-opt COMMAND [OPTIONS]

Meta-train learned optimizers: networks that read gradients and write updates.

commands:
  fit         meta-train a learned optimizer on an optimizee
  validate    its losses on the validation problems
  test        its losses on the test problems
  compare     learned optimizers against tuned SGD, Nesterov momentum, RMSprop and Adam
  landscape   the paths of optimizers over problems with two parameters, as a picture and an animation
  plot        what learned optimizers do with gradients that are made up, a picture each
  study       many runs with different options, what they reached, and the figure of it
  recommend   settings for an optimizee, from short trials
  list        the installed optimizees, optimizers and estimators, what they recommend, and the pretrained optimizers
  new         a plugin to begin with: an optimizee of your own
  check       whether a class of yours keeps its contract

options:
  -h, --help  this text; `meta-opt COMMAND --help` for the options of a command,
              `meta-opt fit --optimizee NAME --help` for those of an optimizee as well
  --version   the version

examples:
  meta-opt fit --optimizee digits_mlp
  meta-opt fit --optimizee mnist_mlp --optimizee.hidden_sizes [40] --model.num_steps 200
  meta-opt fit --ckpt_path last
  meta-opt test --ckpt_path checkpoints/mnist_mlp/run_0/best.ckpt --optimizee digits_mlp
  meta-opt compare --ckpt_path checkpoints/mnist_mlp/run_0/best.ckpt --num_steps 100 200
"""

LESS_MEMORY = "lower the numbers of problems and of steps, or the sizes of optimizee and optimizer"

COMMANDS = ("fit", "validate", "test", "compare", "landscape", "plot", "study", "recommend", "list", "new", "check")
_WITH_CLASSES = ("fit", "validate", "test", "compare", "landscape", "recommend")  # commands that choose optimizees


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
        else:
            raise  # an error of meta-opt's
    print("meta-opt: error:", one_line(message), file=sys.stderr)
    return 2


def _run(args: list[str]) -> int:
    if not args:
        raise MetaOptError(f"say what to do: {', '.join(COMMANDS)} (meta-opt --help tells more)")
    command, *options = args
    if command in ("-h", "--help"):
        print(HELP, end="")
        return 0
    if command == "--version":
        print(f"meta-opt {__version__}")
        return 0
    if command not in COMMANDS:
        hint = nearest(command, COMMANDS)
        raise MetaOptError(f"no command is called {clipped(command)!r}; {hint}There are {', '.join(COMMANDS)}")
    if command == "list":
        from meta_opt.cli.listing import list_plugins

        return list_plugins(options)
    if command == "new":
        from meta_opt.cli.creating import create

        return create(options)
    from meta_opt.cli.reading_first import check_names, with_checkpoint_of_pretrained, with_values_joined

    options = with_values_joined(options)
    if command in ("validate", "test"):
        options = with_checkpoint_of_pretrained(options)
    if command == "check":
        from meta_opt.cli.conformance import check

        return check(options)
    if command in _WITH_CLASSES:
        from meta_opt.cli.option_help import class_asked_for_help, print_class_help

        if asked := class_asked_for_help(command, options):
            return print_class_help(*asked)
    if command == "compare" and {"-h", "--help"} & set(options):
        from meta_opt.cli.compare_help import HELP as COMPARE_HELP

        print(COMPARE_HELP, end="")
        return 0
    if command == "landscape" and {"-h", "--help"} & set(options):
        from meta_opt.cli.drawing_help import HELP as LANDSCAPE_HELP

        print(LANDSCAPE_HELP, end="")
        return 0
    if command == "plot" and {"-h", "--help"} & set(options):
        from meta_opt.cli.plotting_help import HELP as PLOT_HELP

        print(PLOT_HELP, end="")
        return 0
    if command == "recommend" and {"-h", "--help"} & set(options):
        from meta_opt.cli.recommending_help import HELP as RECOMMEND_HELP

        print(RECOMMEND_HELP, end="")
        return 0
    if command == "study":
        return _study(options)
    check_names(options)
    if command == "compare":
        from meta_opt.cli.comparing import run as run_comparison

        return run_comparison(options)
    if command == "landscape":
        from meta_opt.cli.drawing import run as run_drawing

        return run_drawing(options)
    if command == "plot":
        from meta_opt.cli.plotting import run as run_plotting

        return run_plotting(options)
    if command == "recommend":
        from meta_opt.cli.recommending import run as run_trials

        return run_trials(options)
    if {"-h", "--help"} & set(options):
        from meta_opt.cli.option_help import print_help

        return print_help(command, options)
    from meta_opt.cli.training import run

    return run(command, ["--help" if option == "--help_all" else option for option in options])


def _study(options: list[str]) -> int:
    if {"-h", "--help"} & set(options):
        from meta_opt.cli.study_help import HELP as STUDY_HELP

        print(STUDY_HELP, end="")
        return 0
    from meta_opt.cli.studying import run as run_study

    return run_study(options)
