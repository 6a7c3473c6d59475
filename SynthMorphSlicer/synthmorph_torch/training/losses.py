"""Training losses: label overlap, feature-map supervision, smoothness and image similarity."""
from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from .. import spatial

FLOOR = 1e-4  # variance of intensities that is lost in noise


def overlap_loss(moving: Tensor, fixed: Tensor, displacement: Tensor, classes: int) -> Tensor:
    """1 - mean soft Dice of the moving labels under a displacement with the fixed labels (paper, eq. 5).

    Equivalent to warping one-hot maps linearly, but without making any: the eight neighbours of each sampled point
    vote with their trilinear weights, and votes are summed per label. Cost does not grow with the number of labels.

    Args:
        moving, fixed: (N, X, Y, Z) int64 in 0..classes; the last value, ``classes``, is ignored.
        displacement: (N, 3, X, Y, Z) in voxels, sampling the moving labels.
        classes: number of labels compared.
    """
    batch, shape = len(moving), moving.shape[1:]
    points = spatial.identity_grid(shape, displacement.device) + displacement
    offset = torch.arange(batch, device=moving.device).view(-1, 1) * (classes + 1)
    fixed_index = fixed.flatten(1) + offset
    hits = torch.zeros_like(fixed_index, dtype=torch.float32)
    votes = hits.new_zeros(batch * (classes + 1))
    for label, weight in _neighbours(moving, points):
        hits = hits + weight * (label == fixed.flatten(1))
        votes = votes.index_add(0, (label + offset).flatten(), weight.flatten())
    common = torch.zeros_like(votes).index_add(0, fixed_index.flatten(), hits.flatten())
    volume = torch.bincount(fixed_index.flatten(), minlength=len(votes)).to(votes)
    dice = 2 * common / (votes + volume).clamp(min=1)
    present = (volume > 0).view(batch, -1)[:, :classes]
    return 1 - (dice.view(batch, -1)[:, :classes] * present).sum() / present.sum().clamp(min=1)


