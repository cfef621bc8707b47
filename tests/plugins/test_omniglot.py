"""Few characters of one alphabet, from the real Omniglot."""

import functools
import io
import os
import shutil
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import pytest
import torch
from PIL import Image
from torch import Generator

from meta_opt.api import MetaOptError, OptimizeeError, Split
from meta_opt.optimizees.problems import Problems
from meta_opt_optimizees.omniglot import Omniglot, read_omniglot

SPLITS: tuple[Split, ...] = ("train", "validation", "test")
real = functools.cache(Omniglot)
needs_files = pytest.mark.skipif(
    "META_OPT_DATA_DIR" not in os.environ, reason="META_OPT_DATA_DIR, the folder that holds the data sets, is not set"
)


def archive(path: Path, num_alphabets: int, num_drawings: int = 20, size: int = 105) -> None:
    """Alphabets of three characters whose drawings are white but for the first alphabet's, which are black."""
    with ZipFile(path, "w") as file:
        for alphabet in range(num_alphabets):
            content = io.BytesIO()
            Image.new("1", (size, size), alphabet > 0).save(content, "png")
            for number in range(3 * num_drawings):
                name = f"alphabet{alphabet:02}/character{number // num_drawings:02}/{number:04}_{number:02}.png"
                file.writestr(f"{path.stem}/{name}", content.getvalue())


def write(folder: Path, **options: int) -> None:
    (folder / "omniglot-py").mkdir(parents=True)
    for name, count in (("images_background", 7), ("images_evaluation", 6)):
        archive(folder / "omniglot-py" / f"{name}.zip", count, **options)


@needs_files
def test_real_omniglot() -> None:
    images, alphabets = read_omniglot(Path(os.environ["META_OPT_DATA_DIR"]))
    assert images.shape == (32_460, 28, 28)
    assert images.dtype == torch.uint8
    assert {split: (len(found), sum(map(len, found))) for split, found in alphabets.items()} == {
        "train": (25, 813), "validation": (5, 151), "test": (20, 659),
    }  # fmt: skip
    assert len(images) == (964 + 659) * 20
    # The first archive is 89 % white: lines are about 2 pixels of 105 wide.
    assert 0.03 < images[: 964 * 20].float().mean().item() / 255 < 0.12


@needs_files
def test_a_problem_is_of_one_alphabet_of_its_split() -> None:
    for split in SPLITS:
        problem = real().sample_problem(split, Generator().manual_seed(3))
        characters = set(problem["characters"].tolist())
        assert len(characters) == 10
        assert sum(characters <= set(alphabet) for alphabet in real()._alphabets[split]) == 1
        assert problem["drawings"].sort(1).values.tolist() == [list(range(20))] * 10


