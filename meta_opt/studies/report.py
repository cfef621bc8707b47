"""What a study leaves for readers: ``report.md`` and ``figure.svg``, from the runs that are there."""

from __future__ import annotations

import io
from pathlib import Path

from meta_opt.storage import write
from meta_opt.studies.figures import draw
from meta_opt.studies.summaries import NONE, Summary, norms, number, ratio

REPORT, FIGURE = "report.md", "figure.svg"


def write_report(summary: Summary, folder: Path) -> str:
    """Write both files; gives the text.

    Raises:
        StorageError: If one cannot be written.
    """
    drawn = bool(summary.study.figures) and summary.found > 0
    text = report(summary, figure=drawn)
    write(folder / REPORT, text.encode())
    if drawn:
        import matplotlib

        picture = io.BytesIO()
        with matplotlib.rc_context({"svg.hashsalt": "meta-opt"}):  # the same file from the same numbers
            draw(summary).savefig(picture, format="svg", metadata={"Date": None})
        write(folder / FIGURE, picture.getbuffer())
    return text


def report(summary: Summary, *, figure: bool) -> str:
    """The report in Markdown."""
    study = summary.study
    made = f"{summary.found} of {summary.wanted} runs" + (f", {summary.failed} of them failed" * bool(summary.failed))
    parts = [f"# {study.title}", f"{study.question}\n\n({made})".strip()]
    if figure:
        parts.append(f"![{study.title}]({FIGURE})")
    if study.text and summary.found:
        parts.append(" ".join(summary.text().split()))
    parts.append("\n".join(_table(summary)))
    if of_networks := _norms(summary):
        parts += ["Norm of the meta-gradient of each network, after meta-training:", "\n".join(of_networks)]
    if errors := _errors(summary):
        parts += ["Failed:", "\n".join(errors)]
    return "\n\n".join(parts) + "\n"


def _table(summary: Summary) -> list[str]:
    study = summary.study
    head = ["", *(["test"] if len(study.tests) > 1 else []), "runs", "final loss (quartiles)", "sum of losses"]
    head += [name.replace("_", " ") for name in study.shares]
    head += ["best baseline, final", "ratio"] if study.baselines else []
    rows = [f"| {' | '.join(head)} |", "|" + " --- |" * len(head)]
    for point in summary.points:
        for test in (name for name, test in study.tests.items() if test.of(point.labels)):
            final, total = point.quartiles(test), point.quartiles(test, "sum")
            row = [point.name, *([test] if len(study.tests) > 1 else [])]
            row.append(f"{len(point.lines)} of {point.wanted}" + (f", {point.failed} failed" * bool(point.failed)))
            row.append(f"{number(final[1])} ({number(final[0])} – {number(final[2])})" if final else NONE)
            row.append(number(total[1]) if total else NONE)
            reached = point.reached(test)
            row += [
                f"{100 * sum(map(share.counts, reached)) / len(reached):.0f} %" if reached else NONE
                for share in study.shares.values()
            ]
            if study.baselines:
                best = summary.best_baseline(point, test)
                row.append(f"{number(best[1])} ({best[0]})" if best else NONE)
                row.append(ratio(final, best))
            rows.append(f"| {' | '.join(row)} |")
    return rows


def _norms(summary: Summary) -> list[str]:
    return [
        f"- {point.name}: " + ", ".join(f"{name} {number(value)}" for name, value in found.items())
        for point, found in norms(summary.points)
        if found
    ]


def _errors(summary: Summary) -> list[str]:
    """Every error once, with the points where it occurred."""
    points: dict[str, list[str]] = {}
    for name, run, error in summary.errors:
        points.setdefault(error, []).append(f"{name} ({run})")
    return [f"- {', '.join(names)}: {error}" for error, names in points.items()]
