"""``meta-opt plot``."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from checkpoints_for_tests import save_untrained
from PIL import Image
from problems_for_tests import Square

from meta_opt import memory
from meta_opt.cli import main


def test_a_picture_for_each_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["plot", "--pretrained", "digits_mlp", "quadratic", "--num_steps", "5"]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert shown[:2] == ["portraits/0/digits_mlp.png", "portraits/0/quadratic.png"]
    assert shown[2:] == ["note: quadratic combines the gradients of a whole problem: noise says little of what it does"]
    for path in shown[:2]:
        colors = Image.open(path).convert("RGB").getcolors(maxcolors=1 << 20)
        assert colors is not None
        assert len(colors) > 100


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "say what to draw, with --ckpt_path or --pretrained"),
        (["--pretrained", "digits_mlp", "--num_steps", "0"], "--num_steps must be from 1 to 1000, not 0"),
        (["--pretrained", "digit_mlp"], "digits_mlp"),
        (["--pretrained", "digits_mlp", "--steps", "3"], "unknown option --steps"),
    ],
)
def test_errors_in_one_line(
    options: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["plot", *options]) == 2
    err = capsys.readouterr().err
    assert message in err
    assert len(err.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_a_layout_that_memory_cannot_hold(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    save_untrained(tmp_path / "small.ckpt", Square())
    content = torch.load("small.ckpt", weights_only=True)
    content["meta_opt"]["layout"]["shapes"] = [[10**7]]
    torch.save(content, "large.ckpt")
    monkeypatch.setattr(memory, "available", lambda: 5e8)
    assert main(["plot", "--ckpt_path", "large.ckpt"]) == 2
    assert "there is not enough memory: " in capsys.readouterr().err
