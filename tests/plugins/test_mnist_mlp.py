import functools
import gzip
import math
import os
import shutil
import socket
import struct
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch

from meta_opt.api import OptimizeeError
from meta_opt.optimizees.problems import Problems
from meta_opt_optimizees.mnist_mlp import MnistMlp, read_mnist

FILES = {
    "train-images-idx3-ubyte": (60_000, 28, 28),
    "train-labels-idx1-ubyte": (60_000,),
    "t10k-images-idx3-ubyte": (10_000, 28, 28),
    "t10k-labels-idx1-ubyte": (10_000,),
}


class QuietHandler(SimpleHTTPRequestHandler):
    """Serves files and logs nothing."""

    def log_message(self, *_: object) -> None:
        pass


def idx(shape: tuple[int, ...], value: int = 0) -> bytes:
    """A file of unsigned bytes, all of one value, in MNIST's format."""
    return struct.pack(f">BBBB{len(shape)}I", 0, 0, 8, len(shape), *shape) + bytes([value]) * math.prod(shape)


@pytest.fixture(scope="module")
def blank(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder with an MNIST whose images are white (255) and whose labels are 1."""
    folder = tmp_path_factory.mktemp("blank")
    raw = folder / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for name, shape in FILES.items():
        (raw / name).write_bytes(idx(shape, 255 if "images" in name else 1))
    return folder


@pytest.fixture
def server(tmp_path: Path, blank: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder on this machine that torchvision downloads the blank MNIST from."""
    from torchvision.datasets import MNIST

    folder = tmp_path / "server"
    folder.mkdir()
    for name in FILES:
        with gzip.open(folder / f"{name}.gz", "wb", compresslevel=1) as file:
            file.write((blank / "MNIST" / "raw" / name).read_bytes())
    with ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(QuietHandler, directory=str(folder))) as http:
        threading.Thread(target=http.serve_forever, daemon=True).start()
        monkeypatch.setenv("no_proxy", "*")
        monkeypatch.setattr(MNIST, "mirrors", [f"http://127.0.0.1:{http.server_port}/"])
        monkeypatch.setattr(MNIST, "resources", [(f"{name}.gz", None) for name in FILES])
        yield folder
        http.shutdown()


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision.datasets import MNIST

    with socket.socket() as probe:  # a port that nobody listens on
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(MNIST, "mirrors", [f"http://127.0.0.1:{port}/"])


@pytest.fixture
def real() -> Path:
    if "META_OPT_DATA_DIR" not in os.environ:
        pytest.skip("META_OPT_DATA_DIR, the folder that holds the data sets, is not set")
    return Path(os.environ["META_OPT_DATA_DIR"])


def test_real_mnist(real: Path) -> None:
    images, labels, test_images, test_labels = read_mnist(real)
    assert images.shape == (60_000, 784)
    assert test_images.shape == (10_000, 784)
    assert images.dtype == test_images.dtype == torch.uint8
    assert (images.min().item(), images.max().item()) == (0, 255)
    # The mean and standard deviation that everybody normalizes MNIST with.
    assert images.double().mean().item() / 255 == pytest.approx(0.1307, abs=5e-5)
    assert images.double().std().item() / 255 == pytest.approx(0.3081, abs=5e-5)
    assert labels.bincount().tolist() == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert test_labels.bincount().tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    assert labels[:5].tolist() == [5, 0, 4, 1, 9]


def test_splits_of_real_mnist(real: Path) -> None:
    optimizee = MnistMlp(data_dir=str(real))
    images, labels, test_images, test_labels = read_mnist(real)
    expected = {
        "train": (images[:50_000], labels[:50_000]),
        "validation": (images[50_000:], labels[50_000:]),
        "test": (test_images, test_labels),
    }
    for split, (inputs, targets) in expected.items():
        found = optimizee.examples(split)  # type: ignore[arg-type]
        assert torch.equal(found[0], inputs)
        assert torch.equal(found[1], targets)
    batch = optimizee.sample_batch("test", torch.Generator().manual_seed(0))["inputs"]
    assert batch.dtype == torch.float32
    assert (batch.min().item(), batch.max().item()) == (0.0, 1.0)


