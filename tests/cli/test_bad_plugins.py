"""Plugins in files that do what no plugin should: one line that says what, exit status 2, and nothing written."""

from __future__ import annotations

import os
import re
import signal
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import torch

from meta_opt import importing

FEW = ("--model.episodes_per_epoch", "2", "--trainer.max_epochs", "1", "--trainer.enable_progress_bar", "false")
OPTIMIZEE = '''
import torch
from meta_opt.api import Optimizee

class A(Optimizee):
    """A."""
    def init_params(self, generator): return {"t": torch.ones(5)}
    def loss(self, params, problem, batch): return params["t"].square().sum()
'''
OPTIMIZER = '''
import torch
from meta_opt.api import OptimizerNetwork, Step

class A(OptimizerNetwork):
    """A."""
    def build(self, layout, generator): self.rate = torch.nn.Parameter(torch.tensor(0.1))
    def init_state(self, layout, num_problems): return ()
    def step(self, evaluation, state, noise=None): return Step(-self.rate * evaluation.grad, state)
'''
ESTIMATOR = '''
from meta_opt.api import Estimator

class A(Estimator):
    """A."""
    def estimates(self, episode): yield
'''


WHILE_LOADING = {
    "type": "torch.set_default_dtype(torch.float64)",
    "gradients": "torch.set_grad_enabled(False)",
    "device": "torch.set_default_device('meta')",
}


