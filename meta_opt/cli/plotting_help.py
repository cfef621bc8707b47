"""``meta-opt plot --help``, which imports no torch."""

HELP = """\
usage: meta-opt plot --ckpt_path PATH [PATH ...] [--num_steps N] [--out FOLDER]
       meta-opt plot --pretrained NAME [NAME ...]

Draw what learned optimizers do with gradients that are made up, a picture each.

  - the update against the gradient now and the gradient before, of one coordinate
  - the response to a gradient that is zero for a while, then a constant
  - the size of updates step by step, where gradients are noise: the learned schedule

All other gradients are drawn from N(0, 1), so that sizes are relative to these. Losses stay 1 and parameters 0.

options:
  --ckpt_path PATH [PATH ...]     checkpoints that meta-opt fit wrote; best or last: that of the newest run
  --pretrained NAME [NAME ...]    checkpoints that come with meta-opt
  --optimizer CLASS               the class of learned optimizers that are not installed plugins
  --num_steps N                   steps of the schedule, at most 1000 (default: as in training)
  --out FOLDER                    a new folder (default: the next of portraits/0, 1, ...)

examples:
  meta-opt plot --ckpt_path best
  meta-opt plot --pretrained mnist_mlp general_mlp
"""
