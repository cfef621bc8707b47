"""How much of what general_mlp gains is learned, and how much is the direction that it is given?

    python benchmarks/directions.py
    python benchmarks/directions.py --activation relu --hidden_sizes 20 20

On MNIST, with the protocol of `meta-opt compare`, each optimizer tuned for each figure:

    general_mlp   as it is shipped
    base step     what an untrained one does: -α·d, with the orthogonalized m̂ + ∇ of matrices, α tuned
    Muon          `torch.optim.Muon` with PyTorch's defaults, and Adam for biases
    Adam, Nesterov
"""

from __future__ import annotations

import argparse

from meta_opt import registry
from meta_opt.evaluation.compare import Contestant, compare
from meta_opt.evaluation.reports import Report
from meta_opt.evaluation.setting import Setting
from meta_opt.optimizees.problems import layout_of, problem_generator
from meta_opt.optimizers.baseline_names import HandMade, baseline
from meta_opt.optimizers.contract import InnerOptimizer
from meta_opt.optimizers.coordinatewise_lstm import CoordinatewiseLSTM
from meta_opt.saved.pretrained import pretrained_path
from meta_opt.saved.recipes import load_optimizer


def main() -> None:
    """Tune, compare and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--activation", default="sigmoid")
    parser.add_argument("--hidden_sizes", type=int, nargs="+", default=[20])
    parser.add_argument("--init_std", type=float, default=0.01)
    parser.add_argument("--num_problems", type=int, default=16)
    parser.add_argument("--num_validation_problems", type=int, default=6)
    arguments = parser.parse_args()
    optimizee = registry.load("optimizee", "mnist_mlp")(
        hidden_sizes=arguments.hidden_sizes, activation=arguments.activation, init_std=arguments.init_std
    )
    layout = layout_of(optimizee)

    def base_step(lr: float) -> InnerOptimizer:
        optimizer = CoordinatewiseLSTM(
            num_layers=0, inputs="log_sign+moments+scales+orthogonal", initial_output=0.0, base_step=lr
        )
        optimizer.build(layout, problem_generator(0, "phi"))
        return optimizer.requires_grad_(False)

    comparisons = compare(
        Setting(optimizee, [100, 200], arguments.num_problems, arguments.num_validation_problems),
        {"general_mlp": Contestant(load_optimizer(pretrained_path("general_mlp")))},
        {
            "base step": HandMade(base_step),
            **{name: baseline(name) for name in ("Muon", "Adam", "Nesterov")},
        },
    )
    print(Report("mnist_mlp", arguments.num_problems, comparisons, {}, {}, "").table())


if __name__ == "__main__":
    main()
