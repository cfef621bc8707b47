"""Optimizees and learned optimizers in files, ``PATH.py:CLASS``, without packaging."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from meta_opt import LearnedOptimizer, registry
from meta_opt.cli.files import with_dotted_paths
from meta_opt.errors import CheckpointError
from meta_opt.meta_training.loading import load_learner

QUIET = ("--trainer.enable_progress_bar", "false")
DELL = '''
import torch

from meta_opt.api import Optimizee


class Dell(Optimizee):
    """A dell."""

    def __init__(self, size: int = 3):
        self.size = size

    def init_params(self, generator):
        return {"x": torch.randn(self.size, generator=generator)}

    def loss(self, params, problem, batch):
        return params["x"].square().sum()

    @classmethod
    def recommended_settings(cls):
        return {"model.num_steps": 7, "model.unroll_length": 4, "model.episodes_per_epoch": 2, "trainer.max_epochs": 1}
'''
SCALED = '''
import torch

from meta_opt.api import OptimizerNetwork, Step


class Scaled(OptimizerNetwork):
    """Gradient descent with a learned rate."""

    def __init__(self, start: float = 0.1):
        super().__init__()
        self.start = start

    def build(self, layout, generator):
        self.rate = torch.nn.Parameter(torch.tensor(self.start))

    def init_state(self, layout, num_problems):
        return ()

    def step(self, evaluation, state, noise=None):
        return Step(-self.rate * evaluation.grad, state)
'''
HALVED = """
from dataclasses import replace

from meta_opt.api import Estimator, FirstOrder


class Halved(Estimator):
    '''Half of the first-order meta-gradient.'''

    def estimates(self, episode):
        for estimate in FirstOrder().estimates(episode):
            yield replace(estimate, grads=tuple(grad / 2 for grad in estimate.grads))
"""
OPTIMIZEE, OPTIMIZER = "folder/dell_in_a_file.py:Dell", "folder/scaled_in_a_file.py:Scaled"
ESTIMATOR = "folder/halved_in_a_file.py:Halved"


@pytest.fixture
def run(meta_opt: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The command line, where the files are."""
    monkeypatch.setattr(sys, "path", [*sys.path])
    Path("folder").mkdir()
    for reference, text in ((OPTIMIZEE, DELL), (OPTIMIZER, SCALED), (ESTIMATOR, HALVED)):
        Path(reference.partition(":")[0]).write_text(text)
        monkeypatch.delitem(sys.modules, Path(reference).stem, raising=False)
    return meta_opt


def succeeds(run: Any, *arguments: str) -> str:
    status, out, err = run(*arguments)
    assert status == 0, err
    return str(out)


def fails(run: Any, *arguments: str) -> str:
    status, _, err = run(*arguments)
    assert status == 2
    return str(err).removeprefix("meta-opt: error: ").strip()


def test_an_estimator_in_a_file_is_named_again_where_it_is_wanted(run: Any) -> None:
    out = succeeds(run, "fit", "--optimizee", OPTIMIZEE, "--model.estimator", ESTIMATOR, *QUIET)
    path = "checkpoints/dell_in_a_file.Dell/run_0/best.ckpt"
    named = ("--ckpt_path", path, "--optimizee", OPTIMIZEE)
    assert f"test {' '.join(named)} --model.estimator {ESTIMATOR}\n" in out
    assert f"compare {' '.join(named)}\n" in out
    message = fails(run, "test", *named, *QUIET)
    assert "name its class with --model.estimator MODULE.CLASS, or --model.estimator FILE.py:CLASS" in message
    assert "test/final_loss" in succeeds(run, "test", *named, "--model.estimator", ESTIMATOR, *QUIET)
    succeeds(run, "compare", *named, "--num_problems", "2", "--num_validation_problems", "2", "--baselines", "SGD")


