"""Numbers from results, and the report of them."""

import itertools
import math
from dataclasses import replace

import pytest

from meta_opt.errors import MetaOptError
from meta_opt.studies.axes import places
from meta_opt.studies.figures import draw
from meta_opt.studies.reading import read_study
from meta_opt.studies.report import report, write_report
from meta_opt.studies.study import Figure
from meta_opt.studies.summaries import Summary, check_text, number, quartiles
from meta_opt.studies.tasks import tasks_of

CONTENT = {
    "title": "Rates",
    "question": "Which?",
    "base": {"optimizee": "quadratic", "model.num_steps": 2},
    "axes": {"lr": {"1": {"model.lr": 1}, "2": {"model.lr": 2}}, "on": {"a": {}, "b": {"model.num_problems": 2}}},
    "also": {"ours": {}},
    "runs": 3,
    "tests": {"short": {}, "long": {"num_steps": 4, "only": ["1"]}},
    "shares": {"good": {"below": 2.5}, "bad": {"above": 2.5}},
    "baselines": ["SGD", "Adam"],
    "training_curves": True,
    "meta_gradient_norms": True,
    "figures": [
        {"draw": "lines", "x": "lr", "panels": "on"},
        {"draw": "bars"},
        {"draw": "histograms", "panels": "lr"},
        {"draw": "curves", "panels": "test"},
        {"draw": "training"},
        {"draw": "norms"},
    ],
    "text": "Final {final: 1 a}, sum {sum: 1 a @long}, good {good: 1 a}, bad {bad: 2 a}, {ratio: 1 a} of "
    "{best_baseline: 1 a}; {failed: 2 a} of {runs: 2 a} failed; {final: 2 b}; {seconds: 1 a} s.",
}
STUDY = read_study("rates", CONTENT)
NOTHING = {"axes": {}, "also": {}, "baselines": [], "figures": [], "text": ""}


def test_errors_of_baselines_are_in_the_report():
    task = next(task for task in tasks_of(STUDY) if task.point[0] == "baselines")
    failed = {"key": task.key, "run": 0, "error": "no best learning rate", "seconds": {"total": 1.0}}
    text = report(Summary(STUDY, {task.key: failed}), figure=False)
    assert "1 of them failed" in text
    assert f"- {' '.join(task.point)} (0): no best learning rate" in text


def lines(study=STUDY):
    """Results of all but of the point 2 b: of run r finals r + 1, and of 2 a an error in the last run."""
    made = {}
    for task in tasks_of(study):
        line = {"key": task.key, "point": list(task.point), "run": task.run, "seconds": {"total": 9.0}}
        if task.point[0] == "baselines":
            one = {"value": 0.5, "learning_rate": 0.1}
            line["results"] = {
                "baselines": {"SGD": {"final": {**one, "value": 0.7}, "sum": one}, "Adam": {"final": one, "sum": one}}
            }
        elif task.point == ("2", "b"):
            continue
        elif task.point == ("2", "a") and task.run == 2:
            line["error"] = "it failed"
        else:
            final = task.run + 1.0
            test = {"final": final, "sum": 10 * final, "not_finite": 0, "curve": [[0, 5.0], [2, final]]}
            line["results"] = {
                "tests": dict.fromkeys(task.work["tests"], test),
                "training": {"updates": [4, 8], "final_loss": [3.0, final], "loss_sum": [30.0, 10 * final]},
                "meta_gradient_norms": {"all": final},
            }
            line["seconds"] = {"fit": 2.0 * final, "total": 9.0, "training": [1.0, 2.0]}
        made[task.key] = line
    return made


def test_quartiles():
    assert quartiles([]) is None
    assert quartiles([3.0]) == (3.0, 3.0, 3.0)
    assert quartiles([5.0, 1.0, 4.0, 2.0, 3.0]) == (2.0, 3.0, 4.0)
    assert quartiles([1.0, 2.0]) == (1.0, 1.5, 2.0)
    assert quartiles([1.0, math.inf]) == (1.0, 1.0, math.inf)
    assert quartiles([1.0, math.inf, math.inf]) == (1.0, math.inf, math.inf)


def test_number():
    assert [number(value) for value in (0.0012345, 1234.5, math.inf)] == ["0.00123", "1.23e+03", "not finite"]


def test_the_text_gets_its_numbers():
    assert Summary(STUDY, lines()).text() == (
        "Final 2, sum 20, good 67 %, bad 33 %, 4 of 0.5 (Adam); 1 of 3 failed; —; 4 s."
    )


