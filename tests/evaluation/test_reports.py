"""What a comparison says."""

from __future__ import annotations

import pytest
import torch

from meta_opt.evaluation.compare import Comparison, Entry, Mean, Outcome
from meta_opt.evaluation.reports import Report

RUN = Outcome(0.1, torch.ones(3), torch.zeros(3), torch.ones(3), {"sum": Mean(2.0, 0.1), "final": Mean(1.0, 0.1)}, 1e-3)


def report(*names: str) -> Report:
    """Of learned optimizers, whose names have a slash, and baselines."""
    kinds = {True: "learned", False: "baseline"}
    entries = [Entry(name, kinds["/" in name], {"sum": RUN, "final": RUN}) for name in names]  # type: ignore[arg-type]
    return Report("bowl", 3, [Comparison(2, entries)], {}, {}, "")


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (
            ["somewhere/bowl/run_0", "AdamW:cosine:weight_decay=0.1", "AdamW:cosine:weight_decay=0.01"],
            ["…where/bowl/run_0", "AdamW:co…ecay=0.1", "AdamW:co…cay=0.01"],
        ),
        (["a_long_package.SOAP", "a_long_package.Kron:lr=0.5", "Adam"], ["SOAP", "Kron:lr=0.5", "Adam"]),
        (["a_long_package.SOAP", "another_package.SOAP"], ["a_long_p…age.SOAP", "another_…age.SOAP"]),
        (
            ["Adam:cosine:weight_decay=0.1:amsgrad=1", "Adam:linear:weight_decay=0.1:amsgrad=1"],
            ["Adam:cos…msgrad=1", "Adam:lin…msgrad=1"],
        ),
        (
            ["this/is_the_same_at_its_end", "that/is_the_same_at_its_end"],
            [f"…{x}/is_the_same_at_its_end" for x in "st"],
        ),
    ],
)
def test_names_that_differ_differ_in_tables(names: list[str], expected: list[str]) -> None:
    made = report(*names)
    for table in (made.table(), made.time_table()):
        assert [line.split()[0] for line in table.splitlines()[-len(names) :]] == expected
