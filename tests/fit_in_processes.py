"""Meta-train for a few episodes in DEVICES processes, with PES whose pairs they share; save φ and losses to OUT."""

import sys

import torch
from problems_for_tests import Regression
from trainers_for_tests import trainer

from meta_opt.meta_training.estimators.pes import PES
from meta_opt.meta_training.meta_learner import MetaLearner
from meta_opt.optimizers.coordinatewise_lstm import CoordinatewiseLSTM

if __name__ == "__main__":
    devices, out = int(sys.argv[1]), sys.argv[2]
    module = MetaLearner(
        Regression(),
        CoordinatewiseLSTM(hidden_size=4, inputs="log_sign+moments"),
        num_steps=10,
        unroll_length=5,
        estimator=PES(pairs=4, split_pairs=True),
        num_problems=2,
        episodes_per_epoch=4,
        num_validation_problems=2,
        clip_relative=1.0,
        lr=0.01,
    )
    quiet = trainer(devices=devices, strategy="ddp" if devices > 1 else "auto", precision="64-true", max_epochs=3)
    quiet.fit(module)
    if quiet.is_global_zero:
        logged = [quiet.callback_metrics[f"train/{name}"] for name in ("meta_loss", "final_loss")]
        torch.save([*(parameter.detach() for parameter in module.optimizer.parameters()), *logged], out)
