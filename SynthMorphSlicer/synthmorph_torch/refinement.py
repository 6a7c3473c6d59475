"""Instance optimisation: improve a velocity field for the two images at hand.

The velocity field of the network is warm-started, not replaced: the transform stays ``exp(v)`` in the mid-space, so
it remains a diffeomorphism with the exact opposite ``exp(-v)``, and swapping the images changes its sign. Each
iteration warps both images half-way, takes the gradient of local similarity there and adds it, smoothed, to ``v``
(log-domain update to first order; Vercauteren et al., MICCAI 2008; smoothing as in Avants et al., MedIA 2008).
"""
from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from . import spatial
from .networks import MidSpace

HALF_STEPS = 4  # squarings of v / 2: its amplitude is a few voxels at most
RADIUS = 2  # of the correlation window, voxels
SAFE_DETERMINANT = 0.05  # smallest Jacobian determinant that a result may have
FOREGROUND = 0.02  # intensity above which a voxel counts
FLOOR = 1e-4  # variance below which a window counts as empty


@dataclass(frozen=True)
class Level:
    """One resolution of the optimisation: voxel sizes of images and field in millimetres, and share of iterations."""

    images: float
    field: float
    share: float


LEVELS = (Level(4.0, 6.0, 0.5), Level(2.0, 4.0, 0.5))
STEP = 0.5  # largest change of the velocity per iteration, image voxels
UPDATE_SIGMA, FIELD_SIGMA = 1.6, 0.5  # smoothing of updates and of the field at lambda 0.5, image voxels
PATIENCE, GAIN = 6, 2e-4  # stop when the similarity has risen by less than GAIN in PATIENCE iterations


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


