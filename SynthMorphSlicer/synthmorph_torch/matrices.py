"""Affine matrices: fits to points, decompositions and roots.

A matrix has shape (4, 4) or (N, 4, 4) and acts on column vectors. All is computed in float64.
"""
from __future__ import annotations

import contextlib
import math

import torch
from torch import Tensor


def homogeneous(matrix: Tensor) -> Tensor:
    """Append the row (0, 0, 0, 1) to a (..., 3, 4) matrix; a (..., 4, 4) matrix passes unchanged."""
    if matrix.shape[-2] == 4:
        return matrix
    row = matrix.new_tensor([0.0, 0.0, 0.0, 1.0]).expand(*matrix.shape[:-2], 1, 4)
    return torch.cat([matrix, row], dim=-2)


def fit_affine(source: Tensor, target: Tensor, weights: Tensor) -> Tensor:
    """Weighted least-squares matrix with ``source ~ M @ [target; 1]`` (SPEC 2.4).

    Args:
        source, target: (N, M, 3) corresponding points.
        weights: (N, M), non-negative.

    Returns:
        (N, 4, 4) float64.
    """
    source, target, weights = source.double(), target.double(), weights.double()
    rows = torch.cat([target, torch.ones_like(target[..., :1])], -1)
    weighted = rows.transpose(1, 2) * weights[:, None]
    return homogeneous(torch.linalg.solve(weighted @ rows, weighted @ source).transpose(1, 2))


def symmetric_affine(moving: Tensor, fixed: Tensor, weights: Tensor) -> Tensor:
    """Matrix that maps fixed to moving points, averaged with the inverse of the opposite fit (SPEC 2.4)."""
    forward, backward = fit_affine(moving, fixed, weights), fit_affine(fixed, moving, weights)
    return (forward + torch.linalg.inv(backward)) / 2


def decompose(matrix: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Split an affine matrix into translation, angles (degrees), scales and shears (SPEC 2.5), three values each."""
    matrix = homogeneous(matrix).double()
    linear = matrix[:3, :3]
    lower = torch.linalg.cholesky(linear.T @ linear)
    scales = lower.diagonal().clone()
    scales[0] = scales[0] * torch.sign(torch.linalg.det(linear))
    upper = lower.T / scales[:, None]
    shears = torch.stack([upper[0, 1], upper[0, 2], upper[1, 2]])
    rotation = linear @ torch.linalg.inv(scales[:, None] * _shear_matrix(shears))
    return matrix[:3, 3], torch.rad2deg(_angles(rotation)), scales, shears


def recompose(translation: Tensor, angles: Tensor, scales: Tensor, shears: Tensor) -> Tensor:
    """Inverse of :func:`decompose`: the (4, 4) matrix ``T R S E``."""
    linear = _rotation_matrix(torch.deg2rad(angles)) @ (scales[:, None] * _shear_matrix(shears))
    return homogeneous(torch.cat([linear, translation[:, None]], dim=1))


def rigid_part(matrix: Tensor) -> Tensor:
    """The (4, 4) matrix with scale and shear removed and the translation kept (SPEC 2.5)."""
    translation, angles, _, _ = decompose(matrix)
    one = torch.ones(3, dtype=translation.dtype, device=translation.device)
    return recompose(translation, angles, one, torch.zeros_like(one))


def _shear_matrix(shears: Tensor) -> Tensor:
    matrix = torch.eye(3, dtype=shears.dtype, device=shears.device)
    matrix[0, 1], matrix[0, 2], matrix[1, 2] = shears
    return matrix


def _angles(rotation: Tensor) -> Tensor:
    """Angles a, b, c (radians) of ``Rx(a) Ry(b) Rz(c)``, with a = 0 at gimbal lock."""
    b = torch.asin(rotation[0, 2].clamp(-1, 1))
    if abs(abs(float(b)) - math.pi / 2) < 1e-6:
        return torch.stack([torch.zeros_like(b), b, torch.atan2(rotation[1, 0], rotation[1, 1])])
    return torch.stack([torch.atan2(-rotation[1, 2], rotation[2, 2]), b, torch.atan2(-rotation[0, 1], rotation[0, 0])])


def _rotation_matrix(angles: Tensor) -> Tensor:
    (ca, cb, cc), (sa, sb, sc) = torch.cos(angles), torch.sin(angles)
    zero, one = torch.zeros_like(ca), torch.ones_like(ca)
    x = torch.stack([one, zero, zero, zero, ca, -sa, zero, sa, ca]).view(3, 3)
    y = torch.stack([cb, zero, sb, zero, one, zero, -sb, zero, cb]).view(3, 3)
    z = torch.stack([cc, -sc, zero, sc, cc, zero, zero, zero, one]).view(3, 3)
    return x @ y @ z


def sqrtm(matrix: Tensor) -> Tensor:
    """Principal square root of an affine (4, 4) matrix, float64 (SPEC 2.6).

    Denman-Beavers iteration on the linear part; the translation follows from ``(B + I)^-1 t``. An
    eigen-decomposition of the whole matrix would be defective for rigid transforms.

    Raises:
        ValueError: the linear part has no real principal root (a flip, or a half-turn).
    """
    matrix = homogeneous(matrix).double()
    linear, translation = matrix[:3, :3], matrix[:3, 3]
    eye = torch.eye(3, dtype=torch.float64, device=matrix.device)
    root, inverse = linear, eye
    with contextlib.suppress(torch.linalg.LinAlgError):  # an iterate is singular: the check below fails
        for _ in range(30):
            root, inverse = (root + torch.linalg.inv(inverse)) / 2, (inverse + torch.linalg.inv(root)) / 2
    if not torch.allclose(root @ root, linear, atol=1e-6, rtol=1e-6):
        raise ValueError("The affine transform has no real square root: it flips the image or turns it by half a turn.")
    half = torch.linalg.solve(root + eye, translation)
    return homogeneous(torch.cat([root, half[:, None]], dim=1))
