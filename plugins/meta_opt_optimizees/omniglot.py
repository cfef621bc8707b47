"""Telling apart handwritten characters of one alphabet, from Omniglot (Lake, Salakhutdinov, Tenenbaum 2015).

1,623 characters of 50 alphabets, 20 drawings each. The network is that of the few-shot literature (Vinyals et al. 2016,
arXiv:1606.04080) with fewer channels: blocks of a 3x3 convolution, batch normalization, max-pooling and ReLU.
"""

from __future__ import annotations

import math
import re
import zlib
from collections import defaultdict
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, Literal
from zipfile import BadZipFile, ZipFile, ZipInfo

import numpy as np
import torch
from PIL import Image
from torch import Generator, Tensor
from torch.func import functional_call
from torch.nn.functional import adaptive_avg_pool2d, cross_entropy

from meta_opt.api import SPLITS, Optimizee, OptimizeeError, Split, TensorDict
from meta_opt_optimizees.conv_net import conv_and_fc, conv_net
from meta_opt_optimizees.data_folder import damaged, data_folder, download, lacks
from meta_opt_optimizees.mlp import RECOMMENDED_SETTINGS

_FOLDER = "omniglot-py"
_ARCHIVES = ("images_background", "images_evaluation")
_NUM_DRAWINGS = 20  # of each character
_DRAWN = (105, 105)  # pixels
# What zipfile and Pillow raise at an archive that is damaged, encrypted or another.
_DAMAGED = (BadZipFile, EOFError, OSError, ValueError, RuntimeError, zlib.error, Image.DecompressionBombError)
_NUM_HELD_BACK = 5  # the last of the 30 background alphabets, for validation problems
_SURE = 3.0  # standard deviation of the outputs that an error is of
_LEAST_SQUARE = 1e-12  # of outputs
_SIZE = 28  # height and width of the images; in the archives 105


