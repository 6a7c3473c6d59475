"""Residual fields: the Jacobian determinant that decides where they fold."""
from __future__ import annotations

import torch
from synthmorph_torch import spatial
from synthmorph_torch.residual import smallest_determinant


def test_a_linear_map_has_one_determinant():
    linear = torch.eye(4, dtype=torch.float64)
    linear[:3, :3] += 0.3 * torch.randn(3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    found = smallest_determinant(spatial.affine_field(linear, (7, 6, 5)))[0, 1:-1, 1:-1, 1:-1]
    expected = torch.full_like(found, float(torch.linalg.det(linear[:3, :3])))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_a_fold_between_neighbours_is_seen():
    field = torch.zeros(1, 3, 9, 9, 9)
    field[:, 0, 4] = 1.5  # the plane passes the next one, and those on its two sides stay
    assert spatial.jacobian_determinant(field).min() > 0
    assert smallest_determinant(field).min() < 0
