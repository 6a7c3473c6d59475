"""What surrounds the networks of the compact model: robust fits, looking again, lambda."""
from __future__ import annotations

import pytest
import torch
from synthmorph_torch import matrices, spatial
from synthmorph_torch.models import agreement, feature_velocity, rigid_about, robust_affine
from synthmorph_torch.networks import HyperUNet, Widths

WIDTHS = Widths(8, (8, 8), (8, 8), (8,), 3)


@pytest.fixture
def points():
    torch.manual_seed(0)
    fixed = 40 * torch.randn(1, 20, 3, dtype=torch.float64)
    shift, angles, scales, shears = (torch.tensor(v, dtype=torch.float64) for v in
                                     ((5, -3, 8), (10, -5, 20), (1.1, 0.9, 1.05), (0.05, 0, 0.02)))
    truth = matrices.recompose(shift, angles, scales, shears)
    moving = spatial.transform_points(truth, fixed.transpose(1, 2)).transpose(1, 2)
    return moving, fixed, truth


def test_structures_that_are_far_off_get_no_say(points):
    moving, fixed, truth = points
    moving = moving.clone()
    moving[0, :3] += 60.0
    found = robust_affine(moving, fixed, torch.ones(1, 20).double(), 4.0)
    assert float((found - truth).abs().max()) < 0.2
    careless = matrices.symmetric_affine(moving, fixed, torch.ones(1, 20))[0]
    assert float((careless - truth).abs().max()) > 2


def test_swapped_points_give_the_inverse_to_the_last_digit(points):
    moving, fixed, _ = points
    moving = moving + 3 * torch.randn_like(moving)
    weights = torch.rand(1, 20).double()
    there, back = robust_affine(moving, fixed, weights, 4.0), robust_affine(fixed, moving, weights, 4.0)
    assert torch.allclose(there @ back, torch.eye(4).double(), atol=1e-10)


def test_a_structure_that_one_image_lacks_does_not_count():
    full, cut = torch.tensor([[2.0, 0.5, 1.0]]), torch.tensor([[2.0, 0.5, 0.0]])
    weights = agreement(full, cut)
    assert weights[0, 0] == 1 and weights[0, 1] == 0.5 and weights[0, 2] == 0


def test_rigid_part_keeps_a_point_where_it_went(points):
    *_, truth = points
    point = torch.tensor([10.0, 20.0, -30.0], dtype=torch.float64)
    rigid = rigid_about(truth, point)
    where = [m[:3, :3] @ point + m[:3, 3] for m in (rigid, truth)]
    assert torch.allclose(*where) and torch.allclose(rigid[:3, :3] @ rigid[:3, :3].T, torch.eye(3).double())


def test_further_passes_keep_the_antisymmetry_and_add_something():
    torch.manual_seed(0)
    network = HyperUNet(WIDTHS, (2,)).requires_grad_(False)
    moving, fixed = torch.rand(1, 4, 16, 16, 24), torch.rand(1, 4, 16, 16, 24)
    one, three = (feature_velocity(moving, fixed, WIDTHS, network.bake(0.5), passes) for passes in (1, 3))
    swapped = feature_velocity(fixed, moving, WIDTHS, network.bake(0.5), 3)
    assert torch.allclose(three, -swapped, atol=1e-5)
    assert not torch.allclose(three, one, atol=1e-3)
