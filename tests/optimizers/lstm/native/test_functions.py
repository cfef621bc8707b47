"""The kernel's sigmoid, tanh, log and exp against PyTorch's in double precision: the errors that functions.h states."""

import math

import pytest
import torch
from torch import Tensor

from meta_opt.optimizers.lstm.native import Kernel

FLOAT, DOUBLE = torch.float32, torch.float64
STATED = {("sigmoid", FLOAT): 1e-7, ("sigmoid", DOUBLE): 2.5e-16, ("log", FLOAT): 2e-7, ("log", DOUBLE): 4e-16}
STATED_RELATIVE = {FLOAT: 5e-7, DOUBLE: 1.5e-15}


def spread(dtype: torch.dtype, low: float, high: float) -> Tensor:
    """Numbers of all magnitudes from e^low to e^high."""
    exponents = torch.linspace(low, high, 200_001, dtype=DOUBLE)
    return exponents.exp().to(dtype)


@pytest.mark.parametrize("dtype", [FLOAT, DOUBLE])
def test_sigmoid(kernel: Kernel, dtype: torch.dtype) -> None:
    positive = spread(dtype, -20.0, 8.0)
    x = torch.cat([positive, -positive, torch.linspace(-40.0, 40.0, 400_001, dtype=dtype), torch.zeros(1, dtype=dtype)])
    error = (kernel.evaluate("sigmoid", x).double() - torch.sigmoid(x.double())).abs().max()
    assert error < STATED["sigmoid", dtype]


@pytest.mark.parametrize("dtype", [FLOAT, DOUBLE])
def test_tanh_keeps_the_digits_of_small_numbers(kernel: Kernel, dtype: torch.dtype) -> None:
    positive = spread(dtype, -60.0, 8.0)
    x = torch.cat([positive, -positive])
    exact = torch.tanh(x.double())
    assert ((kernel.evaluate("tanh", x).double() - exact) / exact).abs().max() < STATED_RELATIVE[dtype]
    assert kernel.evaluate("tanh", torch.zeros(3, dtype=dtype)).tolist() == [0.0, 0.0, 0.0]


@pytest.mark.parametrize("dtype", [FLOAT, DOUBLE])
def test_log(kernel: Kernel, dtype: torch.dtype) -> None:
    x = torch.cat([spread(dtype, -80.0, 88.0), torch.linspace(0.25, 4.0, 400_001, dtype=dtype)])
    exact = torch.log(x.double())
    error = (kernel.evaluate("log", x).double() - exact).abs() / exact.abs().clamp_min(1.0)
    assert error.max() < STATED["log", dtype]


@pytest.mark.parametrize("dtype", [FLOAT, DOUBLE])
def test_exp(kernel: Kernel, dtype: torch.dtype) -> None:
    x = torch.linspace(-10.0, 10.0, 400_001, dtype=dtype)
    exact = torch.exp(x.double())
    assert ((kernel.evaluate("exp", x).double() - exact) / exact).abs().max() < {FLOAT: 1e-6, DOUBLE: 2e-15}[dtype]


@pytest.mark.parametrize("dtype", [FLOAT, DOUBLE])
def test_the_ends(kernel: Kernel, dtype: torch.dtype) -> None:
    x = torch.tensor([1e30, -1e30, math.inf, -math.inf, math.nan], dtype=dtype)
    assert kernel.evaluate("sigmoid", x)[:4].tolist() == [1.0, 0.0, 1.0, 0.0]
    assert kernel.evaluate("tanh", x)[:4].tolist() == [1.0, -1.0, 1.0, -1.0]
    assert kernel.evaluate("log", x)[2] == math.inf
    assert kernel.evaluate("exp", x)[3] < 1e-37
    for function in ("sigmoid", "tanh", "log", "exp"):
        assert kernel.evaluate(function, x)[4].isnan()
        assert kernel.evaluate(function, -x)[4].isnan()
