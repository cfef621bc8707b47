"""Meta-training as a LightningModule: one batch is one episode, with manual optimization.

    for each meta-gradient ∂L/∂φ that the estimator gives:   average over processes, clip, step of the meta-optimizer

Problems come from (seed, split, index), never from a random state that goes on. Nothing but φ, its average, the
meta-optimizer and a few counters outlives an episode, all of them in the checkpoint: resuming is exact.
"""

from __future__ import annotations

import copy
import inspect
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.plugins.precision import MixedPrecision
from torch import Generator, Tensor
from torch.optim.swa_utils import AveragedModel

from meta_opt import registry
from meta_opt.configurable import Configurable
from meta_opt.errors import DivergedError, MetaOptError, shown
from meta_opt.inner_loop.autocast import no_autocast
from meta_opt.inner_loop.episodes import Curves, final_loss
from meta_opt.meta_training.clipping import GradientClipper
from meta_opt.meta_training.endings import part_done
from meta_opt.meta_training.estimators.contract import (
    Episode,
    Estimator,
    MetaGradient,
    check_weights,
    checked_estimates,
)
from meta_opt.meta_training.estimators.first_order import FirstOrder
from meta_opt.meta_training.evaluated import EvaluatedLearner
from meta_opt.meta_training.meta_loss import MetaLoss, MetaLossName
from meta_opt.meta_training.parts import checked_parts, claim
from meta_opt.meta_training.pretraining import pretrain
from meta_opt.meta_training.ranges import check_memory, check_ranges
from meta_opt.meta_training.recommended import parts_by_name, recommended, trainer_defaults
from meta_opt.meta_training.restored import check_counters, check_restored, options_of
from meta_opt.meta_training.trainers import check_averaging, check_device, check_meta_optimizer, check_trainer
from meta_opt.optimizees.checking import check_loss
from meta_opt.optimizees.contract import Optimizee
from meta_opt.optimizees.held_back import check_held_back
from meta_opt.optimizees.layout import Layout
from meta_opt.optimizees.problems import Problems, layout_of, problem_generator
from meta_opt.optimizees.streams import drawn_in_float32
from meta_opt.optimizers.checking import check_class, check_step
from meta_opt.optimizers.contract import OptimizerNetwork
from meta_opt.optimizers.schedules import SHAPES
from meta_opt.saved.costs import Cost, read_cost
from meta_opt.saved.precisions import name_of_precision
from meta_opt.saved.recipes import RUN_SETTINGS
from meta_opt.saved.recipes import warm_start as start_warm
from meta_opt.saved.upgrades import COUNTERS, FORMAT
from meta_opt.saved.weights import check_kept, copied
from meta_opt.signatures import choice_problem

Monitor = Literal["objective", "final_loss", "loss_sum"]


