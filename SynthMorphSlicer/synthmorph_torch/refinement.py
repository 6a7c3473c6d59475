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

from . import similarity, spatial
from .networks import MidSpace
from .similarity import Similarity, gaussian
from .spatial import border_window

HALF_STEPS = 4  # squarings of v / 2: its amplitude is a few voxels at most
BORDER = 5  # field voxels at the border of the grid over which updates fade out
SAFE_DETERMINANT = 0.05  # smallest Jacobian determinant that a result may have


@dataclass(frozen=True)
class Level:
    """One resolution of the optimisation.

    Voxel sizes of the images and of the field in millimetres, and the share of all iterations. Twelve descriptors
    per voxel cost too much at 2 mm, so self-similarity stops at ``coarse`` images.
    """

    images: float
    coarse: float
    field: float
    share: float


LEVELS = (Level(4.0, 4.0, 6.0, 0.5), Level(2.0, 3.0, 4.0, 0.5))
STEP = 0.5  # largest change of the velocity per iteration, image voxels
UPDATE_SIGMA, FIELD_SIGMA = 1.6, 0.5  # smoothing of updates and of the field at lambda 0.5, image voxels
PATIENCE, GAIN = 6, 2e-4  # stop when the similarity has risen by less than GAIN in PATIENCE iterations


def refine(moving: Tensor, fixed: Tensor, mid: MidSpace, spacing: float, iterations: int, regularization: float,
           progress: Callable[[float], None] | None = None, measure: str = "auto") -> tuple[MidSpace, str]:
    """Improve the velocity field of a mid-space by instance optimisation.

    Args:
        moving, fixed: network images (1, 1, N, N, N) in [0, 1].
        mid: the mid-space with the velocity to start from.
        spacing: voxel size of the mid-space grid in millimetres.
        iterations: in total; a level ends earlier when the similarity no longer rises.
        regularization: lambda in (0, 1); smooths the updates and the field.
        progress: called with the fraction done.
        measure: "correlation", "self-similarity", or "auto": the former where one contrast resembles the other.

    Returns:
        The mid-space with a velocity whose similarity is no lower than before, and the measure used.
    """
    assert mid.velocity is not None
    if measure == "auto":
        measure = similarity.choose(*Scene(moving, fixed, mid, spacing, LEVELS[0].images, 0).warped(mid.velocity))
    done = 0
    for level in LEVELS:
        count = round(level.share * iterations)
        if level.field > 2 * spacing:  # coarser than what the network says: its detail would be lost
            count = 0
        scene = Scene(moving, fixed, mid, spacing, level.images if measure == "correlation" else level.coarse,
                      level.field, similarity.MEASURES[measure])

        def tell(k: int, done: int = done) -> None:
            if progress:
                progress((done + k) / iterations)

        mid = _ascend(scene, mid, count, regularization, tell) if count else mid
        done += count
    return unfolded(mid), measure


class Scene:
    """Both images on the mid-space at the resolution of one level.

    The velocity has a coarser grid than the images: it is smooth, and integrating it costs more than looking at them.
    """

    def __init__(self, moving: Tensor, fixed: Tensor, mid: MidSpace, spacing: float, image_voxel: float,
                 field_voxel: float, measure: type[Similarity] | None = None) -> None:
        self.shape = [round(n * spacing / image_voxel) for n in mid.shape]
        self.field_shape = [round(n * spacing / max(field_voxel, spacing)) for n in mid.shape]
        self.voxel = self.field_shape[0] / self.shape[0]  # an image voxel in field voxels
        scale = torch.diag(mid.to_fixed.new_tensor([mid.shape[0] / self.shape[0]] * 3 + [1.0]))
        scale[:3, 3] = (scale[0, 0] - 1) / 2  # all grids share their corner, as F.interpolate has it
        self.images = [spatial.resample(image, matrix @ scale, self.shape)
                       for image, matrix in ((moving, mid.to_moving), (fixed, mid.to_fixed))]
        self.measure = measure(*self.images) if measure else None

    def _displacements(self, velocity: Tensor) -> tuple[Tensor, Tensor]:
        halves = spatial.integrate(torch.cat([velocity, -velocity]) / 2, HALF_STEPS)
        forward, backward = F.interpolate(halves, size=self.shape, mode="trilinear") / self.voxel
        return forward[None], backward[None]

    def warped(self, velocity: Tensor) -> list[Tensor]:
        """Both images where they meet half-way, under a velocity on the field's grid."""
        return [spatial.warp(image, d, fill=0.0)
                for image, d in zip(self.images, self._displacements(velocity), strict=True)]

    def ascent(self, velocity: Tensor) -> tuple[float, Tensor]:
        """Similarity of the images warped half-way, and its ascent direction on the field's grid."""
        assert self.measure is not None
        value, direction = self.measure.ascent(*self._displacements(velocity))
        return value, F.interpolate(direction, size=velocity.shape[2:], mode="area")


def _ascend(scene: Scene, mid: MidSpace, iterations: int, regularization: float,
            progress: Callable[[int], None]) -> MidSpace:
    """Ascend the similarity on one level; return the best field seen, on the grid of the mid-space."""
    assert mid.velocity is not None
    sigma = scene.voxel * (regularization / (1 - regularization)) ** 0.5
    velocity = best = regrid(mid.velocity, scene.field_shape)
    # a head that reaches the border of the grid must not be pulled there: beyond it the affine transform holds
    inner = border_window(scene.field_shape, velocity.device, BORDER)
    best_value, improved = -1.0, False
    values: list[float] = []
    for k in range(iterations + 1):
        value, ascent = scene.ascent(velocity)
        values.append(value)
        if value > best_value:
            best, best_value, improved = velocity, value, k > 0
        if k == iterations or (k >= PATIENCE and best_value - max(values[:-PATIENCE]) < GAIN):
            break
        ascent = gaussian(ascent, UPDATE_SIGMA * sigma)
        step = STEP * scene.voxel / ascent.norm(dim=1).amax().clamp(min=1e-12)
        velocity = velocity + inner * (gaussian(velocity + step * ascent, FIELD_SIGMA * sigma) - velocity)
        progress(k)
    return dataclasses.replace(mid, velocity=regrid(best, mid.shape)) if improved else mid


def unfolded(mid: MidSpace) -> MidSpace:
    """The same mid-space with its velocity smoothed until the Jacobian determinant stays clear of zero.

    In theory the flow of any smooth velocity is invertible; on a grid a steep one can fold all the same.
    """
    for _ in range(20):
        assert mid.velocity is not None
        both = spatial.integrate(torch.cat([mid.velocity, -mid.velocity]))
        if float(spatial.jacobian_determinant(both).min()) >= SAFE_DETERMINANT:
            break
        mid = smoother(mid)
    return mid


def smoother(mid: MidSpace) -> MidSpace:
    """The same mid-space with a slightly smoother velocity."""
    assert mid.velocity is not None
    return dataclasses.replace(mid, velocity=gaussian(mid.velocity, 0.6))


def regrid(velocity: Tensor, shape: Sequence[int]) -> Tensor:
    """A velocity field on a grid of another density over the same box, in voxels of that grid."""
    if tuple(velocity.shape[2:]) == tuple(shape):
        return velocity
    factor = shape[0] / velocity.shape[2]
    return F.interpolate(velocity, size=list(shape), mode="trilinear" if factor > 1 else "area") * factor