def test_starts_knowing_nothing_and_learns(real: Path) -> None:
    problems = Problems(MnistMlp(data_dir=str(real)), "train", [0], seed=0)
    theta = problems.initial_params.clone()
    optimizer = torch.optim.Adam([theta], lr=0.03)
    losses = []
    for _ in range(100):
        evaluation = problems.evaluate(theta)
        losses.append(evaluation.loss.item())
        theta.grad = evaluation.grad
        optimizer.step()
    # Every class is equally likely at θ_0 ≈ 0; the paper has 0.35 for Adam after 100 steps.
    assert losses[0] == pytest.approx(math.log(10), abs=0.05)
    assert sum(losses[-10:]) / 10 == pytest.approx(0.35, abs=0.1)


def test_data_dir_goes_before_the_environment(blank: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("META_OPT_DATA_DIR", str(tmp_path))
    assert MnistMlp(data_dir=str(blank)).inputs.min().item() == 255
    monkeypatch.setenv("META_OPT_DATA_DIR", str(blank))
    assert MnistMlp().targets.unique().tolist() == [1]


def test_data_is_the_default_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_network: None) -> None:
    monkeypatch.delenv("META_OPT_DATA_DIR", raising=False)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(OptimizeeError) as caught:
        MnistMlp()
    assert f"MNIST is not in {tmp_path / 'data' / 'MNIST' / 'raw'}, and" in str(caught.value)


def test_no_files_and_no_network(tmp_path: Path, no_network: None, capfd: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "some" / "where"
    with pytest.raises(OptimizeeError) as caught:
        MnistMlp(data_dir=str(folder))
    start, _, end = str(caught.value).partition(", and downloading it failed (")
    assert start == f"MNIST is not in {folder / 'MNIST' / 'raw'}"
    assert end.endswith(
        "Connection refused>): use --optimizee digits_mlp, which needs no download, or point --optimizee.data_dir or "
        "META_OPT_DATA_DIR at a folder that holds MNIST/raw"
    )
    assert "\n" not in end
    assert list(tmp_path.iterdir()) == []
    assert capfd.readouterr() == ("", "")
    assert socket.getdefaulttimeout() is None


def test_download(tmp_path: Path, server: Path, capfd: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "some" / "where"
    assert MnistMlp(data_dir=str(folder)).inputs.min().item() == 255
    assert {path.name for path in (folder / "MNIST" / "raw").iterdir()} == FILES.keys()
    assert capfd.readouterr() == ("", "")
    shutil.rmtree(server)
    assert MnistMlp(data_dir=str(folder)).inputs.min().item() == 255  # without another download


def test_a_download_that_goes_wrong_leaves_nothing(
    tmp_path: Path, server: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torchvision.datasets import MNIST

    # The last of the files does not have the checksum that it should.
    monkeypatch.setattr(MNIST, "resources", [*MNIST.resources[:-1], (MNIST.resources[-1][0], "0" * 32)])
    with pytest.raises(
        OptimizeeError, match=r"^MNIST is not in .* downloading it failed \(File not found or corrupted\.\): "
    ):
        MnistMlp(data_dir=str(tmp_path / "data"))
    assert list(tmp_path.iterdir()) == [server]


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("t10k-images-idx3-ubyte", b"", ""),
        ("t10k-images-idx3-ubyte", b"<html>not found</html>" * 100, ""),
        ("t10k-images-idx3-ubyte", idx((10_000, 28, 28))[:-1], ""),
        ("t10k-images-idx3-ubyte", idx((9_999, 28, 28)), "shape [9999, 28, 28] instead of [10000, 28, 28]"),
        ("t10k-images-idx3-ubyte", idx((10_000, 28)), "x should have 3 dimension instead of 2"),
        ("t10k-labels-idx1-ubyte", idx((10_001,)), "10009 bytes instead of 10008"),
        ("train-labels-idx1-ubyte", idx((50_000,)), "shape [50000] instead of [60000]"),
        ("train-labels-idx1-ubyte", idx((60_000,), 10), "labels beyond 9"),
    ],
)
def test_a_damaged_file(name: str, content: bytes, reason: str, tmp_path: Path, blank: Path) -> None:
    raw = tmp_path / "MNIST" / "raw"
    shutil.copytree(blank / "MNIST" / "raw", raw, copy_function=os.link)
    (raw / name).unlink()
    (raw / name).write_bytes(content)
    with pytest.raises(OptimizeeError) as caught:
        MnistMlp(data_dir=str(tmp_path))
    message = str(caught.value)
    assert message.startswith(f"{raw / name} is damaged or not MNIST's ({reason}")
    assert message.endswith(
        "): delete it to download it again, or point --optimizee.data_dir or META_OPT_DATA_DIR elsewhere"
    )
    assert "\n" not in message
