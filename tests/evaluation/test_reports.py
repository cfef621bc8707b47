"""What a comparison says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from problems_for_tests import Square
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from meta_opt import __version__
from meta_opt.cli.comparing import _legend
from meta_opt.evaluation.compare import Comparison, Entry, Mean, Outcome
from meta_opt.evaluation.reports import Report, about
from meta_opt.evaluation.setting import Setting

RUN = Outcome(0.1, torch.ones(3), torch.zeros(3), torch.ones(3), {"sum": Mean(2.0, 0.1), "final": Mean(1.0, 0.1)}, 1e-3)


def report(*names: str, about: dict[str, Any] | None = None) -> Report:
    """Of learned optimizers, whose names have a slash, and baselines."""
    kinds = {True: "learned", False: "baseline"}
    entries = [Entry(name, kinds["/" in name], {"sum": RUN, "final": RUN}) for name in names]  # type: ignore[arg-type]
    return Report("bowl", 3, [Comparison(2, entries)], about or {}, {}, "")


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


@pytest.mark.parametrize(
    ("held_back", "regret", "loss", "said"),
    [
        (False, False, "loss", ""),
        (True, False, "held-back loss", "; each loss is the held-back loss"),
        (False, True, "lowest loss so far", "; each loss is the lowest loss so far"),
        (True, True, "lowest held-back loss so far", "; each loss is the lowest held-back loss so far"),
    ],
)
def test_what_losses_are(held_back: bool, regret: bool, loss: str, said: str, tmp_path: Path) -> None:
    made = report("Adam", about=about(Setting(Square(), [2], held_back=held_back, regret=regret)))
    assert made.table().splitlines()[0] == f"bowl, 2 steps, 3 test problems{said}"
    assert made.figure().axes[0].get_ylabel() == f"mean {loss} on test problems"
    assert [made.results()[key] for key in ("held_back", "regret")] == [held_back, regret]
    made._write_tensorboard(tmp_path)
    scalars = EventAccumulator(str(tmp_path / "Adam"))
    scalars.Reload()
    assert scalars.Tags()["scalars"] == [f"log10 of the {loss}/2_steps"]
    assert (
        "losses: on batches that the optimizee holds back" in _legend(made.comparisons, held_back=held_back)
    ) is held_back


def test_how_comparisons_were_made() -> None:
    found = about(Setting(Square(), [2], 3, 4, 5, "cpu", torch.float32, torch.bfloat16))
    assert found.pop("meta_opt") == __version__
    assert found == {
        "optimizee_options": {},
        "num_validation_problems": 4,
        "held_back": False,
        "regret": False,
        "seed": 5,
        "device": "cpu",
        "precision": "bf16-mixed",
    }
