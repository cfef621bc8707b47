"""The kernel under test; built here if no other test has."""

import pytest

from meta_opt.optimizers.lstm import native


@pytest.fixture(scope="session")
def kernel() -> native.Kernel:
    loaded = native.load()
    if loaded is None:
        pytest.skip("this machine cannot build the native kernel")
    return loaded
