"""Building, caching, and what happens where neither can be."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from meta_opt.optimizers.lstm import native
from meta_opt.optimizers.lstm.native import build

ROOT = Path(__file__).parents[4]
LOAD = """
import sys
from meta_opt.optimizers.lstm import native
print(native.available(), "torch.utils.cpp_extension" in sys.modules)
"""


@pytest.fixture(autouse=True)
def _forget() -> Iterator[None]:
    native.load.cache_clear()
    yield
    native.load.cache_clear()


def start(cache: Path, **environment: str) -> subprocess.Popen[str]:
    variables = {**os.environ, "TORCH_EXTENSIONS_DIR": str(cache), "PYTHONPATH": str(ROOT), **environment}
    return subprocess.Popen(
        [sys.executable, "-c", LOAD], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=variables
    )


def compiler(monkeypatch: pytest.MonkeyPatch, folder: Path, script: str) -> None:
    path = folder / "compiler"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    monkeypatch.setenv("CXX", str(path))
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(folder))


def test_without_a_compiler_there_is_one_warning_and_no_kernel(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    monkeypatch.delenv("CXX", raising=False)
    with pytest.warns(RuntimeWarning, match=r"no native kernel.*no compiler 'c\+\+'") as caught:
        assert native.load() is None
    assert len(caught) == 1
    assert native.load() is None  # warnings are errors: there is no second one
    assert not native.available()


def test_a_failed_build_is_a_warning_too(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    compiler(monkeypatch, tmp_path, "echo 'lstm.cpp:1: error: not today' >&2; exit 1")
    with pytest.warns(RuntimeWarning, match="error: not today"):
        assert native.load() is None
    assert not list(tmp_path.glob("**/*.so"))


def test_a_cache_that_cannot_be_written_is_a_warning_too(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path / "file"))
    with pytest.warns(
        RuntimeWarning, match=r"no native kernel.*no place for it \(.*file.*\); set TORCH_EXTENSIONS_DIR"
    ):
        assert native.load() is None


def test_a_change_of_any_source_is_another_library(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    folder = build.SOURCES[0].parent
    assert set(build.SOURCES) == set(folder.iterdir())
    copies = [tmp_path / source.name for source in build.SOURCES]
    for source, copy in zip(build.SOURCES, copies, strict=True):
        shutil.copy(source, copy)
    monkeypatch.setattr(build, "SOURCES", copies)
    before = build._path()
    for copy in copies:
        text = copy.read_text()
        copy.write_text(text + "// changed\n")
        assert build._path() != before, copy.name
        copy.write_text(text)
    assert build._path() == before


def test_sources_include_each_other_and_nothing_else_of_ours() -> None:
    names = {source.name for source in build.SOURCES}
    includes = {source.name: set(re.findall(r'#include "(.*)"', source.read_text())) for source in build.SOURCES}
    assert set().union(*includes.values()) == names - {"lstm.cpp"}


@pytest.mark.slow
@pytest.mark.skipif(shutil.which(os.environ.get("CXX", "c++").split()[0]) is None, reason="needs a compiler")
def test_processes_share_a_cache(tmp_path: Path) -> None:
    both = [start(tmp_path), start(tmp_path)]
    results = [process.communicate(timeout=300) for process in both]
    assert [out.split() for out, _ in results] == [["True", "False"]] * 2, results
    assert any("building the native kernel, once" in err for _, err in results)
    assert sum(err.count("building") for _, err in results) == 1  # the other waits
    library, checksum = sorted((tmp_path / "meta_opt_kernels").iterdir())  # nothing is left of the build
    assert checksum.name == f"{library.name}.sha256"

    out, err = start(tmp_path).communicate(timeout=60)
    assert out.split() == ["True", "False"]
    assert "building" not in err

    good, left = library.read_bytes(), library.with_name(".building.abc")
    flipped = bytearray(good)
    flipped[len(flipped) // 2] ^= 1
    for damaged in (b"", good[:4096], bytes(flipped)):
        library.unlink()
        library.write_bytes(damaged)
        left.mkdir()  # of a process that was killed
        out, err = start(tmp_path).communicate(timeout=300)
        assert out.split() == ["True", "False"], err
        assert "building" in err
        assert library.read_bytes() == good
        assert sorted(library.parent.iterdir()) == [library, checksum]


def test_a_compiler_that_hangs_is_ended_with_what_it_started(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    compiler(monkeypatch, tmp_path, "sleep 100 & echo $! > started; sleep 100")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(build, "_MAX_SECONDS", 2.0)
    start = time.monotonic()
    with pytest.warns(RuntimeWarning, match=r"no native kernel.*was still at it after 2 s"):
        assert native.load() is None
    assert time.monotonic() - start < 20
    stat = Path(f"/proc/{(tmp_path / 'started').read_text().strip()}/stat")
    while stat.exists() and stat.read_text().split()[2] != "Z":  # the signal has been sent; dying takes a moment
        assert time.monotonic() - start < 20
        time.sleep(0.05)


def test_a_compiler_that_crashes_is_a_warning_too(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    compiler(monkeypatch, tmp_path, "kill -SEGV $$")
    with pytest.warns(RuntimeWarning, match=r"no native kernel.*compiler failed: signal 11"):
        assert native.load() is None


def test_a_compiler_that_writes_rubbish_is_a_warning_too(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    compiler(monkeypatch, tmp_path, 'while [ "$1" != -o ]; do shift; done; echo rubbish > "$2"')
    with pytest.warns(RuntimeWarning, match="no native kernel"):
        assert native.load() is None


LOSSES = """
import torch
from meta_opt.inner_loop.episodes import run_episodes
from meta_opt.optimizers.lstm import native
from meta_opt.saved.pretrained import pretrained_path
from meta_opt.saved.recipes import load_optimizer
from meta_opt_optimizees.digits_mlp import DigitsMlp
assert native.available()
optimizer = load_optimizer(pretrained_path("digits_mlp"))
print(*run_episodes(DigitsMlp(), optimizer, "test", 2, 3, seed=0).losses[-1].tolist())
"""


@pytest.mark.slow
@pytest.mark.skipif(platform.machine() != "x86_64", reason="the flags are those of x86-64")
@pytest.mark.skipif(shutil.which("c++") is None, reason="needs a compiler")
def test_other_processors_take_the_same_steps(tmp_path: Path) -> None:
    losses = []
    for compiler in ("c++", "c++ -mno-avx512f", "c++ -mno-avx512f -mno-avx2 -mno-avx -mno-fma"):
        environment = {**os.environ, "CXX": compiler, "TORCH_EXTENSIONS_DIR": str(tmp_path), "PYTHONPATH": str(ROOT)}
        done = subprocess.run([sys.executable, "-c", LOSSES], capture_output=True, text=True, env=environment)
        assert done.returncode == 0, done.stderr
        losses.append([float(loss) for loss in done.stdout.split()])
    assert len(list(tmp_path.rglob("*.so"))) == 3
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    assert losses[0] == pytest.approx(losses[2], rel=1e-4)
    assert all(0.0 < loss < 2.5 for loss in losses[0])
