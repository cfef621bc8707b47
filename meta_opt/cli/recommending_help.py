"""``meta-opt recommend --help``, which imports no torch."""

HELP = """\
usage: meta-opt recommend --optimizee NAME [--optimizee.OPTION VALUE ...] [--num_steps N]

Try an optimizee out for a minute, and print settings of meta-training for it.

Adam runs with several learning rates on four validation problems. Its best one is about the size of the steps that the
learned optimizer begins with. How far the loss falls decides on the meta-loss, and what the parameters are on what
the network reads.

options:
  --optimizee NAME            what to try: an installed optimizee, FILE.py:CLASS or MODULE.CLASS
  --optimizee.OPTION VALUE    an option of it
  --num_steps N               steps of an episode (default: 100)
  --seed_everything N         all randomness comes from this (default: 0)

examples:
  meta-opt recommend --optimizee my_problem.py:MyProblem
"""
