"""Plugins of other distributions, and the command line without a new process for every call."""

import importlib
import os
import shutil
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from meta_opt import cli, installed, registry
from meta_opt.cli import listing

os.environ["JSONARGPARSE_DEPRECATION_WARNINGS"] = "off"  # Lightning calls what jsonargparse deprecates
os.environ.setdefault("OMP_NUM_THREADS", "1")  # what tests compute is too small to share; waiting costs more


def pytest_collection_modifyitems(items):
    """Skip what needs a GPU where there is none."""
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="no GPU"))


@pytest.fixture(scope="session")
def plugin_folder(tmp_path_factory):
    """A folder that the plugin distribution is installed into, by pip."""
    source = tmp_path_factory.mktemp("source") / "distribution"
    shutil.copytree(Path(__file__).parent / "plugin_distribution", source)
    (source / "offered" / "syntax_error.py").write_text("def broken(:\n")
    target = tmp_path_factory.mktemp("installed")
    options = ["--quiet", "--no-index", "--no-deps", "--no-build-isolation", "--target", str(target)]
    subprocess.run([sys.executable, "-m", "pip", "install", *options, str(source)], check=True)
    rival = target / "rival-3.4.dist-info"  # claims a name that the first distribution claims
    rival.mkdir()
    (rival / "METADATA").write_text("Metadata-Version: 2.1\nName: rival\nVersion: 3.4\n")
    (rival / "entry_points.txt").write_text("[meta_opt.optimizees]\ncontested = offered.good:Bowl\n")
    return target


@pytest.fixture(scope="session")
def offering(plugin_folder):
    """A context with the distribution on the path."""

    @contextmanager
    def offer():
        with pytest.MonkeyPatch.context() as patch:
            patch.syspath_prepend(plugin_folder)
            _forget()
            yield
        _forget()

    return offer


@pytest.fixture
def plugins(offering):
    """The distribution, on the path."""
    with offering():
        yield


def _forget():
    importlib.invalidate_caches()
    for cached in (installed.installed, registry.plugins, listing._parse, listing._spec):
        cached.cache_clear()


@pytest.fixture
def meta_opt(capsys, tmp_path, monkeypatch):
    """Runs the command line in an empty folder; returns exit status, output and errors."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        capsys.readouterr()
        status = cli.main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return run


@pytest.fixture
def slurm(monkeypatch):
    """The environment of a job of one task, as srun starts it."""
    tells = {"JOB_ID": "77", "JOB_NAME": "train", "NTASKS": "1", "NNODES": "1", "STEP_ID": "0"}
    for name, value in {**tells, "PROCID": "0", "LOCALID": "0", "NODEID": "0"}.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
