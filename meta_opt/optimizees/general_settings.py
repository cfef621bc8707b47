"""Settings that meta-train well on networks of many kinds."""

from typing import Any

# What an optimizee gets that recommends nothing: seen to do well on networks of several kinds, where the paper's own
# settings (the arguments' defaults) stay behind Adam and saturate sigmoids within a hundred episodes. The network
# starts as a working optimizer (base_step), and a long unroll keeps it from greed. No logarithm in the meta-loss, as a
# loss may be negative.
GENERAL_SETTINGS: dict[str, Any] = {
    "model.unroll_length": 50,
    "model.lr_schedule": "cosine",
    "model.average_decay": 0.98,
    "model.reference_lr": 0.03,
    "optimizer.inputs": "log_sign+moments+scales+orthogonal",
    "optimizer.output": "magnitude",
    "optimizer.output_scale": 0.1,
    "optimizer.initial_output": 0.1,
    "optimizer.base_step": 0.03,
    "optimizer.anneal_after": 1000,
}