@needs_files
def test_mini_batches_are_drawings_of_the_problem_s_characters(monkeypatch: pytest.MonkeyPatch) -> None:
    optimizee, generator = real(), Generator().manual_seed(0)
    params, problem = optimizee.init_params(generator), optimizee.sample_problem("test", generator)
    seen: list[torch.Tensor] = []
    monkeypatch.setattr(optimizee, "images", torch.arange(32_460, dtype=torch.int32).view(-1, 1, 1).expand(-1, 28, 28))
    monkeypatch.setattr(
        "meta_opt_optimizees.omniglot.functional_call",
        lambda network, params, inputs, **_: seen.append(inputs[0][:, 0, 0, 0]) or torch.zeros(len(inputs[0]), 10),
    )
    batches = [optimizee.sample_batch("test", generator) for _ in range(40)]
    targets = torch.cat([batch["targets"] for batch in batches])
    for batch in batches:
        optimizee.loss(params, problem, batch)
    rows = (torch.cat(seen) * 255).round().long()
    assert torch.equal(rows // 20, problem["characters"][targets])
    assert len(rows.unique()) == 10 * 5  # the shots of each character, and no others
    seen.clear()
    optimizee.metrics(params, problem, batches[0])
    others = (seen[1] * 255).round().long()
    assert sorted([*rows.unique().tolist(), *others.tolist()]) == sorted(
        20 * character + drawing for character in problem["characters"].tolist() for drawing in range(20)
    )


@needs_files
def test_what_counts_on_drawings_that_are_held_back() -> None:
    generator = Generator().manual_seed(0)
    by_entropy, by_error = (Omniglot(20, 1, held_back=kind) for kind in ("cross_entropy", "error"))
    params, problem = by_error.init_params(generator), by_error.sample_problem("train", generator)
    batch = by_error.sample_held_back("train", generator)
    assert batch["shots"].min() >= 1
    outputs = by_error._outputs(params, problem, batch["targets"], batch["shots"])
    chosen = torch.arange(32), batch["targets"]
    torch.testing.assert_close(
        by_entropy.held_back_loss(params, problem, batch), -outputs.log_softmax(1)[chosen].mean()
    )
    outputs = 3 * (outputs - outputs.mean(1, keepdim=True)) / outputs.std(1, unbiased=False, keepdim=True)
    error = by_error.held_back_loss(params, problem, batch)
    torch.testing.assert_close(error, 1 - outputs.softmax(1)[chosen].mean())
    surer = {name: 100 * tensor if name.startswith("output") else tensor for name, tensor in params.items()}
    torch.testing.assert_close(by_error.held_back_loss(surer, problem, batch), error)
    nothing = {name: torch.zeros_like(tensor) for name, tensor in params.items()}
    assert by_error.held_back_loss(nothing, problem, batch).item() == pytest.approx(19 / 20)


@needs_files
def test_learns_new_characters() -> None:
    problems = Problems(real(), "test", range(2), seed=0)
    theta = problems.initial_params.clone()
    optimizer = torch.optim.Adam([theta], lr=0.01)
    for _ in range(40):
        evaluation = problems.evaluate(theta)
        theta.grad = evaluation.grad
        optimizer.step()
    metrics = problems.metrics(theta)
    assert evaluation.loss.max() < 0.6
    assert metrics["accuracy"].min() > 0.8
    assert 0.4 < metrics["new_accuracy"].min() < 1.0  # by chance 0.1


def test_alphabets_with_too_few_characters_are_left_out(tmp_path: Path) -> None:
    write(tmp_path)
    images, alphabets = read_omniglot(tmp_path)
    assert alphabets["train"] == [range(3), range(3, 6)]
    assert alphabets["test"][0] == range(21, 24)
    assert (images[0] == 255).all()  # black is ink
    assert (images[60] == 0).all()
    with pytest.raises(OptimizeeError, match=r"^optimizee\.num_ways must be at least 2 and at most 3, not 4$"):
        Omniglot(num_ways=4, data_dir=str(tmp_path))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_shots": 20}, r"^optimizee\.num_shots must be at least 1 and at most 19, not 20$"),
        ({"batch_size": 0}, r"^optimizee\.batch_size must be at least 1, not 0$"),
        ({"held_back": "accuracy"}, r"^optimizee\.held_back must be cross_entropy or error, not 'accuracy'$"),
    ],
)
def test_wrong_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(MetaOptError, match=message):
        Omniglot(**options)


def test_no_files_and_no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision.datasets import Omniglot as Source

    monkeypatch.setattr(Source, "download_url_prefix", tmp_path.as_uri())
    with pytest.raises(OptimizeeError, match=r"^Omniglot is not in .*/data/omniglot-py, and downloading it failed"):
        Omniglot(data_dir=str(tmp_path / "data"))
    assert list(tmp_path.iterdir()) == []


def test_download(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision.datasets import utils

    write(tmp_path)
    folder = tmp_path / "omniglot-py"

    def fetch(url: str, root: Path, filename: str, md5: str) -> None:
        assert url.startswith("https://") and url.endswith(f"/{filename}") and len(md5) == 32  # noqa: PT018
        shutil.copy(folder / filename, root)

    monkeypatch.setattr(utils, "download_url", fetch)
    read_omniglot(tmp_path / "data")
    assert {path.name for path in (tmp_path / "data" / "omniglot-py").iterdir()} == {
        "images_background.zip", "images_evaluation.zip",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "File is not a zip file"),
        ("few", "5 alphabets"),
        ("missing", "not 20 drawings of"),
        ("the other", "0 alphabets"),
        ("small", "a drawing of (28, 28) instead of (105, 105) pixels"),
    ],
)
def test_a_damaged_archive(content: bytes | str, reason: str, tmp_path: Path) -> None:
    write(tmp_path)
    path = tmp_path / "omniglot-py" / "images_evaluation.zip"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content == "few":
        archive(path, 5)
    elif content == "the other":  # what is tested on would be what was trained on
        path.write_bytes(path.with_name("images_background.zip").read_bytes())
    elif content == "small":
        archive(path, 6, size=28)
    else:
        archive(path, 6, 19)
    with pytest.raises(OptimizeeError) as caught:
        read_omniglot(tmp_path)
    assert str(caught.value).startswith(f"{path} is damaged or not Omniglot's ({reason}")


def test_an_archive_that_ends_within_a_drawing(tmp_path: Path) -> None:
    write(tmp_path)
    path = tmp_path / "omniglot-py" / "images_evaluation.zip"
    with ZipFile(path, "a") as file:
        header = file.infolist()[-1].FileHeader()
        file.comment = header  # the end of the file
    with ZipFile(path, "a") as file:
        file.infolist()[-1].header_offset = path.stat().st_size - len(header)
        file.comment = header
    with pytest.raises(OptimizeeError, match=r"images_evaluation.zip is damaged or not Omniglot's \("):
        read_omniglot(tmp_path)
