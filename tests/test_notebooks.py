"""The notebooks run from their first cell to their last, and what they print holds."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).parent.parent / "docs" / "notebooks"


def read(name: str) -> dict[str, Any]:
    return json.loads((FOLDER / f"{name}.ipynb").read_text(encoding="utf-8"))


def run(name: str, folder: Path) -> str:
    """What the code cells print, run in one process as a notebook's kernel does."""
    cells = ["".join(cell["source"]) for cell in read(name)["cells"] if cell["cell_type"] == "code"]
    (folder / "notebook.py").write_text("\n\n".join(cells), encoding="utf-8")
    command = [sys.executable, "-W", "error::DeprecationWarning:__main__", "notebook.py"]
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-2000:]
    assert [path.name for path in folder.iterdir()] == ["notebook.py"]
    return result.stdout


@pytest.mark.parametrize("name", ["train_and_compare", "use_and_plug_in"])
def test_form(name: str) -> None:
    notebook = read(name)
    assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5)
    assert len({cell["id"] for cell in notebook["cells"]}) == len(notebook["cells"])
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            assert cell["execution_count"], "the notebook is kept with its output"
            assert not any(output["output_type"] == "error" for output in cell["outputs"])
    assert len((FOLDER / f"{name}.ipynb").read_bytes()) < 200_000


@pytest.mark.slow
def test_train_and_compare(tmp_path: Path) -> None:
    out = run("train_and_compare", tmp_path)
    ratio = re.search(r"'CoordinatewiseLSTM': ([\d.]+)", out)
    assert ratio is not None
    assert float(ratio[1]) < 1  # of the best tuned baseline
    assert out.count("quadratic, 100 steps, 32 test problems") == 2


@pytest.mark.slow
def test_use_and_plug_in(tmp_path: Path) -> None:
    out = run("use_and_plug_in", tmp_path)
    learned = re.search(r"general_mlp: ([\d.]+)", out)
    adam = re.search(r"Adam: \{(.*)\}", out)
    assert learned is not None
    assert adam is not None
    assert float(learned[1]) < min(float(each.partition(":")[2]) for each in adam[1].split(","))
    table = re.search(r"^…?\S*LSTM +\S+ ± \S+ +([\d.]+) +\S+ ± \S+ +([\d.]+)", out, re.MULTILINE)
    assert table is not None
    assert float(table[1]) < 1.2
    assert float(table[2]) < 1
    assert float(out.splitlines()[-1]) < 0.2  # the last loop