class Omniglot(Optimizee):
    """A convolutional network that learns a few characters of one alphabet; downloads Omniglot where it finds none.

    A problem is a draw of an alphabet, of ``num_ways`` of its characters, and of ``num_shots`` drawings of each, which
    all mini-batches come from. The other drawings of these characters are for the metric ``new_accuracy``. Training
    problems have alphabets of the background set, validation problems its last five, test problems those of the
    evaluation set: characters that no learned optimizer has seen.
    """

    def __init__(
        self,
        num_ways: int = 10,
        num_shots: int = 5,
        num_channels: int = 16,
        num_blocks: int = 4,
        batch_size: int = 32,
        held_back: Literal["cross_entropy", "error"] = "cross_entropy",
        data_dir: str | None = None,
    ) -> None:
        """Read the drawings.

        Args:
            num_ways: Number of characters to tell apart.
            num_shots: Number of drawings of each to learn from, at most 19 of the 20.
            num_channels: Number of channels of each convolution.
            num_blocks: Number of convolutions, at most 4.
            batch_size: Drawings in a mini-batch.
            held_back: What counts on drawings that are held back: the cross entropy, to which answers that are wrong
                and sure matter most, or the error: the probability that other characters are given, where the outputs
                for each drawing are brought to one size, so that how sure the network is does not matter.
            data_dir: Folder that holds omniglot-py, or where to put it; by default that of the environment variable
                META_OPT_DATA_DIR, or else data.

        Raises:
            OptimizeeError: If an argument is out of range, or the data cannot be had.
        """
        if not 1 <= num_shots < _NUM_DRAWINGS:
            raise OptimizeeError(f"optimizee.num_shots must be at least 1 and at most 19, not {num_shots}")
        if batch_size < 1:
            raise OptimizeeError(f"optimizee.batch_size must be at least 1, not {batch_size}")
        images, alphabets = read_omniglot(data_folder(data_dir))
        largest = min(max(map(len, alphabets[split])) for split in SPLITS)
        if not 2 <= num_ways <= largest:
            raise OptimizeeError(f"optimizee.num_ways must be at least 2 and at most {largest}, not {num_ways}")
        self._num_ways = num_ways
        self._num_shots = num_shots
        self._batch_size = batch_size
        self._held_back = held_back
        self._alphabets = {
            split: [alphabet for alphabet in alphabets[split] if len(alphabet) >= num_ways] for split in SPLITS
        }
        with torch.device("meta"):  # a network without weights, to call with whatever parameters come
            self._network = conv_net((1, _SIZE, _SIZE), [num_channels] * num_blocks, 3, [], num_ways)
        self.images = images

    def init_params(self, generator: Generator) -> TensorDict:
        """θ_0: filters and weights normal with variance 2 / fan-in (He et al. 2015), all else zero."""
        params = {}
        for name, like in self._network.named_parameters():
            std = math.sqrt(2 / like[0].numel()) if like.dim() > 1 else 0.0
            params[name] = torch.randn(like.shape, generator=generator) * std
        return params

    def sample_problem(self, split: Split, generator: Generator) -> TensorDict:
        """Characters of one of the split's alphabets, and the order of the drawings of each."""
        alphabets = self._alphabets[split]
        alphabet = alphabets[int(torch.randint(len(alphabets), (), generator=generator))]
        characters = alphabet.start + torch.randperm(len(alphabet), generator=generator)[: self._num_ways]
        drawings = [torch.randperm(_NUM_DRAWINGS, generator=generator) for _ in range(self._num_ways)]
        return {"characters": characters, "drawings": torch.stack(drawings)}  # [ways], [ways, 20]

    def sample_batch(self, split: Split, generator: Generator) -> TensorDict:
        """Which of the problem's characters and drawings, drawn with replacement."""
        size = (self._batch_size,)
        return {
            "targets": torch.randint(self._num_ways, size, generator=generator),
            "shots": torch.randint(self._num_shots, size, generator=generator),
        }

    def sample_held_back(self, split: Split, generator: Generator) -> TensorDict:
        """As :meth:`sample_batch`, of the drawings that those never hold."""
        size = (self._batch_size,)
        return {
            "targets": torch.randint(self._num_ways, size, generator=generator),
            "shots": torch.randint(self._num_shots, _NUM_DRAWINGS, size, generator=generator),
        }

    def loss(self, params: TensorDict, problem: TensorDict, batch: TensorDict) -> Tensor:
        """The cross entropy on the mini-batch."""
        outputs = self._outputs(params, problem, batch["targets"], batch["shots"])
        return cross_entropy(outputs, batch["targets"])

    def held_back_loss(self, params: TensorDict, problem: TensorDict, batch: TensorDict) -> Tensor:
        """The cross entropy or the error on the mini-batch."""
        if self._held_back == "cross_entropy":
            return self.loss(params, problem, batch)
        outputs = self._outputs(params, problem, batch["targets"], batch["shots"])
        outputs = outputs - outputs.mean(1, keepdim=True)
        outputs = _SURE * outputs / (outputs.square().mean(1, keepdim=True) + _LEAST_SQUARE).sqrt()
        return 1.0 - outputs.softmax(1).gather(1, batch["targets"].unsqueeze(1)).mean()

    def metrics(self, params: TensorDict, problem: TensorDict, batch: TensorDict) -> TensorDict:
        """The accuracy on the mini-batch, and on all drawings of the problem's characters that are not learned from."""
        from torchmetrics.functional.classification import multiclass_accuracy  # a second, and not always wanted

        new = torch.cartesian_prod(torch.arange(self._num_ways), torch.arange(self._num_shots, _NUM_DRAWINGS))
        of_metric = {
            "accuracy": (batch["targets"], batch["shots"]),
            "new_accuracy": new.to(self.images.device).unbind(1),
        }
        return {
            name: multiclass_accuracy(
                self._outputs(params, problem, ways, shots), ways, self._num_ways, average="micro", validate_args=False
            )
            for name, (ways, shots) in of_metric.items()
        }

    def groups(self) -> Mapping[str, str]:
        """``conv``, the filters, and ``fc``, all other parameters."""
        return conv_and_fc(self._network)

    @classmethod
    def recommended_settings(cls) -> dict[str, Any]:
        """Those of small classifiers for fewer steps, a network for each group, and general_mlp to start from.

        Losses fall to zero, as few drawings as there are: of the logarithm nothing would be left but that.
        """
        return {
            **RECOMMENDED_SETTINGS,
            "model.warm_start": "general_mlp",
            "model.num_steps": 50,
            "model.max_num_steps": 100,
            "model.unroll_length": 25,
            "model.meta_loss": "sum",
            "model.lr": 0.0003,
            "model.normalize_gradient": True,
            "model.estimator.replay_fraction": 0.5,
            "model.reference_lr": 0.01,
            "model.num_validation_problems": 32,
            "optimizer.share": "group",
            "optimizer.tensor_features": True,
            "trainer.max_epochs": 6,
        }

    def _outputs(self, params: TensorDict, problem: TensorDict, targets: Tensor, shots: Tensor) -> Tensor:
        """The network's outputs, [n, ways], for drawings of the problem's characters."""
        characters = problem["characters"][targets]
        rows = characters * _NUM_DRAWINGS + problem["drawings"][targets, shots]
        inputs = self.images[rows].unsqueeze(1).to(params["output.bias"].dtype) / 255
        return functional_call(self._network, params, (inputs,), tie_weights=False)


