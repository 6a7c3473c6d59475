"""How alike two images are, with the direction in which a displacement makes them more alike.

For warps, the squared local correlation in tones that suit both images; for rigid motions, mutual information. Both are
symmetric in the images. Images and fields have the shapes of :mod:`.spatial`; all functions work on the CPU as fast as
PyTorch allows for so few channels.
"""
from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from . import spatial
from .tones import FOREGROUND, Relation, between, both_show, common, toned

RADIUS = 2  # of the correlation window, voxels
FLOOR = 1e-4  # variance below which a window counts as empty
# Of images of one contrast: weight of the differences of their tones; at which share of the variance they count fully,
# and from which on for nothing (4-mm images of two people: 0.04 to 0.06 from one scanner, 0.08 and more from two, or
# with noise, a bias field or a part missing); and how unlike one tissue can look.
PULL, FAMILIAR, STRANGE, SAME = 4.0, 0.06, 0.12, 0.15


class LocalCorrelation:
    """Mean squared correlation in small windows (Avants et al., MedIA 2008), of images with unlike contrasts.

    Within a window the contrast may be scaled or inverted. What is bright, dark and bright again in one image only, as
    fluid, white and grey matter may be, needs more: a curve that gives one image the tones of the other. Such a curve
    loses tissues that the image to be changed shows and the other does not, and one does not know which of the two that
    is; so both are changed, and both correlations count.

    Two images of one contrast meet in common tones, so one correlation is enough. The more nearly these tones agree,
    the more their differences count, too: a window's correlation does not tell fluid from white matter, they do.
    """

    HALO = 2 * RADIUS  # voxels on either side that the result depends on: windows of what is found in windows

    def __init__(self, moving: Tensor, fixed: Tensor, relation: Relation, inside: Tensor) -> None:
        """
        Args:
            moving, fixed: (1, 1, X, Y, Z) on one grid.
            relation: of their tones.
            inside: mask (1, 1, X, Y, Z) of what is to be compared.
        """
        self.inside = inside
        self.variance, self.pull = max(relation.variance, 1e-6), 0.0
        if relation.rising:
            self.moving, self.fixed = common(moving, relation.to_fixed), common(fixed, relation.to_moving)
            share = relation.difference / self.variance
            self.pull = PULL / self.variance * fading(share, FAMILIAR, STRANGE)
        else:  # both versions in one volume, which is sampled as fast as one of them
            self.moving = torch.cat([toned(moving, relation.to_fixed), moving], 1)
            self.fixed = torch.cat([fixed, toned(fixed, relation.to_moving)], 1)

    def ascent(self, forward: Tensor, backward: Tensor, first: Sequence[int]) -> tuple[Tensor, Tensor, Tensor]:
        """Values for displaced images, and the direction in which they grow.

        Args:
            forward, backward: (1, 3, x, y, z) displacements with which the moving and the fixed image are sampled in
                a box of their grid.
            first: index of its first voxel.

        Returns:
            Local correlation at each voxel in [0, 1] and its weight, (1, 1, x, y, z); and (1, 3, x, y, z): the
            direction, derivative by ``forward`` minus that by ``backward``, up to a constant factor.
        """
        moving, fixed = (spatial.warp(image, d, "quick", first=first)
                         for image, d in ((self.moving, forward), (self.fixed, backward)))
        i, j, k = (slice(a, a + n) for a, n in zip(first, moving.shape[2:], strict=True))
        mask = foreground(moving[:, -1:], fixed[:, :1]) * self.inside[..., i, j, k]
        values, direction = torch.zeros_like(mask), torch.zeros_like(forward)
        pairs = list(zip(moving.split(1, 1), fixed.split(1, 1), strict=True))
        for m, f in pairs:
            value, by_moving, by_fixed = local_correlation(m, f, mask)
            if self.pull:
                pull = self._pull(m, f, mask)
                by_moving, by_fixed = by_moving + pull, by_fixed - pull
            values += value / len(pairs)
            direction += by_moving * gradient(m) - by_fixed * gradient(f)
        return values, mask, direction

    def _pull(self, moving: Tensor, fixed: Tensor, mask: Tensor) -> Tensor:
        """What the moving image's intensities lack; nothing where they differ too much to be the same tissue."""
        lack = fixed - moving
        likely = torch.exp(lack.square() / (-2 * SAME * self.variance))
        return self.pull * lack * likely * both_show(moving, fixed) * mask


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
        """The measure of displaced images, and its derivative by ``forward`` minus that by ``backward``."""
        moving, fixed = (spatial.warp(image, d) for image, d in zip(self.images, (forward, backward), strict=True))
        value, by_moving, by_fixed = self._information(moving, fixed)
        return value, by_moving * gradient(moving) - by_fixed * gradient(fixed)

    def _information(self, moving: Tensor, fixed: Tensor) -> tuple[float, Tensor, Tensor]:
        """The measure, at least 1, and its derivatives by both images' intensities."""
        bins, weight = self.BINS, self.inside / self.inside.sum().clamp(min=1)
        (i, u), (j, v) = (between(image, bins) for image in (moving, fixed))
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


def fading(value: float, start: float, end: float) -> float:
    """One up to ``start``, zero from ``end`` on, and linear in between."""
    return min(1.0, max(0.0, (end - value) / (end - start)))


def foreground(moving: Tensor, fixed: Tensor) -> Tensor:
    """One where either image shows something, (1, 1, X, Y, Z)."""
    return ((moving > FOREGROUND) | (fixed > FOREGROUND)).float()


def box(image: Tensor, radius: int = RADIUS) -> Tensor:
    """Mean over a cube of ``2 radius + 1`` voxels, zero outside."""
    total = F.pad(image, [radius] * 6)
    for axis in (4, 3, 2):
        n = total.shape[axis] - 2 * radius
        pairs = total.narrow(axis, 0, n + 2 * radius - 1) + total.narrow(axis, 1, n + 2 * radius - 1)
        total = pairs.narrow(axis, 0, n) + total.narrow(axis, 2 * radius, n)
        for k in range(1, radius):
            total.add_(pairs.narrow(axis, 2 * k, n))
    return total.mul_(1 / (2 * radius + 1) ** 3)


def local_correlation(moving: Tensor, fixed: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Squared local correlation and the derivatives of its sum by both images' intensities.

    Args:
        moving, fixed: (1, 1, X, Y, Z).
        mask: (1, 1, X, Y, Z), weight of each window.

    Returns:
        The correlation times the mask, and two derivatives, (1, 1, X, Y, Z).
    """
    m, f = box(moving), box(fixed)
    covariance = box(moving * fixed) - m * f
    vm = (box(moving * moving) - m * m).clamp(min=0) + FLOOR
    vf = (box(fixed * fixed) - f * f).clamp(min=0) + FLOOR
    correlation = covariance.square() / (vm * vf)
    a = mask * 2 * covariance / (vm * vf)
    bm, bf = mask * 2 * correlation / vm, mask * 2 * correlation / vf
    shared = box(a)
    by_moving = fixed * shared - moving * box(bm) - box(a * f - bm * m)
    by_fixed = moving * shared - fixed * box(bf) - box(a * m - bf * f)
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
