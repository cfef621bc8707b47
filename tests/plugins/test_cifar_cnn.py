"""The paper's convolutional network, on the real CIFAR-10."""

import errno
import functools
import math
import os
import shutil
from pathlib import Path

import pytest
import torch
from torch import Generator

from meta_opt.api import OptimizeeError, Split
from meta_opt.optimizees.problems import Problems
from meta_opt_optimizees.cifar_cnn import CifarCnn, read_cifar

SPLITS: tuple[Split, ...] = ("train", "validation", "test")
real = functools.cache(CifarCnn)
needs_files = pytest.mark.skipif(
    "META_OPT_DATA_DIR" not in os.environ, reason="META_OPT_DATA_DIR, the folder that holds the data sets, is not set"
)


@needs_files
def test_real_cifar() -> None:
    parts = {split: real().examples(split) for split in SPLITS}
    assert [len(images) for images, _ in parts.values()] == [45_000, 5_000, 10_000]
    assert all(images.shape[1:] == (3, 32, 32) for images, _ in parts.values())
    assert real().inputs.dtype == torch.uint8
    assert parts["test"][1].bincount().tolist() == [1000] * 10
    assert (parts["train"][1].bincount() + parts["validation"][1].bincount()).tolist() == [5000] * 10
    assert parts["train"][1][:5].tolist() == [6, 9, 9, 4, 1]  # a frog, two trucks, a deer, an automobile


@needs_files
def test_mini_batches_are_standardized_by_channel() -> None:
    inputs = torch.cat([real().sample_batch("train", Generator().manual_seed(seed))["inputs"] for seed in range(16)])
    assert inputs.dtype == torch.float32
    torch.testing.assert_close(inputs.mean((0, 2, 3)), torch.zeros(3), rtol=0, atol=0.05)
    torch.testing.assert_close(inputs.std((0, 2, 3)), torch.ones(3), rtol=0, atol=0.05)


@needs_files
def test_starts_knowing_nothing_and_learns() -> None:
    problems = Problems(real(), "train", [0], seed=0)
    theta = problems.initial_params.clone()
    optimizer = torch.optim.Adam([theta], lr=0.01)
    losses = []
    for _ in range(30):
        evaluation = problems.evaluate(theta)
        losses.append(evaluation.loss.item())
        theta.grad = evaluation.grad
        optimizer.step()
    assert losses[0] == pytest.approx(math.log(10), abs=0.05)
    assert sum(losses[-5:]) / 5 < 1.9


@needs_files
def test_some_labels_only() -> None:
    optimizee = CifarCnn(labels=[7, 2], channels=[2], hidden_sizes=[])
    assert [len(optimizee.examples(split)[1]) for split in SPLITS[::2]] == [
        int(sum((real().examples(split)[1] == label).sum() for label in (7, 2))) for split in SPLITS[::2]
    ]
    images, targets = optimizee.examples("test")
    assert torch.equal(images[targets == 0], real().inputs[50_000:][real().targets[50_000:] == 7])
    assert optimizee.init_params(Generator())["output.bias"].shape == (2,)


@pytest.mark.parametrize("labels", [[1], [1, 1], [9, 10], [-1, 3]])
def test_wrong_labels(labels: list[int]) -> None:
    with pytest.raises(OptimizeeError, match=r"^optimizee\.labels must be different numbers of 0 to 9, two at least"):
        CifarCnn(labels=labels)


def test_no_files_and_no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision.datasets import CIFAR10

    monkeypatch.setattr(CIFAR10, "url", (tmp_path / "nowhere.tar.gz").as_uri())
    with pytest.raises(OptimizeeError, match=r"^CIFAR-10 is not in .*/data/cifar-10-batches-py, and downloading it"):
        CifarCnn(data_dir=str(tmp_path / "data"))
    assert list(tmp_path.iterdir()) == []


@needs_files
def test_download(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision.datasets import CIFAR10

    def fetch(folder: Path, download: bool) -> None:
        assert download
        (folder / "cifar-10-batches-py").symlink_to(Path(os.environ["META_OPT_DATA_DIR"]) / "cifar-10-batches-py")

    lists = (CIFAR10.train_list, CIFAR10.test_list)
    monkeypatch.setattr(CIFAR10, "__init__", lambda self, folder, download: fetch(folder, download))
    read_cifar(tmp_path)
    names = {path.name for path in (tmp_path / "cifar-10-batches-py").iterdir()}
    assert names >= {name for files in lists for name, _ in files}


@needs_files
def test_a_file_that_is_not_the_original_is_not_read(tmp_path: Path) -> None:
    folder = tmp_path / "cifar-10-batches-py"
    shutil.copytree(
        Path(os.environ["META_OPT_DATA_DIR"]) / folder.name,
        folder,
        copy_function=lambda source, to: Path(to).symlink_to(source),
    )
    (folder / "data_batch_1").unlink()
    (folder / "data_batch_1").write_bytes(b"cos\nabort\n(tR.")  # a pickle that would end the process
    with pytest.raises(OptimizeeError) as caught:
        CifarCnn(data_dir=str(tmp_path))
    assert str(caught.value) == (
        f"{folder / 'data_batch_1'} is damaged or not CIFAR-10's (its md5 is not c99cafc152244af753f735de768cd75f): "
        "delete it to download it again, or point --optimizee.data_dir or META_OPT_DATA_DIR elsewhere"
    )


@needs_files
def test_a_file_that_cannot_be_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path, mode: str) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    folder = Path(os.environ["META_OPT_DATA_DIR"])
    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(OptimizeeError, match=r"data_batch_1 is damaged or not CIFAR-10's \(.*Permission denied"):
        read_cifar(folder)
