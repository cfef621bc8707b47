"""Meta-train for a few episodes in DEVICES processes with PROBLEMS problems each, and save φ to OUT."""

import sys

import torch
from lightning.pytorch import Trainer
from problems_for_tests import Regression

from meta_opt.meta_training.meta_learner import MetaLearner
from meta_opt.optimizers.coordinatewise_lstm import CoordinatewiseLSTM

if __name__ == "__main__":
    devices, problems, out = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    module = MetaLearner(
        Regression(),
        CoordinatewiseLSTM(hidden_size=4, inputs="log_sign+moments"),
        num_steps=10,
        unroll_length=5,
        num_problems=problems,
        episodes_per_epoch=4,
        num_validation_problems=2,
        clip_relative=1.0,
        lr=0.01,
    )
    trainer = Trainer(
        accelerator="cpu",
        devices=devices,
        strategy="ddp" if devices > 1 else "auto",
        precision="64-true",
        max_epochs=3,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        inference_mode=False,
    )
    trainer.fit(module)
    if trainer.is_global_zero:
        torch.save([parameter.detach() for parameter in module.optimizer.parameters()], out)