def test_runs_that_failed_count_as_not_finite():
    point = Summary(STUDY, lines()).point(("2", "a"))
    assert point.reached("short") == [1.0, 2.0, math.inf]
    assert point.quartiles("short") == (1.0, 2.0, math.inf)


def test_baselines_that_are_not_finite_are_nothing_to_divide_by():
    known = lines()
    for line in known.values():
        for entry in line.get("results", {}).get("baselines", {}).values():
            entry["final"] = {**entry["final"], "value": None}
    summary = Summary(STUDY, known)
    assert "of not finite (SGD)" in summary.text()
    assert "— of not finite" in summary.text()
    assert "| not finite (SGD) | — |" in report(summary, figure=False)


def test_a_point_without_a_test_has_no_numbers():
    tests = {"a": {"only": ["1"]}}
    study = read_study("rates", {**CONTENT, "tests": tests, "text": "{final: 2 a} {runs: 2 a}", "baselines": []})
    assert Summary(study, {}).text() == "— 0"


def test_curves_count_runs_that_failed():
    """The median of three of which two failed is nothing that could be drawn."""
    study = read_study("one", {**CONTENT, **NOTHING, "tests": {"short": {}}})
    study = replace(study, figures=(Figure("curves"), Figure("training")))
    test = {"final": 1.0, "sum": 3.0, "not_finite": 0, "curve": [[0, 2.0], [1, 1.0]]}
    good = {
        "tests": {"short": test},
        "training": {"updates": [1, 2], "final_loss": [2.0, 1.0]},
        "meta_gradient_norms": {},
    }
    for failures in (0, 1, 2):
        made = {}
        for task in tasks_of(study):
            found = {"error": "no"} if task.run < failures else {"results": good}
            made[task.key] = {"key": task.key, "run": task.run, "seconds": {"training": [1.0 + task.run, 8]}, **found}
        curves, training, seconds = draw(Summary(study, made)).get_axes()
        for axes in (curves, training):
            (line,) = axes.get_lines()
            assert [*line.get_ydata()] == ([2.0, 1.0] if failures < 2 else pytest.approx([math.nan] * 2, nan_ok=True))
        label = curves.get_legend_handles_labels()[1]
        assert label == ([] if not failures else [f" ({failures} of 3 failed)"])
        assert seconds.get_lines()[0].get_xdata()[0] == {0: 2.0, 1: 2.5, 2: 3.0}[failures]


def test_labels_that_no_axis_can_show_are_one_after_the_other():
    assert places(["1", "2.5"]) == [1.0, 2.5]
    assert places(["0.1", "inf"]) == places(["a", "b"]) == [0.0, 1.0]


def test_panels_that_share_an_axis_share_its_scale():
    """Also if the last of them has nothing to draw."""
    figures = [{"draw": "lines", "x": "lr", "panels": "on"}]
    study = read_study("rates", {**CONTENT, "figures": figures})
    known = {key: line for key, line in lines().items() if line["point"][1:] != ["b"]}
    assert [axes.get_yscale() for axes in draw(Summary(study, known)).get_axes()] == ["log", "log"]


def test_histograms_of_what_is_high():
    study = read_study(
        "one",
        {"title": "One", "base": CONTENT["base"], "runs": 2, "figures": [{"draw": "histograms"}], "text": "{final: }"},
    )
    for finals, label in (((2e7, 3e8), "(far right: not finite)"), ((1.0, 3e8), "more than 1e+06, or not finite)")):
        made = {}
        for task, final in zip(tasks_of(study), finals, strict=True):
            test = {"final": final, "sum": 30.0, "not_finite": 0, "curve": [[0, 2.0]]}
            made[task.key] = {"key": task.key, "run": task.run, "results": {"tests": {"test": test}}, "seconds": {}}
        (axes,) = draw(Summary(study, made)).get_axes()
        assert sum(patch.get_height() for patch in axes.patches) == 2
        assert axes.get_xlabel().endswith(label)


def test_negative_losses_are_where_they_are():
    figures = [{"draw": draw} for draw in ("histograms", "training", "curves")]
    content = {"title": "One", "base": CONTENT["base"], "runs": 2, "training_curves": True, "figures": figures}
    study, made = read_study("one", content), {}
    for task, final in zip(tasks_of(study), (-3.7, -1.0), strict=True):
        test = {"final": final, "sum": -30.0, "not_finite": 0, "curve": [[0, -2.0], [1, -3.0]]}
        training = {"updates": [1, 2], "final_loss": [-1.0, -2.0], "loss_sum": [-1.0, -2.0]}
        results = {"tests": {"test": test}, "training": training}
        made[task.key] = {"key": task.key, "run": task.run, "results": results, "seconds": {"training": [1.0, 2.0]}}
    histogram, left, right, curves = draw(Summary(study, made)).get_axes()
    assert [axes.get_yscale() for axes in (left, right, curves)] == ["linear"] * 3
    assert histogram.get_xscale() == "linear"
    filled = [patch for patch in histogram.patches if patch.get_height()]
    for patch, final in zip(filled, (-3.7, -1.0), strict=True):
        assert patch.get_x() <= final <= patch.get_x() + patch.get_width()