def test_from_file_to_comparison(run: Any) -> None:
    both = ("--optimizee", OPTIMIZEE, "--optimizer", OPTIMIZER)
    out = succeeds(run, "fit", *both, "--optimizee.size", "2", "--optimizer.start", "0.2", *QUIET)
    folder = Path("checkpoints/dell_in_a_file.Dell/run_0")
    assert f"test --ckpt_path {folder}/best.ckpt --optimizee {OPTIMIZEE} --optimizer {OPTIMIZER}\n" in out

    config = yaml.safe_load((folder / "config.yaml").read_text())
    assert config["optimizee"] == {"class_path": OPTIMIZEE, "init_args": {"size": 2}}
    assert config["optimizer"] == {"class_path": OPTIMIZER, "init_args": {"start": 0.2}}
    printed = succeeds(run, "fit", "--config", f"{folder}/config.yaml", "--print_config")
    assert yaml.safe_load(printed)["optimizee"] == {"class_path": OPTIMIZEE, "init_args": {"size": 2}}
    Path("printed.yaml").write_text(printed)  # and it can be read again, by a process that knows no such module
    again = [sys.executable, "-m", "meta_opt.cli", "fit", "--config", "printed.yaml", "--print_config"]
    assert yaml.safe_load(subprocess.check_output(again, text=True)) == yaml.safe_load(printed)

    for kind, reference in (("optimizee", OPTIMIZEE), ("optimizer", OPTIMIZER)):
        others = [option for option in both if option not in (f"--{kind}", reference)]
        for command in ("test", "compare"):
            message = fails(run, command, "--ckpt_path", f"{folder}/best.ckpt", *others)
            assert f"is {Path(reference).stem}.{reference.partition(':')[2]}, not an installed one" in message
            assert f"name its class with --{kind} MODULE.CLASS, or --{kind} FILE.py:CLASS" in message
    assert "test/final_loss" in succeeds(run, "test", "--ckpt_path", f"{folder}/best.ckpt", *both, *QUIET)
    few = ("--num_problems", "2", "--num_validation_problems", "2", "--baselines", "SGD")
    succeeds(run, "compare", "--ckpt_path", f"{folder}/best.ckpt", *both, *few, "--out", "out")
    drawn = ("--ckpt_path", f"{folder}/best.ckpt", "--optimizer", OPTIMIZER, "--num_steps", "3")
    assert "portraits/0/" in succeeds(run, "plot", *drawn)
    plane = ("--optimizee", "quadratic", "--optimizee.dimension", "2", "--num_validation_problems", "1")
    assert "landscape.png" in succeeds(run, "landscape", *drawn, *plane, "--baselines", "SGD")
    assert OPTIMIZEE in Path("out/results.json").read_text()

    params = [torch.ones(2, requires_grad=True)]
    with pytest.raises(CheckpointError, match="in Python, give LearnedOptimizer the optimizer_class"):
        LearnedOptimizer(params, checkpoint=folder / "best.ckpt")
    scaled = sys.modules["scaled_in_a_file"].Scaled
    optimizer = LearnedOptimizer(params, checkpoint=folder / "best.ckpt", optimizer_class=scaled)
    params[0].grad = torch.ones(2)
    optimizer.step()
    assert params[0].detach().tolist() < [1.0, 1.0]


def test_in_a_mixture_with_an_installed_one(run: Any) -> None:
    parts = ("--optimizee", "mixture", "--optimizee.parts", f"[{{class_path: {OPTIMIZEE}}}, quadratic]")
    few = ("--model.num_steps", "3", "--model.episodes_per_epoch", "4", "--trainer.max_epochs", "1")
    succeeds(run, "fit", *parts, *few, *QUIET)
    written = yaml.safe_load(Path("checkpoints/mixture/run_0/config.yaml").read_text())
    assert written["optimizee"]["init_args"]["parts"][0]["class_path"] == OPTIMIZEE
    assert "test/final_loss" in succeeds(run, "test", "--ckpt_path", "last", *parts, "--model.num_test_problems", "3")


