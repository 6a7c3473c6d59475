"""Training losses against slow, explicit versions of themselves."""
from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from synthmorph_torch import spatial
from synthmorph_torch.training import losses

CLASSES = 4


def explicit_overlap(moving, fixed, displacement):
    """Soft Dice of one-hot maps, warped linearly one by one."""
    one_hot = [F.one_hot(x, CLASSES + 1).movedim(-1, 1).to(displacement.dtype) for x in (moving, fixed)]
    warped = spatial.warp(one_hot[0], displacement)
    common = (warped * one_hot[1]).sum(dim=(2, 3, 4))
    total = warped.sum(dim=(2, 3, 4)) + one_hot[1].sum(dim=(2, 3, 4))
    dice = (2 * common / total.clamp(min=1))[:, :CLASSES]
    present = one_hot[1].sum(dim=(2, 3, 4))[:, :CLASSES] > 0
    return 1 - dice[present].mean()


@pytest.fixture
def labels():
    torch.manual_seed(0)
    blocks = torch.randint(CLASSES + 1, (2, 2, 3, 4, 3))
    blocks[1, 1][blocks[1, 1] == 2] = 0  # a class that one of the fixed maps lacks
    big = blocks.repeat_interleave(3, 2).repeat_interleave(3, 3).repeat_interleave(3, 4)
    return big[0], big[1]


@pytest.mark.parametrize("size", [0.0, 0.7, 6.0])  # at 6 voxels many points leave the grid
def test_overlap_equals_one_hot_dice(labels, size):
    displacement = (size * torch.randn(2, 3, 9, 12, 9)).requires_grad_()
    fast, slow = losses.overlap_loss(*labels, displacement, CLASSES), explicit_overlap(*labels, displacement)
    assert float(fast.detach()) == pytest.approx(float(slow.detach()), abs=1e-5)
    if size:  # the gradient of linear interpolation jumps at voxel centres
        gradients = [torch.autograd.grad(loss, displacement)[0] for loss in (fast, slow)]
        assert gradients[1].abs().max() > 1e-5
        assert torch.allclose(*gradients, atol=1e-6)


def test_overlap_of_equals_is_perfect(labels):
    assert float(losses.overlap_loss(labels[0], labels[0], torch.zeros(2, 3, 9, 12, 9), CLASSES)) == pytest.approx(0)


def test_overlap_pulls_labels_together():
    moving, fixed = torch.zeros(2, 1, 8, 8, 8, dtype=torch.long).unbind()
    moving[:, 4:7, 2:6, 2:6] = fixed[:, 3:6, 2:6, 2:6] = 1
    displacement = torch.zeros(1, 3, 8, 8, 8) + 0.1
    displacement.requires_grad_()
    losses.overlap_loss(moving, fixed, displacement, 2).backward()
    assert displacement.grad[:, 0].sum() < 0  # descent increases the displacement along x


def test_smoothness_of_a_linear_field():
    field = spatial.identity_grid((5, 6, 7))[None] * torch.tensor([0.3, 0.0, 0.0]).view(1, 3, 1, 1, 1)
    assert float(losses.smoothness_loss(field)) == pytest.approx(0.3**2 / 9)  # one of nine derivatives


def test_soft_targets_are_block_means():
    structures = torch.randint(5, (2, 8, 4, 12))
    expected = F.avg_pool3d(F.one_hot(structures, 5).movedim(-1, 1).float(), 4)
    targets = losses.soft_targets(structures, 5, 4)
    assert torch.allclose(targets, expected, atol=1e-6)
    assert torch.allclose(targets.sum(1), torch.ones(2, 2, 1, 3))


def test_feature_loss_measures_barycentres_in_millimetres():
    structures = torch.full((1, 8, 8, 8), 2)
    structures[:, 2:4, 2:6, 2:6], structures[:, 5:7, 2:6, 2:6] = 0, 1
    target = losses.soft_targets(structures, 3, 1)
    perfect, error = losses.feature_loss(20 * target, target, 4.0)
    assert float(error) < 0.1
    shifted, error = losses.feature_loss(20 * target.roll(1, 3), target, 4.0)
    assert float(error) == pytest.approx(4.0, abs=0.1)
    assert shifted > perfect + 1


def test_correlation_ignores_contrast():
    torch.manual_seed(0)
    image = F.avg_pool3d(torch.rand(1, 1, 20, 20, 20), 3, 1, 1)
    image = (image - image.min()) / (image.max() - image.min())
    assert float(losses.correlation_loss(image, image)) < 0.05
    assert float(losses.correlation_loss(1 - image, image)) < 0.05
    assert float(losses.correlation_loss(torch.rand_like(image), image)) > 0.9


def test_correlation_looks_only_where_something_is():
    image = torch.zeros(1, 1, 24, 24, 24)
    image[..., 4:9, 4:9, 4:9] = torch.rand(5, 5, 5)
    assert float(losses.correlation_loss(image, image)) < 0.1
    assert float(losses.correlation_loss(torch.zeros_like(image), image)) == pytest.approx(1)


def test_squared_differences():
    assert float(losses.squared_difference_loss(torch.zeros(1, 1, 4, 4, 4), torch.full((1, 1, 4, 4, 4), 0.5))) == 0.25