def local_correlation(moving: Tensor, fixed: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mean squared local correlation and its derivatives by both images' intensities.

    Args:
        moving, fixed: (1, 1, X, Y, Z).
        mask: (1, 1, X, Y, Z), weight of each window.

    Returns:
        The mean over the mask (a scalar in [0, 1]) and two derivatives, exact up to that mean's constant factor.
    """
    m, f = box(moving), box(fixed)
    covariance = box(moving * fixed) - m * f
    vm = (box(moving * moving) - m * m).clamp(min=0) + FLOOR
    vf = (box(fixed * fixed) - f * f).clamp(min=0) + FLOOR
    correlation = covariance.square() / (vm * vf)
    a = mask * 2 * covariance / (vm * vf)
    bm, bf = mask * 2 * correlation / vm, mask * 2 * correlation / vf
    common = box(a)
    by_moving = fixed * common - moving * box(bm) - box(a * f - bm * m)
    by_fixed = moving * common - fixed * box(bf) - box(a * m - bf * f)
    return (correlation * mask).sum() / mask.sum().clamp(min=1), by_moving, by_fixed


def gradient(image: Tensor) -> Tensor:
    """Central differences of (1, 1, X, Y, Z) along its three axes, (1, 3, X, Y, Z)."""
    return torch.cat(torch.gradient(image, dim=(2, 3, 4)), dim=1)


def refine(moving: Tensor, fixed: Tensor, mid: MidSpace, spacing: float, iterations: int, regularization: float,
           progress: Callable[[float], None] | None = None) -> MidSpace:
    """Improve the velocity field of a mid-space by instance optimisation.

    Args:
        moving, fixed: network images (1, 1, N, N, N) in [0, 1].
        mid: the mid-space with the velocity to start from.
        spacing: voxel size of the mid-space grid in millimetres.
        iterations: in total; a level ends earlier when the similarity no longer rises.
        regularization: lambda in (0, 1); smooths the updates and the field.
        progress: called with the fraction done.

    Returns:
        The mid-space with a velocity whose similarity is no lower than before.
    """
    done = 0
    for level in LEVELS:
        count = round(level.share * iterations)
        if level.field > 2 * spacing:  # coarser than what the network says: its detail would be lost
            count = 0
        scene = Scene(moving, fixed, mid, spacing, level)

        def tell(k: int, done: int = done) -> None:
            if progress:
                progress((done + k) / iterations)

        mid = _ascend(scene, mid, count, regularization, tell) if count else mid
        done += count
    return unfolded(mid)


class Scene:
    """Both images on the mid-space at the resolution of one level.

    The velocity has a coarser grid than the images: it is smooth, and integrating it costs more than looking at them.
    """

    def __init__(self, moving: Tensor, fixed: Tensor, mid: MidSpace, spacing: float, level: Level) -> None:
        factor = level.images / spacing
        self.shape = [round(n / factor) for n in mid.shape]
        self.field_shape = [round(n * spacing / max(level.field, spacing)) for n in mid.shape]
        self.voxel = self.field_shape[0] / self.shape[0]  # an image voxel in field voxels
        scale = torch.diag(mid.to_fixed.new_tensor([mid.shape[0] / self.shape[0]] * 3 + [1.0]))
        scale[:3, 3] = (scale[0, 0] - 1) / 2  # all grids share their corner, as F.interpolate has it
        self.images = [spatial.resample(image, matrix @ scale, self.shape)
                       for image, matrix in ((moving, mid.to_moving), (fixed, mid.to_fixed))]

    def similarity(self, velocity: Tensor) -> tuple[float, Tensor]:
        """Local correlation of the images warped half-way, and its ascent direction on the field's grid."""
        halves = spatial.integrate(torch.cat([velocity, -velocity]) / 2, HALF_STEPS)
        displacement = F.interpolate(halves, size=self.shape, mode="trilinear") / self.voxel
        warped = [spatial.warp(image, d[None], fill=0.0) for image, d in zip(self.images, displacement, strict=True)]
        mask = ((warped[0] > FOREGROUND) | (warped[1] > FOREGROUND)).float()
        value, by_moving, by_fixed = local_correlation(warped[0], warped[1], mask)
        ascent = by_moving * gradient(warped[0]) - by_fixed * gradient(warped[1])
        return float(value), F.interpolate(ascent, size=velocity.shape[2:], mode="area")


def _ascend(scene: Scene, mid: MidSpace, iterations: int, regularization: float,
            progress: Callable[[int], None]) -> MidSpace:
    """Ascend the similarity on one level; return the best field seen, on the grid of the mid-space."""
    assert mid.velocity is not None
    sigma = scene.voxel * (regularization / (1 - regularization)) ** 0.5
    velocity = best = regrid(mid.velocity, scene.field_shape)
    best_value, improved = -1.0, False
    values: list[float] = []
    for k in range(iterations + 1):
        value, ascent = scene.similarity(velocity)
        values.append(value)
        if value > best_value:
            best, best_value, improved = velocity, value, k > 0
        if k == iterations or (k >= PATIENCE and best_value - max(values[:-PATIENCE]) < GAIN):
            break
        ascent = gaussian(ascent, UPDATE_SIGMA * sigma)
        step = STEP * scene.voxel / ascent.norm(dim=1).amax().clamp(min=1e-12)
        velocity = gaussian(velocity + step * ascent, FIELD_SIGMA * sigma)
        progress(k)
    return dataclasses.replace(mid, velocity=regrid(best, mid.shape)) if improved else mid


def unfolded(mid: MidSpace) -> MidSpace:
    """The same mid-space with its velocity smoothed until the Jacobian determinant stays clear of zero.

    In theory the flow of any smooth velocity is invertible; on a grid a steep one can fold all the same.
    """
    assert mid.velocity is not None
    velocity = mid.velocity
    for _ in range(20):
        both = spatial.integrate(torch.cat([velocity, -velocity]))
        if float(spatial.jacobian_determinant(both).min()) >= SAFE_DETERMINANT:
            break
        velocity = gaussian(velocity, 0.6)
    return dataclasses.replace(mid, velocity=velocity)


def regrid(velocity: Tensor, shape: Sequence[int]) -> Tensor:
    """A velocity field on a grid of another density over the same box, in voxels of that grid."""
    if tuple(velocity.shape[2:]) == tuple(shape):
        return velocity
    factor = shape[0] / velocity.shape[2]
    return F.interpolate(velocity, size=list(shape), mode="trilinear" if factor > 1 else "area") * factor