def test_a_checkpoint_does_not_import_what_nobody_asked_for(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = ("--optimizee", "mixture", "--optimizee.parts", f"[{{class_path: {OPTIMIZEE}}}]")
    succeeds(run, "fit", *parts, "--model.episodes_per_epoch", "1", "--trainer.max_epochs", "1", *QUIET)
    monkeypatch.setattr(registry, "_FILES", {})  # as in another process
    assert "has an argument that names a class or a file: parts" in fails(run, "test", "--ckpt_path", "last")


def test_help(run: Any) -> None:
    assert "(int, default 3)" in succeeds(run, "fit", "--optimizee.help", OPTIMIZEE)


PATHS = [
    "a b/mine.py",
    'it\'s "quoted"/mine.py',
    "größe/maß.py",
    "[x]/mine.py",
    "{y}/mine.py",
    "a=b, c/mine.py",
    "#1 & $HOME/mine.py",
    "~/mine.py",
    "a/../b c/mine.py",
]


@pytest.fixture
def anywhere(meta_opt: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The command line, with a home of its own and a search path that is put back."""
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setenv("HOME", str(Path("home").absolute()))
    for name in ("mine", "maß", "linked"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return meta_opt


def put(path: str) -> None:
    file = Path(path).expanduser()
    Path("a").mkdir()
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(DELL)


def size(out: str) -> int:
    return int(yaml.safe_load(out)["optimizee"]["init_args"]["size"])


@pytest.mark.parametrize("equals", [False, True])
@pytest.mark.parametrize("path", PATHS)
def test_paths_on_the_command_line(anywhere: Any, path: str, equals: bool) -> None:
    put(path)
    said = [f"--optimizee={path}:Dell"] if equals else ["--optimizee", f"{path}:Dell"]
    assert size(succeeds(anywhere, "fit", *said, "--optimizee.size", "2", "--print_config")) == 2


@pytest.mark.parametrize("path", PATHS)
def test_paths_in_yaml(anywhere: Any, path: str) -> None:
    put(path)
    Path("mine.yaml").write_text(
        yaml.safe_dump({"optimizee": {"class_path": f"{path}:Dell", "init_args": {"size": 4}}}), encoding="utf-8"
    )
    assert size(succeeds(anywhere, "fit", "--config", "mine.yaml", "--print_config")) == 4
    parts = yaml.safe_dump([{"class_path": f"{path}:Dell"}, "quadratic"], default_flow_style=True, width=1000)
    out = succeeds(anywhere, "fit", "--optimizee", "mixture", f"--optimizee.parts={parts.strip()}", "--print_config")
    assert len(yaml.safe_load(out)["optimizee"]["init_args"]["parts"]) == 2


def test_absolute_paths_and_links(anywhere: Any) -> None:
    put("a b/mine.py")
    Path("linked.py").symlink_to(Path("a b/mine.py").absolute())
    (Path("c d")).symlink_to(Path("a b"))
    for path in (Path("a b/mine.py").absolute(), "linked.py", "c d/mine.py"):
        assert size(succeeds(anywhere, "fit", "--optimizee", f"{path}:Dell", "--print_config")) == 3


def test_a_run_from_a_path_with_spaces_can_be_repeated(anywhere: Any) -> None:
    put("a b/mine.py")
    out = succeeds(anywhere, "fit", "--optimizee", "a b/mine.py:Dell", *QUIET)
    folder = Path("checkpoints/mine.Dell/run_0")
    assert f"test --ckpt_path {folder}/best.ckpt --optimizee 'a b/mine.py:Dell'\n" in out
    succeeds(anywhere, "fit", "--config", f"{folder}/config.yaml", *QUIET)
    assert Path("checkpoints/mine.Dell/run_1/last.ckpt").exists()


def test_references_in_aliases_are_replaced(anywhere: Any) -> None:
    put("a b/mine.py")
    Path("twice.yaml").write_text("x: &x ['a b/mine.py:Dell']\ny: [*x, *x]\n")
    _, text = with_dotted_paths(["--config", "twice.yaml"])
    assert yaml.safe_load(text) == {"x": ["mine.Dell"], "y": [["mine.Dell"], ["mine.Dell"]]}


WRONG = {
    "folder/dell_in_a_file.py": "say which class of folder/dell_in_a_file.py is meant, as",
    "folder/nowhere.py:Dell": "there is no file folder/nowhere.py",
    "folder/dell_in_a_file.py:Peak": "AttributeError: module 'dell_in_a_file' has no attribute 'Peak'",
    "folder/dell_in_a_file.py:torch": "dell_in_a_file:torch must be a subclass of Optimizee",
    "folder/needs_more.py:Dell": "ModuleNotFoundError: No module named 'a_module_that_is_not_installed'",
    "folder/garbled.py:Dell": "does not import: SyntaxError",
    "folder/json.py:Dell": "folder/json.py cannot be imported: there is another module json; rename the file",
    "folder/a-b.py:Dell": "folder/a-b.py cannot be imported: its name must be a Python identifier",
}


@pytest.mark.parametrize("reference", WRONG)
def test_what_is_wrong_is_said_in_one_line(run: Any, reference: str) -> None:
    for name, text in (
        ("needs_more", "import a_module_that_is_not_installed"),
        ("garbled", "def"),
        ("json", ""),
        ("a-b", ""),
    ):
        Path(f"folder/{name}.py").write_text(text)
    message = fails(run, "fit", f"--optimizee={reference}")
    assert WRONG[reference] in message
    assert "\n" not in message


FOLDER = f'''{DELL}

from dataclasses import dataclass
from pathlib import Path


class Folder(Dell):
    """Has a path."""

    def __init__(self, data_dir: Path = Path("data")):
        super().__init__(2)
        self.place = data_dir / "x"


@dataclass
class Kind:
    number: int = 3


class Odd(Dell):
    """Has what no checkpoint can hold."""

    def __init__(self, kind: Kind = Kind()):
        super().__init__(2)


class Helpful(Dell):
    """Has an option that is there already."""

    def __init__(self, help: int = 2):
        super().__init__(help)
'''


def test_arguments_that_a_checkpoint_holds_or_not(run: Any) -> None:
    Path("folder_in_a_file.py").write_text(FOLDER)
    named = ("--optimizee", "folder_in_a_file.py:Folder")
    succeeds(run, "fit", *named, "--optimizee.data_dir", "there", *QUIET)
    again = ("--ckpt_path", "last", *named)
    assert "finished after 4 episodes" in succeeds(run, "fit", *again, "--trainer.max_epochs", "2", *QUIET)
    assert "test/final_loss" in succeeds(run, "test", *again, *QUIET)
    learner = load_learner(
        Path("checkpoints/folder_in_a_file.Folder/run_0/last.ckpt"),
        {"optimizee": sys.modules["folder_in_a_file"].Folder},
    )
    assert learner.optimizee.place == Path("there/x")  # type: ignore[attr-defined]
    message = fails(run, "fit", "--optimizee", "folder_in_a_file.py:Odd", *QUIET)
    assert message.startswith("--optimizee folder_in_a_file.py:Odd has an argument that is no number, text, list, mapp")
    assert re.search(r"mapping or path, \w+ \(\w+\), so that no checkpoint", message)
    message = fails(run, "fit", "--optimizee", "folder_in_a_file.py:Helpful", *QUIET)
    assert "Helpful.__init__ must not have an argument called help, which is an option already" in message


GENERATED = f'''from __future__ import annotations

{DELL}

from dataclasses import dataclass
from pathlib import Path


@dataclass
class Generated(Dell):
    """Has a constructor that is generated, from annotations that are text."""

    size: int = 2
    place: Path = Path("data")

    def __post_init__(self):
        self.beside = self.place / "x"
'''


def test_a_dataclass_whose_annotations_are_text_has_types(run: Any) -> None:
    Path("generated_in_a_file.py").write_text(GENERATED)
    named = ("--optimizee", "generated_in_a_file.py:Generated")
    assert fails(run, "fit", *named, "--optimizee.size", "2.5") == "--optimizee.size must be int, not 2.5"
    succeeds(run, "fit", *named, "--optimizee.place", "there", *QUIET)
    assert "size (int, default 2)" in succeeds(run, "fit", *named, "--help")
