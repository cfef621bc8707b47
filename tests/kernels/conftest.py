"""The kernel under test; built here if no other test has."""

import pytest

from meta_opt import kernels


@pytest.fixture(scope="session")
def kernel() -> kernels.Kernel:
    loaded = kernels.load()
    if loaded is None:
        pytest.skip("this machine cannot build the native kernel")
    return loaded
