"""Folders of data that cannot be had are one line."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from meta_opt.api import OptimizeeError
from meta_opt_optimizees.cifar_cnn import read_cifar
from meta_opt_optimizees.data_folder import data_folder
from meta_opt_optimizees.mnist_mlp import read_mnist
from meta_opt_optimizees.omniglot import read_omniglot


def test_a_home_is_meant_by_a_tilde(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("META_OPT_DATA_DIR", "~/of all")
    assert data_folder("~/sets of data") == tmp_path / "sets of data"
    assert data_folder(None) == tmp_path / "of all"
    with pytest.raises(OptimizeeError, match=r"^there is no folder ~nobody-of-that-name/x, the data_dir: no such user"):
        data_folder("~nobody-of-that-name/x")


@pytest.mark.parametrize("read", [read_mnist, read_cifar, read_omniglot])
def test_a_folder_that_cannot_be_looked_into(
    read: Callable[[Path], object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stat(path: Path, **_: object) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "is_file", stat)  # permissions do not keep the superuser out
        with pytest.raises(OptimizeeError) as caught:
            read(tmp_path)
    folder, _, end = str(caught.value).partition(" cannot be read ")
    assert Path(folder).is_relative_to(tmp_path)
    assert end == "(Permission denied): point --optimizee.data_dir or META_OPT_DATA_DIR elsewhere"
