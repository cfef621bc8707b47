"""The examples in the documentation run."""

from __future__ import annotations

import math
import re
import runpy
import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints_for_tests import save_untrained

import meta_opt
from meta_opt import LearnedOptimizer, api, registry
from meta_opt.api import Optimizee
from meta_opt.cli import COMMANDS
from meta_opt.errors import MetaOptError
from meta_opt.inner_loop.episodes import run_episodes
from meta_opt.optimizers.baseline_names import adam
from meta_opt.testing import check_estimator, check_optimizer
from meta_opt_optimizees.digits_mlp import DigitsMlp

DOCS = Path(__file__).parent.parent / "docs"
AS_ADAM = {"inputs": "log_sign+moments", "base_step": 0.03, "initial_output": 0.0}  # works without meta-training

FILES = ("robust", "spirals", "test_robust", "polyak", "signs")  # that docs/plugins.md has the reader write


@pytest.fixture
def guide(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with the files of docs/plugins.md, from which they can be imported."""
    for name, text in zip(FILES, blocks("plugins.md"), strict=True):
        (tmp_path / f"{name}.py").write_text(text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    for name in FILES:
        sys.modules.pop(name, None)


def blocks(page: str, language: str = "python") -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", (DOCS / page).read_text(), re.MULTILINE | re.DOTALL)


class TwoGroups(DigitsMlp):
    """Weights and biases under the names that the page has for its groups."""

    def groups(self) -> dict[str, str]:
        return {f"{layer}.{kind}": group for layer in ("hidden1", "output") for kind, group in
                (("weight", "conv"), ("bias", "linear"))}  # fmt: skip


@pytest.mark.filterwarnings("ignore:.*does not have many workers", "ignore:.*logging interval")
def test_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    save_untrained(tmp_path / "checkpoints" / "digits_mlp" / "run_0" / "best.ckpt", DigitsMlp(), **AS_ADAM)
    save_untrained(tmp_path / "checkpoints" / "two_networks.ckpt", TwoGroups(), share="group", **AS_ADAM)
    torch.manual_seed(0)
    names: dict[str, Any] = {"__name__": "use"}
    loop, checkpoint, learner, compare, lightning, networks, resume = blocks("use.md")

    exec(loop, names)
    assert names["loss"] < 0.5 < math.log(10)

    exec(checkpoint, names)
    exec(learner, names)
    assert names["optimizer"]._network is not names["learner"].trained
    exec(compare, names)
    assert [row["optimizer"] for row in names["result"].rows()][:2] == ["general_mlp", "CoordinatewiseLSTM"]
    assert (tmp_path / "curves.png").is_file()
    exec(lightning, names)
    module, trainer = names["classifier"], names["trainer"]
    assert module.training_step((names["images"], names["labels"]), 0) < 0.5
    assert trainer.optimizers[0].param_groups[0]["num_steps"] == trainer.global_step == 5 * 15

    exec(networks, names)
    assert [group["network"] for group in names["optimizer"].param_groups] == ["conv", "linear"]
    exec(resume, names)
    assert len(names["optimizer"].state) == 4


def test_first_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    save_untrained(tmp_path / "checkpoints" / "digits_mlp" / "run_0" / "best.ckpt", DigitsMlp(), **AS_ADAM)
    (use,) = blocks("first_run.md")
    names: dict[str, Any] = {}
    exec(use, names)
    assert names["loss"] < 0.5 < math.log(10)
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == ["20", "40", "60", "80", "100"]


@pytest.mark.filterwarnings("ignore:.*does not have many workers", "ignore:.*logging interval")
def test_api(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    named, train = blocks("api.md")
    names: dict[str, Any] = {}
    exec(named, names)
    assert names["learner"].hparams.num_problems == 64  # recommended
    assert int(names["learner"].episode) == 10
    exec(train, names)
    assert int(names["learner"].episode) == 10
    assert names["trained"] is names["learner"].trained
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["robust.RobustRegression", "spirals.Spirals"])
def test_optimizees_of_the_guide(guide: Path, meta_opt: Callable[..., Any], name: str) -> None:
    quick = ["--trainer.max_epochs", "1", "--model.episodes_per_epoch", "1", "--trainer.enable_progress_bar", "false"]
    status, _, error = meta_opt("fit", "--optimizee", name, *quick)
    assert status == 0, error
    assert (guide / "checkpoints" / name / "run_0" / "best.ckpt").is_file()


def test_robust_regression_of_the_guide(guide: Path) -> None:
    optimizee = import_module("robust").RobustRegression(num_inputs=3)
    curves = run_episodes(optimizee, adam(0.3), "test", 4, 100, seed=0)
    assert curves.losses[-1].max() < 0.2 < curves.losses[0].min()


def test_the_test_of_the_guide(guide: Path) -> None:
    pytest.importorskip("meta_opt.testing")
    import_module("test_robust").test_robust_regression()


def test_optimizer_and_estimator_of_the_guide(guide: Path, meta_opt: Callable[..., Any]) -> None:
    """They pass the checks, meta-train together from the command line, and the optimizer runs in a training loop."""
    polyak, signs = import_module("polyak").Polyak, import_module("signs").Signs
    check_optimizer(polyak())
    check_estimator(signs())
    plugins = ["--optimizee", "robust.RobustRegression", "--optimizer", "polyak.Polyak"]
    quick = ["--trainer.max_epochs", "1", "--model.episodes_per_epoch", "2", "--trainer.enable_progress_bar", "false"]
    status, _, error = meta_opt("fit", *plugins, "--model.estimator", "signs.Signs", *quick)
    assert status == 0, error
    (path,) = guide.glob("checkpoints/*/run_0/best.ckpt")
    theta = torch.ones(3, requires_grad=True)
    optimizer = LearnedOptimizer([theta], checkpoint=path, optimizer_class=polyak)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = theta.square().sum()
        loss.backward()
        return loss

    losses = [float(optimizer.step(closure).detach()) for _ in range(20)]
    assert losses[-1] < 0.1 * losses[0]


def test_entry_point_of_the_guide(guide: Path) -> None:
    (text,) = blocks("plugins.md", "toml")
    ((module, name),) = re.findall(r'^robust_regression = "(\w+):(\w+)"$', text, re.MULTILINE)
    assert issubclass(getattr(import_module(module), name), Optimizee)
    assert f'only-include = ["{module}.py"]' in text


def test_the_api_page_has_all_that_can_be_imported_and_chosen() -> None:
    text = (DOCS / "api.md").read_text()
    shown = {path.rpartition(".")[2] for path in re.findall(r"^::: (\S+)$", text, re.MULTILINE)}
    known = shown | set(re.findall(r"`(\w+)`", text)) | {error.__name__ for error in MetaOptError.__subclasses__()}
    assert {*api.__all__, *meta_opt.__all__} - known == set()
    plugins = [*registry.plugins("optimizer"), *registry.plugins("estimator")]
    assert {plugin.attribute for plugin in plugins if plugin.distribution == "meta-opt"} - shown == set()


CARDS = sorted((DOCS.parent / "checkpoints" / "pretrained").glob("*.md"))
PAGES = [DOCS.parent / "README.md", *sorted(DOCS.glob("*.md")), *sorted(DOCS.glob("results/*.md")), *CARDS]


@pytest.mark.parametrize("page", [PAGES[0], DOCS / "results" / "index.md"], ids=lambda page: page.name)
def test_figures_of_general_are_those_of_its_tables(page: Path) -> None:
    short, long = (DOCS / "results" / "general.md").read_text().split("\n## Longer\n")
    said = page.read_text().partition("On 19 tasks")[2].partition("\n\n")[0]
    for part in (short, long):
        mean = re.findall(r"^\| geometric mean \| ([\d.]+) \|", part, re.MULTILINE)[0]
        assert f"{float(mean):.2f}" in said
    worst = re.findall(r"^\| worst \| ([\d.]+) \|", short, re.MULTILINE)[0]
    assert re.search(rf"worst (task )?{worst}\b", said)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: f"{page.parent.name}/{page.name}")
def test_commands_and_links_of_the_pages(page: Path) -> None:
    """Every command is one that there is, and every benchmark and link to a file leads to one."""
    text = page.read_text(encoding="utf-8")
    commands = re.findall(r"^ {4}(?:\$ )?meta-opt (\w[\w-]*)", text, re.MULTILINE)
    assert set(commands) <= set(COMMANDS)
    benchmarks = re.findall(r"python (benchmarks/\w+\.py)", text)
    assert [name for name in benchmarks if not (DOCS.parent / name).exists()] == []
    links = re.findall(r"\]\((?!https?:|#)([^)#\s]+)", text)
    assert [link for link in links if not (page.parent / link).exists()] == []


def test_readme_in_python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """README's example, word for word but for fewer episodes and problems."""
    monkeypatch.chdir(tmp_path)
    use, train = re.findall(r"^```python\n(.*?)^```$", PAGES[0].read_text(), re.MULTILINE | re.DOTALL)
    names: dict[str, Any] = {"model": torch.nn.Linear(3, 3)}
    exec(use, names)
    assert isinstance(names["optimizer"], LearnedOptimizer)
    assert 'MetaLearner("quadratic")' in train
    assert "compare([" in train
    quick = train.replace('MetaLearner("quadratic")', 'MetaLearner("quadratic", episodes_per_epoch=1, num_problems=2)')
    quick = quick.replace("**learner.trainer_settings", "fast_dev_run=True, inference_mode=False")
    exec(quick.replace(".table()", ".table() and None").replace("learner])", "learner], num_problems=2)"), names)
    assert names["learner"].episode == 1


@pytest.mark.parametrize(
    ("html", "page"),
    [
        ("<p>θ_0, f_t(θ_t), h_{t+1}; run_0, log_sum</p>", "<p>θ<sub>0</sub>, f<sub>t</sub>(θ<sub>t</sub>), "
         "h<sub>t+1</sub>; run_0, log_sum</p>"),
        ('<a href="#θ_0">θ</a><code>θ_0 <b>f_t</b></code>', '<a href="#θ_0">θ</a><code>θ_0 <b>f_t</b></code>'),
        ("<p>See :class:<code>Step</code>::</p>", "<p>See <code>Step</code>:</p>"),
    ],
)  # fmt: skip
def test_text_of_pages(html: str, page: str) -> None:
    pytest.importorskip("latex2mathml")
    assert runpy.run_path(str(DOCS / "hooks.py"))["on_page_content"](html) == page


def test_formulas_of_pages() -> None:
    pytest.importorskip("latex2mathml")
    make = runpy.run_path(str(DOCS / "hooks.py"))["on_page_content"]
    page = make(r'<div class="arithmatex">\[a_0 &lt; \frac{1}{b}\]</div> <span class="arithmatex">\(g_t\)</span>')
    display, inline = re.findall(r"<math .*?</math>", page)
    assert 'display="block"' in display
    assert "<mfrac><mrow><mn>1</mn></mrow><mrow><mi>b</mi></mrow></mfrac>" in display
    assert "<msub><mi>g</mi><mi>t</mi></msub>" in inline
    assert "arithmatex" not in page
    assert "<sub>" not in page
    with pytest.raises(ValueError, match="does not know everything in"):
        make(r'<div class="arithmatex">\[\unheard{a}\]</div>')