@pytest.mark.parametrize("what", WHILE_LOADING)
def test_what_a_plugin_makes_of_torch_while_it_is_loaded_does_not_stay(
    meta_opt: Any, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delitem(sys.modules, "bad", raising=False)
    Path("bad.py").write_text(OPTIMIZEE.replace("from meta_opt.api", f"{WHILE_LOADING[what]}\nfrom meta_opt.api", 1))
    status, _, err = meta_opt("fit", "--optimizee", "bad.py:A", "--model.num_steps", "3", *FEW)
    assert status == 0, err
    assert torch.get_default_dtype() == torch.float32
    assert torch.is_grad_enabled()
    assert torch.get_default_device() == torch.device("cpu")
    assert torch._C._len_torch_function_stack() == 0


@pytest.fixture
def fails(meta_opt: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Runs ``fit`` with ``bad.py:A`` of a kind; the message of one line that it fails with."""
    monkeypatch.setattr(sys, "path", [*sys.path])

    def run(text: str, option: str = "optimizee", *more: str) -> str:
        monkeypatch.delitem(sys.modules, "bad", raising=False)
        Path("bad.py").write_text(text)
        others = () if option == "optimizee" else ("--optimizee", "quadratic")
        status, _, err = meta_opt("fit", f"--{option}", "bad.py:A", *others, *FEW, *more)
        assert status == 2, err
        assert re.fullmatch(r"meta-opt: error: .*\n", err), err
        assert not Path("checkpoints").exists()
        return str(err).removeprefix("meta-opt: error: ").strip()

    return run


def method(text: str, kind: str = OPTIMIZEE) -> str:
    return f"{kind}    {text}\n"


BROKEN = {
    # at import
    "exits": ("raise SystemExit(0)", "optimizee bad.py:A does not import: SystemExit: 0 (bad.py:1)"),
    "exits at once": ("import os; os._exit(0)", "optimizee bad.py:A does not import: SystemExit: 0 (bad.py:1)"),
    "exits silently": ("import sys; sys.exit()", "does not import: SystemExit (bad.py:1)"),
    "exits with a text": ("exit('bye')", "does not import: SystemExit: bye (bad.py:1)"),
    "interrupts": ("raise KeyboardInterrupt", "does not import: KeyboardInterrupt (bad.py:1)"),
    "any exception": ("class X(BaseException): pass\nraise X('y')", "does not import: X: y (bad.py:2)"),
    "generator exit": ("raise GeneratorExit", "does not import: GeneratorExit (bad.py:1)"),
    "a bug": ("def f():\n    return 1 / 0\nf()", "ZeroDivisionError: division by zero (bad.py:3, bad.py:2 in f)"),
    "recursion": ("def f(): f()\nf()", "does not import: RecursionError"),
    "syntax": ("def f(:", "does not import: SyntaxError: invalid syntax (bad.py, line 1)"),
    "null bytes": ("x = 1\0", "null bytes"),
    "escape codes": ("raise ValueError('\\x1b[31mred\\x07')", "does not import: ValueError: [31mred"),
    "a long text": ("raise ValueError('x' * 9999)", "does not import: ValueError: xxx"),
    "an empty file": ("", "does not import: AttributeError: module 'bad' has no attribute 'A'"),
    "no class": ("A = 3", "is not one: bad:A must be a subclass of Optimizee"),
    "another class": ("class A: pass", "is not one: bad:A must be a subclass of Optimizee"),
    "attribute that exits": ("def __getattr__(name): raise SystemExit", "does not import: SystemExit"),
    # the class
    "abstract": (
        "from meta_opt.api import Optimizee\nclass A(Optimizee): pass",
        "optimizee bad.py:A cannot be used: A is abstract, it lacks init_params, loss",
    ),
    "settings of an object": (
        method("def recommended_settings(self): return {}"),
        "A.recommended_settings must be a classmethod",
    ),
    "settings are a list": (
        method("@classmethod\n    def recommended_settings(cls): return ['model.lr']"),
        "A.recommended_settings must return a dict, values by names of options, found ['model.lr']",
    ),
    "settings are None": (
        method("@classmethod\n    def recommended_settings(cls): pass"),
        "A.recommended_settings must return a dict, values by names of options, found None",
    ),
    "settings of objects": (
        method("@classmethod\n    def recommended_settings(cls): return {'model.lr': torch.ones(2)}"),
        "A.recommended_settings must return plain values, but that of model.lr is tensor([1., 1.])",
    ),
    "settings by numbers": (
        method("@classmethod\n    def recommended_settings(cls): return {3: 4}"),
        "A.recommended_settings must return a dict, values by names of options, found the key 3",
    ),
    "settings fail": (
        method("@classmethod\n    def recommended_settings(cls): return {}['x']"),
        "A.recommended_settings fails with KeyError: 'x' (bad.py:10 in recommended_settings)",
    ),
    "settings that are no options": (
        method("@classmethod\n    def recommended_settings(cls): return {'model.larning_rate': 1}"),
        "recommends a setting model.larning_rate, but there is no such option",
    ),
    "settings of the wrong type": (
        method("@classmethod\n    def recommended_settings(cls): return {'model.lr': 'fast'}"),
        "optimizee bad.A recommends a setting that cannot be: --model.lr must be float, not fast",
    ),
    "settings of another number": (
        method("@classmethod\n    def recommended_settings(cls): return {'trainer.max_epochs': 0.5}"),
        "optimizee bad.A recommends a setting that cannot be: --trainer.max_epochs must be int or null, not 0.5",
    ),
    "settings for an optimizer, of the wrong type": (
        method("@classmethod\n    def recommended_settings(cls): return {'coordinatewise_lstm:model.lr': [1]}"),
        "optimizee bad.A recommends a setting that cannot be: --model.lr must be float, not",
    ),
    "settings that hold themselves": (
        method("@classmethod\n    def recommended_settings(cls): x = {}; x['model.lr'] = x; return x"),
        "A.recommended_settings must return plain values, but that of model.lr is {'model.lr': {...}}",
    ),
    "settings that choose": (
        method("@classmethod\n    def recommended_settings(cls): return {'optimizee': 'quadratic'}"),
        "A.recommended_settings must name options that begin with model. or optimizer. or trainer. or early_stopping.",
    ),
    "constructor without types": (
        method("def __init__(self, size): pass"),
        "A.__init__ must give the type of its argument size, as in size: int",
    ),
    "another constructor": (
        method("def __new__(cls): return object.__new__(cls)"),
        "A.__new__ must return what super().__new__(cls) does",
    ),
    "no object": (method("def __new__(cls): return 3"), "A.__new__ must return what super().__new__(cls) does"),
    "constructor fails": (
        method("def __init__(self): self.x = {}['y']"),
        "A cannot be made: KeyError: 'y' (bad.py:9 in __init__)",
    ),
    "constructor exits": (
        method("def __init__(self): raise SystemExit(0)"),
        "A cannot be made: SystemExit: 0 (bad.py:9 in __init__)",
    ),
    # methods
    "signature": (
        method("def sample_problem(self, generator): return {}"),
        "A.sample_problem must take (split, generator), it takes (generator)",
    ),
    "static loss": (
        method("@staticmethod\n    def loss(params): return 0"),
        "A.loss must take (params, problem, batch), it takes (params)",
    ),
    "a bug in the loss": (
        method("def loss(self, params, problem, batch): return self.f(params)\n    def f(self, x): return x['u']"),
        "A.loss fails with KeyError: 'u' (bad.py:9 in loss, bad.py:10 in f)",
    ),
    "exit in the loss": (
        method("def loss(self, params, problem, batch): raise SystemExit(0)"),
        "A.loss fails with SystemExit: 0 (bad.py:9 in loss)",
    ),
    "batch is a list": (
        method("def sample_batch(self, split, generator): return [torch.ones(2)]"),
        "A.sample_batch must return named tensors, a dict, found list",
    ),
    "branch": (
        method("def loss(self, params, problem, batch): return params['t'].sum() if params['t'][0] > 0 else 0"),
        "or set vmappable = False in the class",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_an_optimizee(fails: Any, case: str) -> None:
    text, message = BROKEN[case]
    said = fails(text)
    assert message in said
    assert len(said) < 600
    assert said.isprintable()


OTHERS = {
    "optimizer exits": ("optimizer", "raise SystemExit(0)", "optimizer bad.py:A does not import: SystemExit"),
    "estimator exits": ("model.estimator", "raise SystemExit(0)", "estimator bad.py:A does not import: SystemExit"),
    "optimizer is abstract": (
        "optimizer",
        "from meta_opt.api import OptimizerNetwork\nclass A(OptimizerNetwork): pass",
        "A is abstract, it lacks build, init_state, step",
    ),
    "estimator is abstract": (
        "model.estimator",
        "from meta_opt.api import Estimator\nclass A(Estimator): pass",
        "A is abstract, it lacks estimates",
    ),
    "step without state": (
        "optimizer",
        method("def step(self, evaluation): pass", OPTIMIZER),
        "A.step must take (evaluation, state, noise), it takes (evaluation)",
    ),
    "estimates without episode": (
        "model.estimator",
        method("def estimates(self): yield", ESTIMATOR),
        "A.estimates must take (episode), it takes ()",
    ),
    "step returns a pair": (
        "optimizer",
        method("def step(self, evaluation, state, noise=None): return evaluation.grad, state", OPTIMIZER),
        "A.step must return Step(update, state), found a tuple of 2",
    ),
    "build fails": (
        "optimizer",
        method("def build(self, layout, generator): layout.nonsense", OPTIMIZER),
        "AttributeError: 'Layout' object has no attribute 'nonsense' (bad.py:10 in build)",
    ),
    "build exits": (
        "optimizer",
        method("def build(self, layout, generator): raise SystemExit(0)", OPTIMIZER),
        "a plugin failed with SystemExit: 0 (bad.py:10 in build)",
    ),
    "advice out of range": (
        "optimizee",
        method("@classmethod\n    def recommended_settings(cls): return {'model.num_steps': -3}"),
        "optimizee bad.A recommends a setting that cannot be: model.num_steps must be at least 1, not -3",
    ),
    "an optimizee as optimizer": ("optimizer", OPTIMIZEE, "bad:A must be a subclass of OptimizerNetwork"),
}


@pytest.mark.parametrize("case", OTHERS)
def test_another_kind(fails: Any, case: str) -> None:
    option, text, message = OTHERS[case]
    assert message in fails(text, option)


@pytest.mark.parametrize("error", ["ZeroDivisionError('late')", "SystemExit(0)"])
def test_a_failure_in_training_is_said_with_the_frames_of_the_plugin(
    meta_opt: Any, monkeypatch: pytest.MonkeyPatch, error: str
) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delitem(sys.modules, "late", raising=False)
    Path("late.py").write_text(
        method(
            f"calls = 0\n    def loss(self, params, problem, batch):\n        A.calls += 1\n"
            f"        if A.calls > 40: raise {error}\n        return params['t'].square().sum()"
        )
    )
    status, _, err = meta_opt("fit", "--optimizee", "late.py:A", *FEW)
    name = error.partition("(")[0]
    assert status == 2
    assert re.fullmatch(rf"meta-opt: error: a plugin failed with {name}: \w+ \(late.py:12 in loss\)\n", err), err


@pytest.mark.parametrize("error", [ZeroDivisionError, FileNotFoundError, RuntimeError])
def test_a_failure_after_a_checkpoint_was_saved_loses_nothing(
    error: type[Exception], meta_opt: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delitem(sys.modules, "later", raising=False)
    Path("later.py").write_text(
        method(
            "calls = 0\n    def sample_batch(self, split, generator):\n        A.calls += split == 'train'\n"
            f"        if A.calls > 55: raise {error.__name__}('late')\n        return {{}}"
        )
    )
    few = ("--model.num_steps", "5", "--model.episodes_per_epoch", "2", "--trainer.enable_progress_bar", "false")
    status, _, err = meta_opt("fit", "--optimizee", "later.py:A", *few)
    assert status == 2
    going_on = r"once it is mended, go on with: meta-opt fit .* --ckpt_path checkpoints/later.A/run_0/last.ckpt"
    assert re.search(
        rf"a plugin failed with {error.__name__}: late \(later.py:\d+ in sample_batch\); {going_on}\n", err
    )
    assert Path("checkpoints/later.A/run_0/last.ckpt").is_file()


def test_an_import_that_goes_on_is_said_and_can_be_interrupted(meta_opt: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importing, "PATIENCE", 0.1)
    Path("endless.py").write_text("import time\nwhile True: time.sleep(0.01)\n")
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored, where tests run in the background
    try:
        timer = threading.Timer(0.6, os.kill, (os.getpid(), signal.SIGINT))
        timer.start()
        status, _, err = meta_opt("fit", "--optimizee", "endless.py:A")
        timer.join()
        after = signal.getsignal(signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)
    assert status == 130
    assert err == "meta-opt: still loading optimizee endless.py:A; Ctrl-C stops it\n"
    assert after is signal.default_int_handler


@pytest.mark.parametrize(
    "arguments",
    [
        ("fit", "--optimizee", "x" * 5000),
        ("y" * 5000,),
        ("fit", "--optimizee", "quadratic", "--model.lr", "z" * 5000),
        ("fit", "--optimizee", "quadratic", f"--{'u' * 5000}", "1"),
        ("fit", "--optimizee", "v" * 5000 + ".py:A"),
        ("fit", "--optimizee", "w" * 5000 + ".A"),
        ("fit", "--optimizee", "quadratic", "q" * 5000),
    ],
)
def test_long_values_are_cut(meta_opt: Any, arguments: tuple[str, ...]) -> None:
    status, _, err = meta_opt(*arguments)
    assert status == 2
    assert len(err) < 500
    assert re.search(r"(.)\1{20}", err), err  # the beginning is said
    assert not re.search(r"(.)\1{90}", err)