def test_the_report_says_what_is_there():
    summary = Summary(STUDY, lines())
    assert (summary.found, summary.wanted, summary.failed) == (14, 17, 1)
    text = report(summary, figure=True)
    assert "(14 of 17 runs, 1 of them failed)" in text
    assert "| 1 a | long | 3 of 3 | 2 (1 – 3) | 20 | 67 % | 33 % | 0.5 (Adam) | 4 |" in text
    assert "| 2 a | long" not in text
    assert "| 2 b | short | 0 of 3 | — | — | — | — | 0.5 (Adam) | — |" in text
    assert "- 1 a: all 2\n" in text
    assert "- 2 a (2): it failed" in text
    fewer = Summary(STUDY, lines(), 1)
    assert (fewer.found, fewer.wanted) == (6, 7)


@pytest.mark.parametrize(("other", "shared"), [("mnist_mlp", False), (None, True)])
def test_panels_share_an_axis_of_losses_where_they_are_of_one_optimizee(other, shared):
    options = {"optimizee": other} if other else {"model.num_problems": 2}
    axes = {"lr": CONTENT["axes"]["lr"], "on": {"a": {}, "b": options}}
    tests = {"a": {"optimizee": other} if other else {}, "b": {"num_steps": 4}}
    figures = [{"draw": "lines", "x": "lr", "panels": "on"}, {"draw": "curves", "panels": "test"}]
    study = read_study("rates", {**CONTENT, "axes": axes, "tests": tests, "figures": figures, "text": ""})
    for left, right in zip(*[iter(draw(Summary(study, {})).get_axes())] * 2, strict=True):
        assert left.get_shared_y_axes().joined(left, right) is shared


def test_many_panels_are_in_several_rows_and_ticks_are_apart():
    tests = {f"test-{index}": {} for index in range(5)}
    figures = [{"draw": "bars", "panels": "test"}]
    axes = {"named": {"a-label-that-takes-half-of-the-panel": {}}}
    content = {**CONTENT, **NOTHING, "axes": axes, "tests": tests, "runs": 2, "figures": figures}
    study, made = read_study("many", content), {}
    for task in tasks_of(study):
        result = {"final": 0.231 + 0.014 * task.run, "sum": 1.0, "not_finite": 0, "curve": [[0, 1.0]]}
        results = {"tests": dict.fromkeys(tests, result)}
        made[task.key] = {"key": task.key, "run": task.run, "results": results, "seconds": {}}
    figure = draw(Summary(study, made))
    figure.draw_without_rendering()
    assert [axes.get_title() for axes in figure.get_axes()] == [*tests]
    assert figure.get_figwidth() < 12.0
    for axes in figure.get_axes():
        low, high = axes.get_xlim()
        labels = zip(axes.get_xticks(), axes.get_xticklabels(), strict=True)
        shown = [label for tick, label in labels if low <= tick <= high]
        boxes = [label.get_window_extent() for label in shown]
        assert len(boxes) >= 2
        assert all(left.x1 < right.x0 for left, right in itertools.pairwise(boxes))


def test_figures_show_the_numbers(tmp_path):
    summary = Summary(STUDY, lines())
    figure = draw(summary)
    axes = figure.get_axes()
    assert [each.get_title() for each in axes] == ["a", "b", "", "1", "2", "short", "long", "", "", ""]
    left, right, bars, first, _, short, long, updates, seconds, norms = axes
    curves = {line.get_label(): line.get_xydata().tolist() for line in left.get_lines()}
    assert curves["on short"] == [[1.0, 2.0], [2.0, 2.0]]
    assert curves["on long"] == [[1.0, 2.0]]
    assert curves["ours on short"][0][1] == 2.0  # a horizontal line
    assert next(line.get_xydata().tolist() for line in right.get_lines()) == [[1.0, 2.0]]
    assert [label.get_text() for label in bars.get_yticklabels()][:3] == ["1 a on short", "1 a on long", "1 b on short"]
    assert sum(patch.get_height() for patch in first.patches) == 15  # five times three runs
    assert [line.get_xydata().tolist()[-1] for line in short.get_lines()] == [
        [2, 2],
        [2, 2],
        [2, 2],
        [2, 2],
    ]  # of 2 a one run has failed
    assert len(long.get_lines()) == 2
    assert updates.get_lines()[0].get_xydata().tolist() == [[4.0, 3.0], [8.0, 2.0]]
    assert seconds.get_lines()[0].get_xydata().tolist() == [[1.0, 3.0], [2.0, 2.0]]
    assert norms.get_lines()[0].get_xdata().tolist() == [2.0]
    text = write_report(summary, tmp_path)
    assert (tmp_path / "report.md").read_text() == text
    first_time = (tmp_path / "figure.svg").read_bytes()
    write_report(summary, tmp_path)
    assert (tmp_path / "figure.svg").read_bytes() == first_time


