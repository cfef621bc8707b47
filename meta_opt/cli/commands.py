"""The commands of ``meta-opt``: what each is for, and where it is."""

from __future__ import annotations

from typing import NamedTuple


class Command(NamedTuple):
    """A command.

    Attributes:
        what: What it does, in a few words.
        module: Module of this package whose ``run`` takes the options and returns the exit status; None for those that
            train and test, which have one in common.
        help_module: Module whose ``HELP`` is printed for ``--help``; None where ``run`` does it.
        with_classes: Whether it chooses optimizees and optimizers.
    """

    what: str
    module: str | None
    help_module: str | None = None
    with_classes: bool = False


COMMANDS = {
    "fit": Command("meta-train a learned optimizer on an optimizee", None, None, True),
    "validate": Command("a learned optimizer's losses on the validation problems", None, None, True),
    "test": Command("a learned optimizer's losses on the test problems", None, None, True),
    "compare": Command(
        "learned optimizers against tuned SGD, Nesterov momentum, RMSprop and Adam", "comparing", "compare_help", True
    ),
    "landscape": Command(
        "the paths of optimizers over problems with two parameters, as a picture and an animation",
        "drawing",
        "drawing_help",
        True,
    ),
    "plot": Command(
        "what learned optimizers do with gradients that are made up, a picture each", "plotting", "plotting_help"
    ),
    "study": Command(
        "many runs with different options, what they reached, and the figure of it", "studying", "study_help"
    ),
    "recommend": Command("settings for an optimizee, from short trials", "recommending", "recommending_help", True),
    "list": Command(
        "the installed optimizees, optimizers and estimators, what they recommend, and the pretrained optimizers",
        "listing",
    ),
    "new": Command("a plugin to begin with: an optimizee of your own", "creating"),
    "check": Command("whether a class of yours keeps its contract", "conformance"),
}

HELP = """\
usage: meta-opt COMMAND [OPTIONS]

Meta-train learned optimizers: networks that read gradients and write updates.

commands:
{commands}

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
""".format(commands="\n".join(f"  {name:10}  {command.what}" for name, command in COMMANDS.items()))
