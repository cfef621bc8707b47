"""The command ``meta-opt study``, from its file to what it leaves."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from meta_opt.cli import main, studying
from meta_opt.cli.study_help import HELP
from meta_opt.locks import locked
from meta_opt.studies import library
from meta_opt.studies.reading import read_study
from meta_opt.studies.tasks import tasks_of
from meta_opt.studies.workers import Worker

STUDY = """\
title: Rates
base:
  optimizee: quadratic
  optimizee.dimension: 2
  optimizer.hidden_size: 3
  model.num_steps: 6
  model.unroll_length: 3
  model.episodes_per_epoch: 2
  model.num_problems: 2
  model.num_validation_problems: 2
  trainer.max_epochs: 1
axes:
  lr:
    low: {model.lr: 0.001}
    high: {model.lr: 0.01}
    none: {model.lr: -1.0}
runs: 2
tests:
  test: {num_problems: 2}
baselines: [SGD]
training_curves: true
meta_gradient_norms: true
figures: [{draw: training}]
text: "{final: low} and {ratio: high}, {failed: none} of {runs: none} failed"
quick: {runs: 1, axes: {lr: [low]}}
"""


@pytest.fixture
def study(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rates.yaml").write_text(STUDY)
    return tmp_path


def results(folder):
    """The lines without what depends on the clock, sorted."""
    lines = [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]
    for line in lines:
        assert line.pop("seconds")["total"] > 0.0
    return sorted(json.dumps(line, sort_keys=True) for line in lines)


def in_process(folder, *options):
    command = [sys.executable, "-m", "meta_opt.cli", "study", "rates.yaml", "--out", str(folder), *options]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


@pytest.mark.slow
def test_a_killed_study_goes_on_and_ends_with_the_same_results(study, capsys):
    with in_process(study / "killed", "--workers", "1") as process:
        for _ in range(3):  # how many there are, and two runs
            process.stdout.readline()
        assert main(["study", "rates.yaml", "--out", str(study / "killed")]) == 2
        assert "another study is running in" in capsys.readouterr().err
        process.send_signal(signal.SIGKILL)
    file = study / "killed" / "results.jsonl"
    before = file.read_text().splitlines()
    assert 2 <= len(before) < 7
    with file.open("a") as torn:
        torn.write(before[0][: len(before[0]) // 2])
    assert main(["study", "rates.yaml", "--out", str(study / "killed"), "--workers", "2"]) == 0
    said = capsys.readouterr().out
    assert f"rates: 7 runs, {len(before)} of them are there" in said
    assert "7/7" in said
    assert file.read_text().splitlines()[: len(before)] == before
    assert main(["study", "rates.yaml", "--out", str(study / "whole"), "--workers", "1"]) == 0
    assert results(study / "killed") == results(study / "whole")
    assert len(results(study / "whole")) == 7
    report = (study / "whole" / "report.md").read_text()
    assert re.search(r"^[\d.e+-]+ and [\d.e+-]+, 2 of 2 failed$", report, re.MULTILINE)
    assert "- none (0), none (1): model.lr must be at least 0, not -1.0" in report
    assert "| low | 2 of 2 |" in report
    # Nothing is left to do, and the report can be made again.
    (study / "whole" / "report.md").unlink()
    assert main(["study", "rates.yaml", "--out", str(study / "whole"), "--report"]) == 0
    assert (study / "whole" / "report.md").read_text() == report
    assert main(["study", "rates.yaml", "--out", str(study / "whole")]) == 0
    assert "7 runs, 7 of them are there" in capsys.readouterr().out


def test_there_is_no_report_of_a_folder_that_is_not_there(study, capsys):
    assert main(["study", "rates.yaml", "--out", "misspelt", "--report"]) == 2
    assert "there is no misspelt to report on" in capsys.readouterr().err
    assert not Path("misspelt").exists()


def test_a_report_of_lines_that_say_less_or_other_things(study, capsys):
    text = STUDY.replace("[{draw: training}]", "[{draw: training}, {draw: curves}, {draw: norms}]")
    (study / "rates.yaml").write_text(text.replace("title: Rates", r'title: "\e[31mRates"'))
    tasks = tasks_of(read_study("rates", yaml.safe_load((study / "rates.yaml").read_text())), None)
    said = [{"results": {}}, {"error": "\x1b]0;title\x07"}]
    lines = [
        {"key": task.key, "point": list(task.point), "run": task.run, "seconds": {}, **said[i % 2]}
        for i, task in enumerate(tasks)
    ]
    (study / "results.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    assert main(["study", "rates.yaml", "--out", str(study), "--report"]) == 0
    out = capsys.readouterr().out
    assert "31mRates" in out
    assert "0;title" in out
    assert "\x1b" not in out


def test_no_report_of_another_study_replaces_one(study, capsys):
    (study / "studies" / "rates").mkdir(parents=True)
    line = {"key": "0" * 16, "point": ["low"], "run": 0, "results": {}, "seconds": {"total": 1.0}}
    (study / "studies" / "rates" / "results.jsonl").write_text(json.dumps(line) + "\n")
    (study / "studies" / "rates" / "report.md").write_text("good")
    assert main(["study", "rates.yaml", "--report"]) == 2
    assert "no run in studies/rates is of this study as it is now; files that it names" in capsys.readouterr().err
    assert (study / "studies" / "rates" / "report.md").read_text() == "good"


@pytest.mark.slow
def test_quick_and_its_own_folder(study, capsys):
    assert main(["study", "rates.yaml", "--quick", "--workers", "1"]) == 0
    assert "report.md and figure.svg are in studies/rates_quick" in capsys.readouterr().out
    assert len(results(study / "studies" / "rates_quick")) == 2  # low, and SGD


@pytest.mark.slow
def test_options_that_fit_does_not_take_are_refused_before_any_run(study, capsys):
    (study / "rates.yaml").write_text(STUDY.replace("high: {model.lr: 0.01}", "high: {model.lrr: 0.01}"))
    assert main(["study", "rates.yaml"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("meta-opt: error: study rates: axes.lr.high: ")
    assert "model.lrr" in error
    assert error.count("\n") == 1
    assert (study / "studies" / "rates" / "results.jsonl").read_text() == ""
    (study / "rates.yaml").write_text(STUDY.replace("low: {model.lr:", "low: {model.lrr:"))  # the first of its axis
    assert main(["study", "rates.yaml"]) == 2
    assert capsys.readouterr().err.startswith("meta-opt: error: study rates: axes.lr.low: unknown option --model.lrr")


@pytest.mark.slow
def test_a_study_whose_runs_all_fail_says_so_by_its_status(study, capsys):
    text = STUDY.replace("model.lr: 0.001", "model.lr: -2.0")  # a baseline that can be run is no success
    (study / "rates.yaml").write_text(text)
    assert main(["study", "rates.yaml", "--quick", "--workers", "1"]) == 1
    assert "model.lr must be at least 0, not -2.0" in capsys.readouterr().out


def test_a_folder_in_use_is_refused(study, capsys):
    (study / "busy").mkdir()
    with locked(study / "busy"):
        assert main(["study", "rates.yaml", "--out", "busy"]) == 2
    assert capsys.readouterr().err == (
        "meta-opt: error: another study is running in busy; wait for it, or choose another --out\n"
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "say which study: activations, agent_actions,"),
        (["nothing"], "no study is called 'nothing'; there are activations, "),
        (["activation"], "no study is called 'activation'; did you mean 'activations'? There are"),
        (["missing.yaml"], "missing.yaml: File does not exist"),
        (["rates.yaml", "--runs", "0"], "--runs must be from 1 to 1000000, not 0"),
        (["rates.yaml", "--runs", "many"], "argument --runs: invalid int value: 'many'"),
        (["rates.yaml", "--workers", "-1"], "--workers must be from 1 to 1024, not -1"),
        (["rates.yaml", "--workers", "2", "--cluster", "tcp://a:1"], "--workers is for this machine"),
        (["rates.yaml", "--cluster", ""], "--cluster is empty; leave it out, or say what it is"),
        (["rates.yaml", "--out="], "--out is empty; leave it out, or say what it is"),
        (["rates.yaml", "--fast"], "unrecognized arguments: --fast"),
        (["broken.yaml"], "broken.yaml: it is no YAML: line 2, column 1: "),
        (["wrong.yaml"], "wrong.yaml: titel: there is no such entry"),
        (["rates.yaml", "--out", "rates.yaml/sub"], "cannot write rates.yaml/sub: Not a directory"),
    ],
)
def test_errors_are_one_line(study, capsys, options, message):
    (study / "broken.yaml").write_text("title: [")
    (study / "wrong.yaml").write_text("titel: x")
    assert main(["study", *options]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"meta-opt: error: {message}")
    assert error.count("\n") == 1


def test_list(capsys):
    assert main(["study", "--list"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == list(library.paths())


def test_help_and_list_import_no_torch():
    code = "import sys; from meta_opt.cli import main; main(['study', sys.argv[1]]); assert 'torch' not in sys.modules"
    for option, begins in (("--help", HELP), ("--list", "activations ")):
        run = subprocess.run([sys.executable, "-c", code, option], capture_output=True, text=True, check=True)
        assert run.stdout.startswith(begins)


@pytest.mark.parametrize("name", library.paths())
def test_shipped_studies_are_right(name):
    study = studying._study(name)
    assert study.title
    assert study.question.endswith("?")
    assert study.text
    assert study.figures
    tasks = studying.tasks_of(study)
    assert len({task.key for task in tasks}) == len(tasks)
    quick = studying.tasks_of(study.quickly())
    assert 0 < len(quick) <= 40


@pytest.fixture(scope="module")
def checker():
    """One process that checks all studies: it takes seconds to start."""
    worker = Worker(studying.WORKER)
    yield SimpleNamespace(perform=worker.perform, stop=lambda: None)
    worker.stop()


@pytest.mark.slow
@pytest.mark.parametrize("name", library.paths())
def test_fit_takes_the_options_of_shipped_studies(name, checker, monkeypatch):
    monkeypatch.setattr(studying, "Worker", lambda module: checker)
    studying._check(studying._study(name))


def test_processors_where_the_system_does_not_say_which_may_be_used(monkeypatch):
    assert studying._processors() == len(os.sched_getaffinity(0))
    monkeypatch.delattr(os, "sched_getaffinity")  # as on macOS
    assert studying._processors() == os.cpu_count()


def test_time_left():
    assert [studying._time(seconds) for seconds in (0.2, 89.0, 600.0, 7200.0)] == ["1 s", "89 s", "10 min", "2.0 h"]


def test_what_is_done_is_said_after_every_run(study, monkeypatch, capsys):
    def here(tasks, workers, module):
        assert (workers, module) == (3, "meta_opt.cli.study_worker")
        for task in tasks:
            yield task, {"results": {"tests": {"test": {"final": 2.5}}}, "seconds": {"total": 1.0}}

    (study / "rates.yaml").write_text(STUDY.replace("figures: [{draw: training}]\n", ""))
    monkeypatch.setattr(studying, "here", here)
    monkeypatch.setattr(studying, "_check", lambda study: None)
    assert main(["study", "rates.yaml", "--workers", "3", "--runs", "1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "rates: 4 runs, 0 of them are there"
    assert lines[1].startswith("1/4  low run 0: final loss 2.5  (")
    assert lines[4] == "4/4  baselines test run 0: final loss 2.5  (0 s left)"


def test_a_run_of_two_points_is_made_once(study, monkeypatch, capsys):
    def here(tasks, workers, module):
        for task in tasks:
            yield task, {"results": {"tests": {"test": {"final": 2.5}}}, "seconds": {"total": 1.0}}

    text = STUDY.replace("figures: [{draw: training}]\n", "also: {usual: {model.lr: 0.001}}\n")
    (study / "rates.yaml").write_text(text)
    monkeypatch.setattr(studying, "here", here)
    monkeypatch.setattr(studying, "_check", lambda study: None)
    assert main(["study", "rates.yaml", "--runs", "1"]) == 0
    said = capsys.readouterr().out
    assert [line.split("  ")[0] for line in said.splitlines()[1:5]] == ["2/5", "3/5", "4/5", "5/5"]
    assert "(5 of 5 runs)" in said
    assert len(results(study / "studies" / "rates")) == 4
    assert main(["study", "rates.yaml", "--runs", "1"]) == 0
    assert "rates: 5 runs, 5 of them are there" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (
            {"no_room": "No space left on device"},
            "no room for a run in the temporary folder, which TMPDIR names (No space",
        ),
        ({"unfit": "on a, b is missing"}, "error: on a, b is missing; when that is mended, the same command goes on"),
        ({"no_start": "status 1"}, "no process can be started that does runs (status 1): it says why above"),
    ],
)
def test_what_is_no_fault_of_a_run_is_not_kept(made, said, study, monkeypatch, capsys):
    def here(tasks, workers, module):
        yield tasks[0], {"results": {"tests": {"test": {"final": 2.5}}}, "seconds": {"total": 1.0}}
        yield tasks[1], {**made, "seconds": {"total": 1.0}}

    (study / "rates.yaml").write_text(STUDY.replace("figures: [{draw: training}]\n", ""))
    monkeypatch.setattr(studying, "here", here)
    monkeypatch.setattr(studying, "_check", lambda study: None)
    assert main(["study", "rates.yaml"]) == 2
    assert said in capsys.readouterr().err
    assert len(results(study / "studies" / "rates")) == 1


def test_a_cluster_does_the_runs_instead(study, monkeypatch, capsys):
    def on_cluster(tasks, address, module):
        assert address == "tcp://there:1"
        yield tasks[0], {"error": "it failed", "seconds": {"total": 1.0}}

    (study / "rates.yaml").write_text(STUDY.replace("figures: [{draw: training}]\n", ""))
    monkeypatch.setattr(studying, "on_cluster", on_cluster)
    monkeypatch.setattr(studying, "_check", lambda study: None)
    assert main(["study", "rates.yaml", "--cluster", "tcp://there:1"]) == 1
    assert "1/7  low run 0: it failed  (1 s left)" in capsys.readouterr().out


def test_the_file_in_the_docs_is_a_study(tmp_path):
    page = (Path(__file__).parents[2] / "docs" / "studies.md").read_text()
    file = tmp_path / "rates.yaml"
    file.write_text(re.search(r"```yaml\n(.*?)```", page, re.DOTALL)[1])
    study = studying._read("rates", file)
    assert len(studying.tasks_of(study)) == 5 * 5 + 4  # points times runs, and baselines on four tests
    assert next(labels for labels, _ in study.quickly().points()) == ("0.001", "relu")
    sections = set(re.findall(r"^### (\w+)$", page, re.MULTILINE))
    assert sections == set(library.paths())