def _neighbours(labels: Tensor, points: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Label and trilinear weight, each (N, V), of the eight voxels around every point, clamped at the edges."""
    size = points.new_tensor(labels.shape[1:]).view(1, 3, 1, 1, 1)
    points = torch.minimum(points.clamp(min=0), size - 1)
    low = torch.minimum(points.detach().floor(), (size - 2).clamp(min=0))
    high_weight = points - low
    low_index = low.long()
    _, ny, nz = labels.shape[1:]
    flat = labels.flatten(1)
    for corner in range(8):
        bits = [(corner >> axis) & 1 for axis in range(3)]
        x, y, z = (low_index[:, axis] + bits[axis] for axis in range(3))
        weight = torch.ones((), device=points.device)
        for axis, bit in enumerate(bits):
            weight = weight * (high_weight[:, axis] if bit else 1 - high_weight[:, axis])
        yield flat.gather(1, ((x * ny + y) * nz + z).flatten(1)), weight.flatten(1)


def smoothness_loss(displacement: Tensor) -> Tensor:
    """Mean squared spatial gradient of a displacement field, in voxels per voxel (paper, eq. 6)."""
    return torch.stack([displacement.diff(dim=axis).square().mean() for axis in (2, 3, 4)]).mean()


def soft_targets(structures: Tensor, classes: int, factor: int) -> Tensor:
    """Fraction of every class in blocks of ``factor``^3 voxels.

    Args:
        structures: (N, X, Y, Z) int64 in 0..classes - 1.

    Returns:
        (N, classes, X / factor, Y / factor, Z / factor) float32, summing to one.
    """
    n, x, y, z = structures.shape
    cx, cy, cz = x // factor, y // factor, z // factor
    block = torch.arange(n * cx * cy * cz, device=structures.device).view(n, cx, cy, cz)
    for axis in (1, 2, 3):
        block = block.repeat_interleave(factor, axis)
    index = block * classes + structures
    counts = torch.bincount(index.flatten(), minlength=n * cx * cy * cz * classes)
    return counts.view(n, cx, cy, cz, classes).permute(0, 4, 1, 2, 3).float() / factor**3


def feature_loss(logits: Tensor, targets: Tensor, spacing: float) -> tuple[Tensor, Tensor]:
    """Supervise detector maps: cross-entropy, soft Dice and barycentre error.

    Args:
        logits: (N, M + 1, x, y, z), the last map meaning "none of these".
        targets: same shape, class fractions.
        spacing: voxel size of these maps in millimetres.

    Returns:
        The loss and, detached, the mean barycentre error in millimetres.
    """
    logits = logits.float()
    probabilities = logits.softmax(1)
    entropy = -(targets * logits.log_softmax(1)).sum(1).mean()
    p, t = probabilities[:, :-1], targets[:, :-1]
    mass = t.sum(dim=(2, 3, 4))
    dice = 2 * (p * t).sum(dim=(2, 3, 4)) / (p.square() + t.square()).sum(dim=(2, 3, 4)).clamp(min=1e-3)
    present = mass > 0.3
    shape = logits.shape[2:]
    distance = spacing * (spatial.barycentres(p, shape) - spatial.barycentres(t, shape)).norm(dim=-1)
    error = distance[present].mean()
    return 3 * entropy + (1 - dice[present].mean()) + 0.03 * error, error.detach()


def segmentation_loss(logits: Tensor, structures: Tensor, spacing: float) -> tuple[Tensor, Tensor, Tensor]:
    """Supervise maps that are as fine as the labels: cross-entropy, soft Dice and barycentre error.

    Args:
        logits: (N, M + 1, X, Y, Z), the last map meaning "none of these".
        structures: (N, X, Y, Z) int64 in 0..M.
        spacing: voxel size in millimetres.

    Returns:
        The loss and, detached, the mean barycentre error in millimetres and the mean soft Dice.
    """
    n, classes, shape = len(logits), logits.shape[1], logits.shape[2:]
    # classes last: every sum over voxels below is then one pass through contiguous memory
    log = logits.permute(0, 2, 3, 4, 1).reshape(n, -1, classes).float().log_softmax(-1)
    p, index = log.exp(), structures.flatten(1)
    entropy = -log.gather(2, index[..., None]).mean()
    hits = p.gather(2, index[..., None])[..., 0]
    common = torch.zeros_like(p[:, 0]).scatter_add(1, index, hits)
    volume = torch.zeros_like(common).scatter_add(1, index, torch.ones_like(hits))
    dice = 2 * common / (torch.linalg.vector_norm(p, dim=1).square() + volume).clamp(min=1e-3)
    positions = [(torch.arange(k, device=p.device) - (k - 1) / 2) * spacing for k in shape]
    basis = torch.stack([torch.ones(shape, device=p.device), *torch.meshgrid(*positions, indexing="ij")]).flatten(1)
    moments = basis @ p
    mass, found = moments[:, :1], moments[:, 1:]
    truth = torch.zeros_like(found).scatter_add(2, index[:, None].expand(-1, 3, -1), basis[1:].expand(n, -1, -1))
    distance = (found / mass.clamp(min=1e-3) - truth / volume[:, None].clamp(min=1)).norm(dim=1)
    present = volume > 3
    present[:, -1] = False
    error = distance[present].mean()
    overlap = dice[present].mean()
    return 3 * entropy + 1 - overlap + 0.03 * error, error.detach(), overlap.detach()


def correlation_loss(moving: Tensor, fixed: Tensor, radius: int = 3) -> Tensor:
    """1 - mean squared local correlation coefficient of two images (N, 1, X, Y, Z), as in VoxelMorph.

    The mean runs over cubes of ``2 radius + 1`` voxels that are not empty in both images: background would only
    dilute it. Intensities are in [0, 1]; contrast far below ``FLOOR`` counts as noise.
    """
    m, f = _window_mean(moving, radius), _window_mean(fixed, radius)
    covariance = _window_mean(moving * fixed, radius) - m * f
    variances = [(_window_mean(x * x, radius) - mean * mean).clamp(min=0) for x, mean in ((moving, m), (fixed, f))]
    correlation = covariance.square() / ((variances[0] + FLOOR) * (variances[1] + FLOOR))
    filled = (variances[0] + variances[1] > FLOOR).detach()
    return 1 - (correlation * filled).sum() / filled.sum().clamp(min=1)


def _window_mean(image: Tensor, radius: int) -> Tensor:
    """Mean over cubes, one axis after the other."""
    for axis in range(3):
        window, padding = [1, 1, 1], [0, 0, 0]
        window[axis], padding[axis] = 2 * radius + 1, radius
        image = F.avg_pool3d(image, window, 1, padding, count_include_pad=False)
    return image


def squared_difference_loss(moving: Tensor, fixed: Tensor) -> Tensor:
    """Mean squared difference of two images (N, 1, X, Y, Z) in [0, 1], as in VoxelMorph."""
    return (moving - fixed).square().mean()
