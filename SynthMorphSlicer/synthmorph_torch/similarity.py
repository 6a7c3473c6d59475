"""How alike two images are, with the direction in which a displacement makes them more alike.

For warps, the squared local correlation where one contrast resembles the other or its inverse, and the difference of
self-similarity descriptors where it does not; for rigid motions, mutual information. All are symmetric in the images.
Images and fields have the shapes of :mod:`.spatial`; all functions work on the CPU as fast as PyTorch allows for so
few channels.
"""
from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from . import spatial

RADIUS = 2  # of the correlation window, voxels
FLOOR = 1e-4  # variance below which a window counts as empty
FOREGROUND = 0.02  # intensity above which a voxel counts
# Mean squared local correlation at 4 mm above which two contrasts count as one, or one as the inverse of the other:
# real T1 pairs of two people reach 0.33 to 0.41, inverted 0.27 to 0.33, T2-like 0.21 to 0.31, FLAIR-like 0.12.
ALIKE = 0.17


class Similarity(Protocol):
    """A measure for warps, prepared for two images (1, 1, X, Y, Z) on one grid.

    ``inside`` is a mask (1, 1, X, Y, Z) of what is to be compared, ``radius`` that of the windows of a correlation.
    """

    halo: int  # voxels on either side that the value and the direction of one depend on

    def __init__(self, moving: Tensor, fixed: Tensor, inside: Tensor, radius: int = RADIUS) -> None: ...

    def ascent(self, forward: Tensor, backward: Tensor, first: Sequence[int]) -> tuple[Tensor, Tensor, Tensor]:
        """Values for displaced images, and the direction in which they grow.

        Args:
            forward, backward: (1, 3, x, y, z) displacements with which the moving and the fixed image are sampled in
                a box of their grid.
            first: index of its first voxel.

        Returns:
            Value of each voxel, higher where the images are more alike, and its weight, (1, 1, x, y, z); and
            (1, 3, x, y, z): derivative of their sum by ``forward`` minus that by ``backward``, up to a constant factor.
        """


class LocalCorrelation:
    """Mean squared correlation in small windows; the contrast may be inverted (Avants et al., MedIA 2008)."""

    def __init__(self, moving: Tensor, fixed: Tensor, inside: Tensor, radius: int = RADIUS) -> None:
        self.images, self.inside, self.radius = (moving, fixed), inside, radius
        self.halo = 2 * radius  # windows of what is found in windows

    def ascent(self, forward: Tensor, backward: Tensor, first: Sequence[int]) -> tuple[Tensor, Tensor, Tensor]:
        moving, fixed = (spatial.warp(image, d, first=first)
                         for image, d in zip(self.images, (forward, backward), strict=True))
        mask = foreground(moving, fixed) * _part(self.inside, first, moving.shape)
        values, by_moving, by_fixed = local_correlation(moving, fixed, mask, self.radius)
        return values, mask, by_moving * gradient(moving) - by_fixed * gradient(fixed)


class SelfSimilarity:
    """Difference of MIND-SSC descriptors, which do not depend on contrast (Heinrich et al., MICCAI 2013).

    Descriptors are computed once and sampled like images, as in ConvexAdam.
    """

    halo = 1  # slopes

    def __init__(self, moving: Tensor, fixed: Tensor, inside: Tensor, radius: int = RADIUS) -> None:
        # the size of the descriptors is their own: ``radius`` is that of windows of correlation
        self.inside = inside
        self.features = tuple(torch.cat([mind_ssc(image), image], 1) for image in (moving, fixed))

    def ascent(self, forward: Tensor, backward: Tensor, first: Sequence[int]) -> tuple[Tensor, Tensor, Tensor]:
        sampled = [spatial.warp(f, d, first=first) for f, d in zip(self.features, (forward, backward), strict=True)]
        (moving, m), (fixed, f) = ((s[:, :-1], s[:, -1:]) for s in sampled)
        mask = foreground(m, f) * _part(self.inside, first, m.shape)
        difference = (moving - fixed) * mask
        direction = torch.zeros_like(forward)
        for channel in range(moving.shape[1]):  # one at a time: all twelve gradients at once would not fit the cache
            slope = gradient(moving[:, channel:channel + 1]) + gradient(fixed[:, channel:channel + 1])
            direction -= difference[:, channel:channel + 1] * slope
        return -difference.square().mean(1, keepdim=True), mask, direction