class MetaLearner(EvaluatedLearner):
    """Meta-trains a learned optimizer on an optimizee."""

    @parts_by_name
    def __init__(
        self,
        optimizee: Optimizee | str,
        optimizer: OptimizerNetwork | str | None = None,
        num_steps: int = 100,
        max_num_steps: int | None = None,
        num_validation_steps: int | None = None,
        unroll_length: int = 20,
        estimator: Estimator | None = None,
        num_problems: int = 1,
        meta_loss: MetaLossName = "sum",
        step_weights: str = "constant",
        held_back: bool = False,
        lr: float = 0.001,
        lr_schedule: Literal["constant", "cosine"] = "constant",
        clip_norm: float | None = None,
        clip_relative: float | None = None,
        normalize_gradient: bool = False,
        average_decay: float = 0.0,
        episodes_per_epoch: int = 50,
        num_validation_problems: int = 8,
        num_test_problems: int = 100,
        reference_lr: float = 0.001,
        max_skipped: int = 10,
        monitor: Monitor = "objective",
        warm_start: str | None = None,
        pretraining: int = 0,
        pretraining_rate: float = 0.1,
        seed: int = 0,
    ) -> None:
        """Set up meta-training.

        Args:
            optimizee: The problems to learn from. In Python also a name, with which the settings that it recommends
                are the defaults; those of the trainer are in trainer_settings.
            optimizer: The learned optimizer; its weights φ are made here. In Python also a name, or None for the
                default one, made with the arguments that are recommended.
            num_steps: Optimizee steps per episode.
            max_num_steps: Let training episodes be longer than that: of a length drawn log-uniformly from num_steps to
                this. Null: none is.
            num_validation_steps: Optimizee steps of an episode in validation and test; where training episodes are
                much longer than num_steps, so many that validation chooses for those. Null: num_steps.
            unroll_length: T, optimizee steps whose losses a meta-update looks at; the last unroll of an episode may be
                shorter.
            estimator: What makes meta-gradients of an episode; null for first_order.
            num_problems: B, problems per episode and process.
            meta_loss: Σ w_t f_t (sum), or for losses that are not negative Σ w_t ln f_t (log_sum), or the logarithm of
                the mean of f_t over an unroll, times its length (log_mean), or for black-box optimizers the lowest
                loss so far of the unroll instead of f_t, Σ w_t min_{s≤t} f_s (best).
            step_weights: w_t for t = 1..T: constant, linear:BETA (1 + β(t-1)), exponential:GAMMA (γ^(T-t)) or last.
            held_back: Take the meta-loss, and all losses and metrics that are logged, of batches that the optimizee
                holds back (its sample_held_back): learn what generalizes, not what is fitted.
            lr: Learning rate of the meta-optimizer, Adam.
            lr_schedule: Keep lr, or let it fall to zero along a half cosine over all episodes of trainer.max_epochs or,
                where that is -1, over trainer.max_steps.
            clip_norm: Scale the meta-gradient down to this Euclidean norm when it is longer. Without effect where
                normalize_gradient is true.
            clip_relative: Scale it down to this multiple of the median norm of the last 100 meta-gradients. Without
                effect where normalize_gradient is true.
            normalize_gradient: Divide the meta-gradient by its Euclidean norm.
            average_decay: Decay of the moving average of φ that is validated, tested and used; 0 for φ itself.
            episodes_per_epoch: Episodes between two validations.
            num_validation_problems: How many problems, always the same, the learned optimizer is validated on.
            num_test_problems: How many problems it is tested on.
            reference_lr: Where the search for the learning rate of Adam begins, which validation is measured by.
            max_skipped: How many non-finite episodes in a row are skipped before training gives up.
            monitor: What of the validation problems chooses the best checkpoint and stops a stale training, the lowest
                being the best: the meta-loss over whole episodes (objective: the sum of losses, or with a logarithm in
                the meta-loss the logarithm of their mean), final_loss, or loss_sum.
            warm_start: A checkpoint (a path that ends in .ckpt), or the name of a pretrained optimizer, whose weights φ
                meta-training begins with. Only they are taken over: base_step and the like are this optimizer's.
            pretraining: Before meta-training, let φ learn in so many batches to step against the gradient
                (sign-weighted pretraining, see :mod:`meta_opt.meta_training.pretraining`).
            pretraining_rate: α of the update -α ∇ that it learns.
            seed: All randomness comes from it.

        Raises:
            MetaOptError: If a value is out of range.
            OptimizeeError: If the optimizee's loss is not a finite, differentiable scalar at θ_0.
        """
        super().__init__()
        estimator = FirstOrder() if estimator is None else estimator
        optimizee, optimizer, estimator = checked_parts(optimizee, optimizer, estimator)
        self.automatic_optimization = False
        arguments = {name: value for name, value in locals().items() if name in _hyperparameter_names()}
        if problem := choice_problem(MetaLearner.__init__, arguments):
            raise MetaOptError(f"model.{problem}")
        check_ranges(arguments)
        if max_num_steps is not None and max_num_steps < num_steps:
            raise MetaOptError(
                f"model.max_num_steps must be at least model.num_steps, {num_steps}, not {max_num_steps}"
            )
        estimator.check(optimizer, unroll_length)
        self.save_hyperparameters(arguments)
        self.optimizee = optimizee
        self.optimizer = optimizer
        self.estimator = estimator
        self.num_steps = num_steps
        self.max_num_steps = max_num_steps or num_steps
        self.num_validation_steps = num_validation_steps or num_steps
        self.unroll_length = unroll_length
        self.num_problems = num_problems
        self.lr = lr
        self.lr_schedule = lr_schedule
        self.episodes_per_epoch = episodes_per_epoch
        self.num_validation_problems = num_validation_problems
        self.num_test_problems = num_test_problems
        self.reference_lr = reference_lr
        self.max_skipped = max_skipped
        self.monitor = f"val/{monitor}"
        self.seed = seed
        self.held_back = held_back
        self._warm_start = warm_start
        self._pretraining = pretraining
        self._pretraining_rate = pretraining_rate
        self._meta_loss = MetaLoss(meta_loss, step_weights)
        self._clip = GradientClipper(clip_norm, clip_relative, normalize_gradient)

        check_loss(optimizee, problem_generator(seed, "check"))
        if held_back:
            check_held_back(optimizee, problem_generator(seed, "check"))
        self._layout = layout_of(optimizee)
        check_class(optimizer)
        unbuilt = copied(optimizer)
        with drawn_in_float32():
            optimizer.build(self._layout, problem_generator(seed, "phi"))
        check_step(optimizer, self._layout, problem_generator(seed, "check"))
        check_kept(optimizer, unbuilt, self._layout, problem_generator(seed, "check"))
        check_memory(arguments, optimizee, optimizer)
        self.average = AveragedModel(optimizer, multi_avg_fn=partial(_follow, 1.0 - average_decay)).requires_grad_(
            False
        )
        claim(optimizer, estimator, self.trained)
        # Numbers, not buffers, which callbacks that average weights would average too.
        self.episode = 0  # index of the next training episode
        self.skipped = 0  # how many episodes were not finite and changed nothing
        self.skipped_in_a_row = 0
        self.cost = Cost()
        self.validation_curves: Curves | None = None

    def get_extra_state(self) -> dict[str, int]:
        """The counters, for the ``state_dict``."""
        return {name: getattr(self, name) for name in COUNTERS}

    def set_extra_state(self, state: dict[str, int]) -> None:
        """Take over the counters."""
        for name in COUNTERS:
            setattr(self, name, int(state[name]))

    @classmethod
    def load_from_checkpoint(  # type: ignore[override]
        cls,
        checkpoint_path: str | Path,
        *,
        optimizee: type[Optimizee] | None = None,
        optimizer: type[OptimizerNetwork] | None = None,
        estimator: type[Estimator] | None = None,
    ) -> MetaLearner:
        """The module of a checkpoint, see :func:`~meta_opt.meta_training.loading.load_learner`.

        Args:
            checkpoint_path: The checkpoint.
            optimizee: The class of the optimizee, where that is no installed plugin; with the checkpoint's arguments.
            optimizer: That of the learned optimizer.
            estimator: That of the estimator.

        Raises:
            MetaOptError: If one of these is no class: arguments are the checkpoint's.
        """
        from meta_opt.meta_training.loading import load_learner  # which makes objects of this class

        asked: dict[registry.Kind, Any] = {"optimizee": optimizee, "optimizer": optimizer, "estimator": estimator}
        for kind, given in asked.items():
            if given is not None and not isinstance(given, type):
                raise MetaOptError(f"{kind} must be a class, not {shown(given)}: its arguments are the checkpoint's")
        return load_learner(Path(checkpoint_path), asked, cls)

    # ------------------------------------------------------------------------------------------------ meta-training

    def setup(self, stage: str) -> None:
        """Refuse what a trainer cannot do for meta-training, and devices that cannot compute what it needs.

        Raises:
            MetaOptError: If it is asked to.
        """
        check_device(self.trainer)
        if stage == "fit":
            check_trainer(self.trainer, self, cosine=self.lr_schedule == "cosine")

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """The meta-optimizer, of φ and of what the estimator trains for itself.

        A class derived from this one may return another; ``lr_schedule`` is a factor of its rates. In a run that goes
        on its options are those of today, unless there are schedulers; its state is the checkpoint's.
        """
        return torch.optim.Adam([*self.optimizer.trained_parameters(), *self.estimator.parameters()], lr=self.lr)

    @property
    def _meta_optimizer(self) -> LightningOptimizer:
        optimizer = self.optimizers()
        assert isinstance(optimizer, LightningOptimizer)
        return optimizer

    def train_dataloader(self) -> range:
        """As many batches as an epoch has episodes; what is in them does not matter.

        Not a DataLoader: Lightning would deal a loader's batches out among processes, and every process takes part in
        every episode.
        """
        return range(self.episodes_per_epoch)

    def on_fit_start(self) -> None:
        """Bring the optimizee's data to the device, and the weights of another optimizer where asked for.

        Raises:
            MetaOptError: If φ would be in less than float32, or the meta-optimizer evaluates the meta-loss itself.
        """
        if self._float not in (torch.float32, torch.float64):
            raise MetaOptError(f"learned optimizers need float32 or float64, not {self._float}: see trainer.precision")
        plugin = self.trainer.precision_plugin
        if isinstance(plugin, MixedPrecision):
            plugin.scaler = None  # meta-gradients come from no scaled loss
        self.optimizee.to(self.device)
        self._rates = [float(group["lr"]) for group in self._meta_optimizer.param_groups]  # before a checkpoint's
        check_meta_optimizer(self._meta_optimizer.optimizer)
        self._options = options_of(self._meta_optimizer.optimizer)
        new = self.trainer.ckpt_path is None and self.episode == 0
        if self._warm_start is not None and new:
            start_warm(self._warm_start, [self.optimizer, self.trained])
        if self._pretraining and new:
            self._pretrain()

    def _pretrain(self) -> None:
        pretrain(
            self.optimizer,
            self._layout,
            batches=self._pretraining,
            rate=self._pretraining_rate,
            lr=self.lr,
            unroll_length=self.unroll_length,
            generator=problem_generator(self.seed, "pretraining"),
        )
        self.trained.load_state_dict(self.optimizer.state_dict())

    def on_train_start(self) -> None:
        """Take the learning rates and the other options of today, also where a checkpoint has others.

        Where schedulers of a derived class change them, a run goes on with the checkpoint's, as they do.

        Raises:
            CheckpointError: If what a checkpoint has brought the meta-optimizer cannot be its state.
        """
        if not self.trainer.lr_scheduler_configs:
            self._set_learning_rates(1.0)
            for group, options in zip(self._meta_optimizer.param_groups, self._options, strict=True):
                group.update(options)
        if self.trainer.ckpt_path is not None:
            check_restored(self._meta_optimizer.optimizer)

    def training_step(self, batch: int, batch_idx: int) -> None:
        """One episode. If anything in it is not finite, it changes nothing but the counters."""
        started = time.perf_counter()
        if self.lr_schedule == "cosine":
            self._set_learning_rates(SHAPES["cosine"](part_done(self.trainer, batch_idx)))
        before = self._snapshot()
        problems, num_steps = self._problems(), self._draw_num_steps()
        episode = Episode(
            problems,
            self.optimizer,
            self._meta_loss,
            num_steps,
            self.unroll_length,
            self._generator_of_episode(),
            self.global_rank,
            self.trainer.world_size,
        )
        losses, meta_loss = [], torch.zeros((), device=self.device)
        with no_autocast(self.device):
            for estimate in checked_estimates(self.estimator, episode):
                if not self._meta_step(estimate):
                    if problem := self._meta_loss.problem(estimate.losses):
                        raise MetaOptError(problem)
                    self._restore(before)
                    self._skip()
                    return
                losses.append(estimate.losses.detach())
                meta_loss = meta_loss + estimate.loss.detach()
        self.episode += 1
        self.skipped_in_a_row = 0
        final = final_loss(torch.cat(losses), stochastic=problems.stochastic).mean()
        seconds = time.perf_counter() - started
        runs = self.num_problems * self.estimator.num_runs(self.optimizer, self.trainer.world_size)
        self.cost = self.cost.more(num_steps * runs, seconds)
        self._log("train/meta_loss", meta_loss, prog_bar=True, sync_dist=True)
        self._log("train/final_loss", final, prog_bar=True, sync_dist=True)
        self._log("train/steps_per_s", num_steps / seconds, prog_bar=True)
        self._log("train/grad_norm", self._clip.norms[0])
        self._log("train/meta_updates", float(self.trainer.global_step))
        self._log("train/seconds", self.cost.seconds)
        self._log("train/skipped", float(self.skipped))

    def _draw_num_steps(self) -> int:
        """The length of this episode, the same on all processes."""
        generator = problem_generator(self.seed, "num_steps", self.episode)
        part = float(torch.rand((), generator=generator, dtype=torch.float64))
        return round(self.num_steps * (self.max_num_steps / self.num_steps) ** part)

    def _generator_of_episode(self) -> Callable[..., Generator]:
        """Sources of randomness of this episode and process."""
        return partial(problem_generator, self.seed, "episode", self.episode, self._share[0])

    @property
    def _share(self) -> tuple[int, int]:
        """Which of how many shares of an episode's problems this process works on."""
        return (0, 1) if self.estimator.shares_problems else (self.global_rank, self.trainer.world_size)

    def _problems(self) -> Problems:
        """The problems of this episode: those of process r of R, of R·B in all; or the same B on all."""
        rank, shares = self._share
        first = (self.episode * shares + rank) * self.num_problems
        return Problems(
            self.optimizee,
            "train",
            range(first, first + self.num_problems),
            seed=self.seed,
            device=self.device,
            dtype=self._float,
            autocast=self._autocast,
            held_back=self.held_back,
        )

    def _meta_step(self, estimate: MetaGradient) -> bool:
        """Average over processes, clip, step; False, with nothing done, if anything is not finite."""
        parameters = [*self.optimizer.trained_parameters(), *self.estimator.parameters()]
        of_phi = sum(grad.numel() for grad in estimate.grads)
        given = (*estimate.grads, *estimate.own_grads, estimate.loss)
        flat = torch.cat([each.detach().flatten() for each in given])  # what has a graph would keep it alive
        flat = self.trainer.strategy.reduce(flat, reduce_op="mean")
        if not bool(flat.isfinite().all()):
            return False
        flat = torch.cat([self._clip(flat[:of_phi]), flat[of_phi:-1]])
        grads = flat.split([parameter.numel() for parameter in parameters])
        for parameter, grad in zip(parameters, grads, strict=True):
            parameter.grad = grad.view_as(parameter).to(parameter.dtype)
        self._meta_optimizer.step()
        self.average.update_parameters(self.optimizer)
        return True

    def _set_learning_rates(self, factor: float) -> None:
        for group, rate in zip(self._meta_optimizer.param_groups, self._rates, strict=True):
            group["lr"] = rate * factor

    def _snapshot(self) -> tuple[dict[str, Any], dict[str, Any]]:
        return copy.deepcopy(self.state_dict()), copy.deepcopy(self._meta_optimizer.optimizer.state_dict())

    def _restore(self, snapshot: tuple[dict[str, Any], dict[str, Any]]) -> None:
        self.load_state_dict(snapshot[0])
        self._meta_optimizer.optimizer.load_state_dict(snapshot[1])

    def _skip(self) -> None:
        self.episode += 1
        self.skipped += 1
        self.skipped_in_a_row += 1
        self._log("train/skipped", float(self.skipped))
        if self.skipped_in_a_row > self.max_skipped:
            clip = "" if self._clip.normalize else ", or set model.clip_relative"
            raise DivergedError(
                f"{self.skipped_in_a_row} episodes in a row were not finite (the last is number "
                f"{self.episode - 1}); lower model.lr or optimizer.output_scale{clip}"
            )

    # ---------------------------------------------------------------------------------------------------- what is kept

    @property
    def layout(self) -> Layout:
        """The parameters of the optimizee, which φ was made for."""
        return self._layout

    @property
    def trainer_settings(self) -> dict[str, Any]:
        """Arguments for :class:`lightning.Trainer`: what meta-training needs, and what the optimizee recommends."""
        classes: dict[registry.Kind, type[Any]] = {
            kind: type(getattr(self, kind)) for kind in ("optimizee", "optimizer", "estimator")
        }
        settings = recommended(classes)
        own = {name[8:]: value for name, value in settings.items() if name.startswith("trainer.")}
        return {**trainer_defaults(), **own}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Note in plain values how to make this module again, and the precision, if the command line has not."""
        checkpoint["meta_opt"] = {"format": FORMAT, **self.recipe(), "cost": self.cost._asdict()}
        if (precision := name_of_precision(self.dtypes)) is not None:
            checkpoint.setdefault(RUN_SETTINGS, {"trainer.precision": precision})

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Go on counting costs; take the precision asked for before weights are loaded: Lightning rounds them first.

        Raises:
            MetaOptError: If a run goes on without the callback that averaged its weights: φ itself is that one's.
            CheckpointError: If a run goes on and what its loops have counted is no number of anything.
        """
        if self._trainer is not None and self._trainer.state.fn == "fit":
            check_counters(checkpoint.get("loops"))
            if "averaging_state" in checkpoint:
                check_averaging(self._trainer)
        check_weights(self.estimator, checkpoint.get("state_dict", {}))
        self.cost = read_cost(checkpoint.get("meta_opt", {})) or Cost()
        if self._trainer is not None:
            self._trainer.precision_plugin.convert_module(self)

    def recipe(self) -> dict[str, Any]:
        """Names and arguments of optimizee and optimizer, hyperparameters and layout, as plain values."""
        return {
            "optimizee": _named(self.optimizee),
            "optimizer": _named(self.optimizer),
            "estimator": _named(self.estimator),
            "model": dict(self.hparams),
            "layout": self._layout.to_plain(),
        }


def _hyperparameter_names() -> list[str]:
    names = list(inspect.signature(MetaLearner.__init__).parameters)
    return [name for name in names if name not in ("self", "optimizee", "optimizer", "estimator")]


def _named(made: Configurable) -> dict[str, Any]:
    arguments = made.plain_init_args(registry.name_of)
    return {"class_path": None if arguments is None else registry.name_of(type(made)), "init_args": arguments or {}}


@torch.no_grad()
def _follow(part: float, averages: Sequence[Tensor], weights: Sequence[Tensor], _: Tensor | int) -> None:
    torch._foreach_lerp_([*averages], [*weights], part)