def test_training_is_drawn_of_sums_too():
    study = replace(STUDY, figures=(Figure("training", "sum"),))
    updates, seconds = draw(Summary(study, lines())).get_axes()
    assert updates.get_lines()[0].get_xydata().tolist() == [[4.0, 30.0], [8.0, 20.0]]
    assert seconds.get_lines()[0].get_xydata().tolist() == [[1.0, 30.0], [2.0, 20.0]]
    assert updates.get_ylabel() == "sum of losses, validation"


def test_norms_are_as_high_with_one_test_as_with_two():
    heights = []
    for tests in ({"one": {}}, {"one": {}, "two": {"num_steps": 4}}):
        study = read_study("rates", {**CONTENT, "tests": tests, "figures": [{"draw": "norms"}], "text": ""})
        heights.append(draw(Summary(study, lines(study))).get_figheight())
    assert heights[0] == heights[1]


def test_lines_of_nothing_that_can_be_drawn_are_drawn(tmp_path):
    failed = {key: {**line, "error": "no"} for key, line in lines().items()}
    for line in failed.values():
        line.pop("results", None)
    assert "failed" in write_report(Summary(STUDY, failed), tmp_path)
    assert (tmp_path / "figure.svg").exists()


def test_histograms_of_sums_have_bins_for_sums():
    study = read_study(
        "one",
        {
            "title": "One",
            "base": CONTENT["base"],
            "figures": [{"draw": "histograms", "of": "sum"}],
            "text": "{final: }",
        },
    )
    (task,) = tasks_of(study)
    test = {"final": 1.0, "sum": 30.0, "not_finite": 0, "curve": [[0, 2.0]]}
    line = {"key": task.key, "run": 0, "results": {"tests": {"test": test}}, "seconds": {}}
    (axes,) = draw(Summary(study, {task.key: line})).get_axes()
    (filled,) = [patch for patch in axes.patches if patch.get_height()]
    assert filled.get_x() <= 30.0 <= filled.get_x() + filled.get_width()


def test_a_report_of_nothing_has_no_figure(tmp_path):
    text = write_report(Summary(STUDY, {}), tmp_path)
    assert "(0 of 17 runs)" in text
    assert not (tmp_path / "figure.svg").exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{finale: 1 a}", "there is no finale, but final, sum"),
        ("{final: 1}", "there is no point '1'"),
        ("{final 2 a}", "after final there must be a colon"),
        ("{final: 2 a @long}", "there is no test 'long' of it"),
    ],
)
def test_the_text_may_name_only_what_there_is(text, message):
    with pytest.raises(MetaOptError, match=message):
        check_text(read_study("rates", {**CONTENT, "text": text}))
    check_text(STUDY)


def test_a_study_of_one_point():
    figures = [{"draw": draw} for draw in ("bars", "histograms", "curves")]
    study = read_study("one", {"title": "One", "base": CONTENT["base"], "figures": figures, "text": "{final: }"})
    (task,) = tasks_of(study)
    test = {"final": 0.0, "sum": 3.0, "not_finite": 0, "curve": [[0, 2.0], [1, None]]}
    line = {"key": task.key, "run": 0, "results": {"tests": {"test": test}}, "seconds": {}}
    summary = Summary(study, {task.key: line})
    assert summary.text() == "0"
    assert [point.name for point in summary.points] == ["all"]
    bars, histogram, curves = draw(summary).get_axes()
    assert bars.get_xscale() == "linear"  # there is no logarithm of 0
    (filled,) = [patch for patch in histogram.patches if patch.get_height()]
    assert filled.get_x() <= 0.0 <= filled.get_x() + filled.get_width()
    assert curves.get_lines()[0].get_ydata()[0] == 2.0
