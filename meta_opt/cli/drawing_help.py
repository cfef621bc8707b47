"""``meta-opt landscape --help``, which imports no torch."""

HELP = """\
usage: meta-opt landscape [--ckpt_path PATH ...] [--pretrained NAME ...] [--baselines NAME ...] [OPTIONS]

Draw the paths of optimizers over the contours of problems with two parameters, as a picture and an animation.

A panel shows one test problem, its start (a square), the lowest point (a star), and the loss at which each path ends.
The learning rates of baselines are tuned for the final loss on validation problems of the panel's own kind.

what is drawn:
  --ckpt_path PATH [PATH ...]     checkpoints that meta-opt fit wrote; best or last: that of the newest run
  --pretrained NAME [NAME ...]    checkpoints that come with meta-opt
  --optimizer CLASS               the class of learned optimizers that are not installed plugins
  --baselines NAME [NAME ...]     hand-made optimizers, as for meta-opt compare (default: Nesterov and Adam)
  --optimizee NAME                what has two parameters (default: landscape, nine test functions)
  --optimizee.OPTION VALUE        an option of it: --optimizee.name rosenbrock for one of the nine
  --num_steps N                   steps of each path (default: 100)
  --problem N                     which test problem of each kind (default: 0)
  --num_validation_problems N     problems to tune learning rates on (default: 32)
  --seed_everything N             all randomness comes from this (default: 0)
  --device DEVICE                 where to compute: cpu, cuda, cuda:1, or auto (default)

what comes of it:
  --out FOLDER                    a new folder (default: the next of landscapes/OPTIMIZEE/0, 1, ...), which gets
                                  landscape.png, landscape.gif and paths.csv; an existing one is never written to

examples:
  meta-opt landscape
  meta-opt landscape --ckpt_path checkpoints/landscape/run_0/best.ckpt --baselines SGD Adam
  meta-opt landscape --optimizee quadratic --optimizee.dimension 2 --pretrained quadratic
"""