def _part(mask: Tensor, first: Sequence[int], shape: Sequence[int]) -> Tensor:
    """A box of a mask (1, 1, X, Y, Z), for the shape (1, 1, x, y, z)."""
    i, j, k = (slice(a, a + n) for a, n in zip(first, shape[2:], strict=True))
    return mask[..., i, j, k]


class MutualInformation:
    """Normalised mutual information of the intensities (Studholme et al., Pattern Recognition 1999).

    One relation between the contrasts holds for the whole image, whatever it is: too little for a warp, and just right
    for a rigid motion. Intensities share their counts linearly between two bins, so the measure has a slope.
    """

    BINS = 32

    def __init__(self, moving: Tensor, fixed: Tensor, inside: Tensor) -> None:
        self.inside = inside
        self.images = [self._in_bins(image) for image in (moving, fixed)]

    def _in_bins(self, image: Tensor) -> Tensor:
        """The image in units of bins, the darkest and brightest half per cent aside."""
        values = image[self.inside > 0.5].sort().values
        if not len(values):
            return torch.zeros_like(image)
        low, high = values[len(values) // 200], values[-1 - len(values) // 200]
        return (image - low) * (self.BINS - 1) / (high - low).clamp(min=1e-6)

    def ascent(self, forward: Tensor, backward: Tensor) -> tuple[float, Tensor]:
        """The measure of displaced images, and its derivative by ``forward`` minus that by ``backward``, as above."""
        moving, fixed = (spatial.warp(image, d) for image, d in zip(self.images, (forward, backward), strict=True))
        value, by_moving, by_fixed = self._information(moving, fixed)
        return value, by_moving * gradient(moving) - by_fixed * gradient(fixed)

    def _information(self, moving: Tensor, fixed: Tensor) -> tuple[float, Tensor, Tensor]:
        """The measure, at least 1, and its derivatives by both images' intensities."""
        bins, weight = self.BINS, self.inside / self.inside.sum().clamp(min=1)
        (i, u), (j, v) = (self._split(image) for image in (moving, fixed))
        corners = [((i + a) * bins + j + b, (u if a else 1 - u) * (v if b else 1 - v)) for a in (0, 1) for b in (0, 1)]
        joint = moving.new_zeros(bins * bins, dtype=torch.float64)
        for index, share in corners:
            joint.index_add_(0, index.flatten(), (weight * share).double().flatten())
        joint = joint.view(bins, bins).clamp(min=1e-12)
        rows, columns, log = joint.sum(1), joint.sum(0), joint.log()
        both = -(joint * log).sum()
        apart = -(rows * rows.log()).sum() - (columns * columns.log()).sum()
        slope = (apart / both * (log + 1) - rows.log()[:, None] - columns.log() - 2) / both
        slopes = [slope.float().flatten()[index] for index, _ in corners]
        by_moving = (1 - v) * (slopes[2] - slopes[0]) + v * (slopes[3] - slopes[1])
        by_fixed = (1 - u) * (slopes[1] - slopes[0]) + u * (slopes[3] - slopes[2])
        return float(apart / both), weight * by_moving, weight * by_fixed

    def _split(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """The lower of the two bins that an intensity belongs to, and the share of the upper one."""
        image = image.clamp(0, self.BINS - 1.001)
        low = image.floor()
        return low.long(), image - low


MEASURES: dict[str, type[Similarity]] = {"correlation": LocalCorrelation, "self-similarity": SelfSimilarity}


def choose(moving: Tensor, fixed: Tensor) -> str:
    """Name of the measure for two roughly aligned images: correlation if one looks like the other or its inverse."""
    m, f = box(moving), box(fixed)
    covariance = box(moving * fixed) - m * f
    vm, vf = ((box(i * i) - mean * mean).clamp(min=0) + FLOOR for i, mean in ((moving, m), (fixed, f)))
    inside = box(foreground(moving, fixed)) > 0.99  # the outline correlates in any contrast
    squared = float((covariance.square() / (vm * vf) * inside).sum() / inside.sum().clamp(min=1))
    return "correlation" if squared > ALIKE else "self-similarity"


def foreground(moving: Tensor, fixed: Tensor) -> Tensor:
    """One where either image shows something, (1, 1, X, Y, Z)."""
    return ((moving > FOREGROUND) | (fixed > FOREGROUND)).float()


def mind_ssc(image: Tensor, radius: int = 1) -> Tensor:
    """Self-similarity context of every voxel, (1, 12, X, Y, Z) in [0, 1].

    Squared differences between the twelve pairs of its face neighbours that lie at a right angle, averaged over a
    patch and scaled by their own mean: only the pattern remains, not the contrast.
    """
    around = [_shifted(image, axis, step) for axis in (2, 3, 4) for step in (1, -1)]
    pairs = [(a, b) for a in range(6) for b in range(a + 1, 6) if a // 2 != b // 2]
    distance = torch.cat([box((around[a] - around[b]).square(), radius) for a, b in pairs], 1)
    distance = distance - distance.amin(1, keepdim=True)
    noise = distance.mean(1, keepdim=True)
    typical = float(noise.mean())
    return torch.exp(-distance / noise.clamp(min=1e-3 * typical + 1e-12, max=1e3 * typical + 1e-12))


def _shifted(image: Tensor, axis: int, step: int) -> Tensor:
    """The image moved by one voxel along an axis, its edge repeated."""
    n = image.shape[axis]
    index = (torch.arange(n, device=image.device) + step).clamp(0, n - 1)
    return image.index_select(axis, index)


def box(image: Tensor, radius: int = RADIUS) -> Tensor:
    """Mean over a cube of ``2 radius + 1`` voxels, zero outside."""
    for axis in (2, 3, 4):
        n = image.shape[axis]
        total = image.clone()
        for k in range(1, radius + 1):
            total.narrow(axis, k, n - k).add_(image.narrow(axis, 0, n - k))
            total.narrow(axis, 0, n - k).add_(image.narrow(axis, k, n - k))
        image = total
    return image / (2 * radius + 1) ** 3


def local_correlation(moving: Tensor, fixed: Tensor, mask: Tensor, radius: int = RADIUS
                      ) -> tuple[Tensor, Tensor, Tensor]:
    """Squared local correlation and the derivatives of its sum by both images' intensities.

    Args:
        moving, fixed: (1, 1, X, Y, Z).
        mask: (1, 1, X, Y, Z), weight of each window.
        radius: the windows are cubes of ``2 radius + 1`` voxels.

    Returns:
        The correlation times the mask, and two derivatives, (1, 1, X, Y, Z).
    """
    mean = functools.partial(box, radius=radius)
    m, f = mean(moving), mean(fixed)
    covariance = mean(moving * fixed) - m * f
    vm = (mean(moving * moving) - m * m).clamp(min=0) + FLOOR
    vf = (mean(fixed * fixed) - f * f).clamp(min=0) + FLOOR
    correlation = covariance.square() / (vm * vf)
    a = mask * 2 * covariance / (vm * vf)
    bm, bf = mask * 2 * correlation / vm, mask * 2 * correlation / vf
    common = mean(a)
    by_moving = fixed * common - moving * mean(bm) - mean(a * f - bm * m)
    by_fixed = moving * common - fixed * mean(bf) - mean(a * m - bf * f)
    return correlation * mask, by_moving, by_fixed


def gradient(image: Tensor) -> Tensor:
    """Central differences of (1, 1, X, Y, Z) along its three axes, (1, 3, X, Y, Z)."""
    return torch.cat(torch.gradient(image, dim=(2, 3, 4)), dim=1)


def gaussian(image: Tensor, sigma: float) -> Tensor:
    """Separable Gaussian smoothing in voxels with the edge continued outwards.

    Shifted sums instead of a convolution: for few channels on a CPU they are ten times faster.
    """
    if sigma < 0.2:
        return image
    radius = max(1, round(2.5 * sigma))
    bell = torch.exp(-0.5 * (torch.arange(radius + 1) / sigma) ** 2)
    weights = (bell / (2 * bell.sum() - 1)).tolist()
    for axis in (2, 3, 4):
        n = image.shape[axis]
        pad = [0] * 6
        pad[2 * (4 - axis)] = pad[2 * (4 - axis) + 1] = radius
        padded = F.pad(image, pad, mode="replicate")
        smooth = image * weights[0]
        for k in range(1, radius + 1):
            smooth.add_(padded.narrow(axis, radius - k, n), alpha=weights[k])
            smooth.add_(padded.narrow(axis, radius + k, n), alpha=weights[k])
        image = smooth
    return image
