"""The native code under the address and undefined-behaviour sanitizers, without Python around it."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from meta_opt.optimizers.lstm.native import build

DRIVER = Path(__file__).with_name("sanitizers.cpp")
FLAGS = ["-std=c++17", "-O1", "-g", "-march=native", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]


def compiled(source: Path, made: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    compiler = os.environ.get("CXX", "c++").split()
    return subprocess.run([*compiler, *FLAGS, *flags, source, "-o", made], check=False, capture_output=True, text=True)


def ran(program: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "ASAN_OPTIONS": "detect_leaks=0", "OMP_NUM_THREADS": "3"}
    return subprocess.run([program], check=False, capture_output=True, text=True, env=environment)


@pytest.fixture(scope="module")
def _sanitizer(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Skips where a program that reads past its memory is not stopped."""
    folder = tmp_path_factory.mktemp("sanitizer")
    source = folder / "past.cpp"
    source.write_text("int main(int n, char**) { int* a = new int[n]; a[0] = n; return a[n]; }\n")
    try:
        made = compiled(source, folder / "past").returncode == 0
        stopped = made and "AddressSanitizer" in ran(folder / "past").stderr
    except FileNotFoundError:
        stopped = False
    if not stopped:
        pytest.skip("the compiler has no sanitizers")


@pytest.mark.slow
@pytest.mark.usefixtures("_sanitizer")
def test_steps_replays_and_scales_of_odd_shapes(tmp_path: Path) -> None:
    program = tmp_path / "sanitizers"
    made = compiled(DRIVER, program, "-fopenmp", f"-I{build.SOURCES[0].parent}")
    assert made.returncode == 0, made.stderr[-2000:]
    done = ran(program)
    assert done.returncode == 0, done.stderr[:4000]
    shapes = 6 * 2 * 2
    calls = 2 * shapes * (6 * 3 * 3 + 1)  # of float and double: inputs, networks and outputs, and scales
    assert done.stdout == f"{calls} of {calls}\n"