@cache
def read_omniglot(folder: Path) -> tuple[Tensor, dict[Split, list[range]]]:
    """All drawings, and the alphabets of each split as ranges of characters; read once, and not to be changed.

    Returns:
        Images [32460, 28, 28], 255 where there is ink, 0 where there is none, drawing d of character c at row
        20 c + d; and per split the ranges of c of its alphabets, in the order of their names.

    Args:
        folder: The folder that holds ``omniglot-py``, in it the two archives. Where it lacks one, they are downloaded.

    Raises:
        OptimizeeError: If the archives are neither there nor to be downloaded, or are damaged.
    """
    paths = [folder / _FOLDER / f"{name}.zip" for name in _ARCHIVES]
    if lacks(folder / _FOLDER, (path.name for path in paths)):
        download("Omniglot", folder, _FOLDER, _download)
    images: list[Tensor] = []
    alphabets: list[list[range]] = []
    num_characters = 0
    for path in paths:
        alphabets.append([])
        for drawings in _read(path):
            images.append(drawings)
            last = num_characters + len(drawings) // _NUM_DRAWINGS
            alphabets[-1].append(range(num_characters, last))
            num_characters = last
    background, evaluation = alphabets
    splits: dict[Split, list[range]] = {
        "train": background[:-_NUM_HELD_BACK],
        "validation": background[-_NUM_HELD_BACK:],
        "test": evaluation,
    }
    return torch.cat(images), splits


def _read(path: Path) -> list[Tensor]:
    """The drawings of each alphabet in an archive, [20 * characters, 28, 28]."""
    try:
        with ZipFile(path) as archive:
            alphabets: defaultdict[str, list[ZipInfo]] = defaultdict(list)
            for entry in sorted(archive.infolist(), key=lambda entry: entry.filename):
                if match := re.fullmatch(rf"{path.stem}/([^/]+)/character\d+/\d+_\d+\.png", entry.filename):
                    alphabets[match[1]].append(entry)
            if len(alphabets) <= _NUM_HELD_BACK:
                raise ValueError(f"{len(alphabets)} alphabets")
            return [_alphabet(archive, entries) for entries in alphabets.values()]
    except _DAMAGED as error:
        raise damaged("Omniglot", path, error) from error


def _alphabet(archive: ZipFile, entries: list[ZipInfo]) -> Tensor:
    """The drawings of one alphabet, made smaller."""
    characters = [entry.filename.rpartition("/")[0] for entry in entries]
    if any(characters.count(name) != _NUM_DRAWINGS for name in set(characters)):
        raise ValueError(f"not {_NUM_DRAWINGS} drawings of every character in {characters[0]}")
    drawings = []
    for entry in entries:
        with archive.open(entry) as file, Image.open(file) as image:
            if image.size != _DRAWN:
                raise ValueError(f"a drawing of {image.size} instead of {_DRAWN} pixels")
            drawings.append(np.asarray(image.convert("1")))
    ink = 1.0 - torch.from_numpy(np.stack(drawings)).float()
    return (255 * adaptive_avg_pool2d(ink, _SIZE)).round().to(torch.uint8)


def _download(temporary: Path) -> list[Path]:
    from torchvision.datasets import Omniglot as Source  # importing torchvision takes a second
    from torchvision.datasets.utils import download_url

    for name in _ARCHIVES:
        download_url(f"{Source.download_url_prefix}/{name}.zip", temporary, f"{name}.zip", Source.zips_md5[name])
    return [temporary / f"{name}.zip" for name in _ARCHIVES]
