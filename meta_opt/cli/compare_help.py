"""``meta-opt compare --help``, which imports no torch."""

HELP = """\
usage: meta-opt compare --ckpt_path PATH [PATH ...] [OPTIONS]
       meta-opt compare --pretrained NAME [NAME ...] [OPTIONS]

Compare learned optimizers with hand-made ones (baselines), whose learning rates are tuned.

protocol:
  1. Baselines are tuned on validation problems: on a grid of learning rates, 1e-4 to 10 at first, that widens until its
     best point is not at an edge, and has four points a decade around it; separately for each figure of merit (sum of
     losses over all steps, final loss) and each number of steps. Learned optimizers have nothing to tune.
  2. Then all run on the same test problems, from the same θ_0, with the same mini-batches. Test problems are others
     than those of meta-training and validation; on data sets they use the test images.
  3. The final loss is the last one, or where mini-batches make it noisy the mean of the last tenth of the steps, at
     most ten. Means over problems come with their standard errors, and with the ratio to the best baseline, tuned for
     that very figure.

what is compared:
  --ckpt_path PATH [PATH ...]     checkpoints that meta-opt fit wrote; best or last: that of the newest run (on the
                                  optimizee, if one is given)
  --pretrained NAME [NAME ...]    checkpoints that come with meta-opt
  --optimizer CLASS               the class of learned optimizers that are not installed plugins, FILE.py:CLASS or
                                  MODULE.CLASS: a checkpoint may not say what to import
  --network_for.GROUP NETWORK     where the optimizee has a group of parameters (or a kind of tensor, or a tensor, its
                                  name with / for .) that learned optimizers have no network for: which of their
                                  networks works on it
  --baselines NAME [NAME ...]     hand-made optimizers: SGD, Nesterov (SGD with momentum 0.9), RMSprop, Adam, Muon (for
                                  matrices and filters, with AdamW for the rest), SpectralMuon, LBFGS, BFGS, Newton, any
                                  class of torch.optim, or of an installed package as MODULE.CLASS. Then, each after a
                                  colon: cosine or linear, a schedule of the learning rate; warmup, or warmup=0.1 of
                                  the steps; lr=0.001, which is not tuned; options such as weight_decay=0.1
                                  (default: SGD Nesterov RMSprop Adam up to 200 steps, for more Adam AdamW:cosine
                                  Nesterov:cosine Muon:cosine; and AdamW:cosine:lr=0.001 SpectralMuon:cosine:lr=0.06,
                                  what one has without any tuning). RandomSearch, CMAES and GP see losses only
                                  (pip install 'meta-opt[blackbox]'), for --regret

on what:
  --optimizee NAME                default: what the checkpoint was trained on, with the options it had; also
                                  FILE.py:CLASS or MODULE.CLASS
  --optimizee.OPTION VALUE        an option of the optimizee; the others stay what they are
  --optimizee.help NAME           its options
  --num_steps N [N ...]           steps; several numbers give several comparisons, with their figures side by side
                                  (default: as in training, or as recommended where --optimizee is another)
  --num_problems N                test problems (default: 100)
  --num_validation_problems N     problems to tune learning rates on (default: as many as training was validated on,
                                  32 at least)
  --held_back true                losses and metrics are those on batches that the optimizee holds back, losses for
                                  learning rates too (default: as in training)
  --regret true                   the loss after a step is the lowest so far: what a black-box optimizer has found
  --seed_everything N             all randomness comes from this (default: that of the first checkpoint)
  --config FILE                   these options from YAML; of a run's own config.yaml, what the run was trained on
  --print_config                  print all options as YAML, and do nothing else
  --device DEVICE                 where to compute: cpu, cuda, cuda:1, or auto (default), a GPU if there is one
  --precision PRECISION           32-true, 64-true, 16-mixed or bf16-mixed, for all alike (default: that in which the
                                  first checkpoint was trained)

what comes of it:
  --out FOLDER                    a new folder (default: the next of comparisons/OPTIMIZEE/0, 1, ...), which gets
                                  results.json, curves.csv, curves.png and TensorBoard runs that lie over each other;
                                  an existing one is never written to

examples:
  meta-opt compare --ckpt_path checkpoints/mnist_mlp/run_0/best.ckpt
  meta-opt compare --ckpt_path checkpoints/mnist_mlp/run_0/best.ckpt --optimizee.hidden_sizes [40] --num_steps 100 200
  meta-opt compare --ckpt_path checkpoints/*/run_0/best.ckpt --optimizee digits_mlp --baselines Adam AdamW:cosine
"""
