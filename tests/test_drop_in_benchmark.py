"""The sides of benchmarks/drop_in.py take the same steps."""

from pathlib import Path

import pytest


def test_sides_take_the_same_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parent.parent / "benchmarks"))
    import drop_in

    sides = drop_in.make_sides([2], tmp_path)
    assert drop_in.largest_difference(sides["torch"], sides["plain"]) == 0.0
    for optimizer in sides.values():
        drop_in.seconds(optimizer, 3, "cpu")
    for name in sides.keys() - {"plain"}:
        difference = drop_in.largest_difference(sides[name], sides["plain"])
        assert difference > 1e-4 if name in ("adam", "muon", "general_mlp", "general") else difference < 1e-6
