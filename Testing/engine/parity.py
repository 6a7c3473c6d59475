"""Comparison with the TensorFlow reference, whose arrays are channels last and have no batch axis."""
from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

# Largest absolute errors allowed. TensorFlow and PyTorch sum float32 in different orders; a program written from the
# specification alone reached a tenth of the first two.
MATRIX = 5e-4
FIELD = 1e-3  # voxels
BLOCK = 1e-5


def volume(array: np.ndarray) -> Tensor:
    """(X, Y, Z) or (X, Y, Z, C) to (1, C, X, Y, Z) float32."""
    array = array[..., None] if array.ndim == 3 else array
    return torch.from_numpy(np.ascontiguousarray(np.moveaxis(array, -1, 0)))[None].float()


def matrix(array: np.ndarray) -> Tensor:
    """(3, 4) or (4, 4) to (4, 4) float64."""
    full = np.eye(4)
    full[: len(array)] = array
    return torch.from_numpy(full)


def agree(found: Tensor, expected: np.ndarray, tolerance: float) -> float:
    """Assert that two volumes or matrices agree, and return the largest error; printed with ``pytest -rP``."""
    array = found.detach().double().cpu().numpy()
    if array.ndim == 5:
        array = np.moveaxis(array[0], 0, -1)
        array = array[..., 0] if expected.ndim == 3 else array
    elif expected.shape == (3, 4):
        array = array[:3]
    assert array.shape == expected.shape
    assert np.isfinite(array).all()
    error = float(np.abs(array - expected).max())
    print(f"largest error {error:.1e}, allowed {tolerance:.0e}")
    assert error <= tolerance
    return error
