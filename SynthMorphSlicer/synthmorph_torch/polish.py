"""Two scans of one head: align them rigidly on the images themselves.

Networks find a head to a millimetre or two, whatever its contrast; between two people nothing better is known. Two
scans of one person differ by a rigid motion, which the images show to a few tenths of a millimetre. So a rigid motion
is tried on the images, and where it explains them better than the networks' affine transform does, it takes its place.
"""
from __future__ import annotations

import dataclasses

import torch
import torch.nn.functional as F
from torch import Tensor

from . import similarity, spatial
from .halfway import Sample
from .networks import MidSpace
from .refinement import brain_box, brain_mask, cropped
from .similarity import MutualInformation

# Voxel size of the images in millimetres, iterations, and what the result may still lack in local correlation: the
# coarse images mostly show that there is nothing to find, and spare a closer look.
LEVELS = ((4.0, 20, 0.02), (2.0, 10, 0.0))
DECISION = 2.0  # voxel size at which the rigid and the affine transform are compared
# Local correlation by which a rigid motion must be better. Measured: two scans of one person gain 0.08 to 0.15 in any
# contrasts; two people lose some or gain less than 0.01, and 0.04 where a third of the brain is cut off one image, in
# which the networks' affine transform is less good.
MARGIN = 0.06
ARM = 60.0  # millimetres from the centre of rotation at which a rotation moves as much as its parameter says
MARGIN_VOXELS = 4  # around the brain
# Of the search: step for a slope of one, about a millimetre where images lie a few millimetres apart; limits of a step
# in millimetres, and how often one that goes too far is halved.
FIRST_STEP, LONGEST_STEP, SHORTEST_STEP, HALVINGS = 100.0, 4.0, 0.01, 6


def rigid_motion(mid: MidSpace, spacing: float, sample: Sample, margin: float = MARGIN) -> MidSpace | None:
    """The rigid motion that the images show, where it explains them better than the affine transform at hand.

    Args:
        mid: mid-space of an affine transform, with feature maps.
        spacing: voxel size of its grid in millimetres.
        sample: samples the images.
        margin: of local correlation by which the rigid motion must be better; the default tells one head from two.

    Returns:
        A mid-space of the same shape whose affine part is rigid, or None. Swapping the images swaps its two matrices.
    """
    affine = around_brain(mid)
    rigid, needed = affine.rigid(), alike(affine, spacing, sample) + margin
    motion = torch.zeros(6, dtype=torch.float64, device=mid.to_fixed.device)
    for voxel, iterations, lack in LEVELS:
        motion = Overlap(rigid, spacing, voxel, sample).best(motion, iterations)
        found = moved(rigid, motion, spacing)
        if alike(found, spacing, sample) < needed - lack:
            return None
    # the box around the brain and the whole grid have different centres: carry the motion over as matrices
    back = torch.linalg.inv(affine.to_moving) @ mid.to_moving
    result = dataclasses.replace(mid, to_moving=found.to_moving @ back, to_fixed=found.to_fixed @ back)
    return with_features_of(mid, result)


def around_brain(mid: MidSpace) -> MidSpace:
    """The part of a mid-space grid that holds the brain."""
    assert mid.features is not None
    return cropped(mid, *brain_box(mid.features, MARGIN_VOXELS))


def with_features_of(mid: MidSpace, other: MidSpace) -> MidSpace:
    """``other`` with the feature maps of ``mid``, resampled to where its grid lies in each image."""
    assert mid.features is not None
    moving, fixed = (spatial.resample(f, torch.linalg.inv(old) @ new, other.shape) for f, old, new in (
        (mid.features[0], mid.to_moving, other.to_moving), (mid.features[1], mid.to_fixed, other.to_fixed)))
    return dataclasses.replace(other, features=(moving, fixed))


def moved(mid: MidSpace, motion: Tensor, spacing: float) -> MidSpace:
    """The mid-space after a motion (6,) of the moving against the fixed image, half of it in either (millimetres)."""
    index = torch.linalg.inv(millimetres(mid.shape, spacing, motion.device))
    forward, backward = (index @ half @ torch.linalg.inv(index) for half in halves(motion))
    return dataclasses.replace(mid, to_moving=mid.to_moving @ forward, to_fixed=mid.to_fixed @ backward)


def halves(motion: Tensor) -> tuple[Tensor, Tensor]:
    """Half a motion (6,) and half its opposite, (4, 4) in millimetres from the centre of the grid."""
    twist = torch.einsum("n,nij->ij", motion, generators(motion.device)) / 2
    return torch.matrix_exp(twist), torch.matrix_exp(-twist)


def generators(device: torch.device) -> Tensor:
    """(6, 4, 4): three shifts by a millimetre, and three rotations that move points by one at the length of ARM."""
    result = torch.zeros(6, 4, 4, dtype=torch.float64, device=device)
    for axis, (a, b) in enumerate(((1, 2), (0, 2), (0, 1))):
        result[axis, axis, 3] = 1
        result[3 + axis, a, b], result[3 + axis, b, a] = 1 / ARM, -1 / ARM
    return result


def millimetres(shape: tuple[int, ...], voxel: float, device: torch.device) -> Tensor:
    """(4, 4) matrix from the indices of a grid to millimetres from its centre."""
    matrix = torch.diag(torch.tensor([voxel, voxel, voxel, 1.0], dtype=torch.float64, device=device))
    matrix[:3, 3] = -voxel * (matrix.new_tensor(shape) - 1) / 2
    return matrix


class Overlap:
    """Both images in the brain's box of a mid-space, and how their mutual information changes with a rigid motion."""

    def __init__(self, mid: MidSpace, spacing: float, voxel: float, sample: Sample) -> None:
        images, brain, self.shape = sampled(mid, spacing, voxel, sample)
        self.measure = MutualInformation(images[0], images[1], brain)
        self.to_index = torch.linalg.inv(millimetres(self.shape, voxel, brain.device))
        grid = spatial.identity_grid(self.shape, brain.device)
        self.points = spatial.transform_points(torch.linalg.inv(self.to_index), grid[None])[0].reshape(3, -1)
        self.voxel = voxel

    def ascent(self, motion: Tensor) -> tuple[float, Tensor]:
        """Mutual information after a motion (6,), and its derivative to first order."""
        fields = [spatial.affine_field(self.to_index @ half @ torch.linalg.inv(self.to_index), self.shape)[None]
                  for half in halves(motion)]
        value, direction = self.measure.ascent(*(field.reshape(1, 3, *self.shape) for field in fields))
        pull = direction.reshape(3, -1).double() / (2 * self.voxel)
        moment = torch.cat([pull @ self.points.double().T, pull.sum(1, keepdim=True)], 1)
        return value, (generators(motion.device)[:, :3] * moment).sum((1, 2))

    def best(self, motion: Tensor, iterations: int) -> Tensor:
        """The motion with the largest mutual information near the given one (BFGS with halved steps)."""
        value, slope = self.ascent(motion)
        eye = torch.eye(6, dtype=motion.dtype, device=motion.device)
        curvature = FIRST_STEP * eye  # inverse Hessian of the falling function
        for _ in range(iterations):
            step = curvature @ slope
            step = step * (LONGEST_STEP / step.norm()).clamp(max=1.0)
            for _ in range(HALVINGS):
                higher, next_slope = self.ascent(motion + step)
                if higher > value + 1e-4 * float(step @ slope):
                    break
                step = step / 2
            else:
                return motion
            bend = slope - next_slope
            if (scale := float(step @ bend)) > 0:
                side = eye - torch.outer(step, bend) / scale
                curvature = side @ curvature @ side.T + torch.outer(step, step) / scale
            motion, value, slope = motion + step, higher, next_slope
            if float(step.norm()) < SHORTEST_STEP:
                break
        return motion


def sampled(mid: MidSpace, spacing: float, voxel: float, sample: Sample
            ) -> tuple[list[Tensor], Tensor, tuple[int, int, int]]:
    """Both images on a mid-space grid of another voxel size, a mask of what counts there, and the grid's shape.

    What counts is the brain, as far as both images show it: the end of a field of view is an edge in one image only.
    """
    x, y, z = (round(n * spacing / voxel) for n in mid.shape)
    scale = spatial.pooled(x / mid.shape[0], mid.to_fixed.device)
    images = [sample(k, matrix @ scale, (x, y, z)) for k, matrix in enumerate((mid.to_moving, mid.to_fixed))]
    assert mid.features is not None
    brain = F.interpolate(brain_mask(mid.features, spacing), size=(x, y, z), mode="trilinear")
    shown = similarity.box((torch.minimum(*images) > 0).float(), 1)
    return images, brain * (shown > 0.99), (x, y, z)


def alike(mid: MidSpace, spacing: float, sample: Sample) -> float:
    """Mean squared local correlation of both images in the brain, which does not ask for equal contrast."""
    (moving, fixed), mask, _ = sampled(mid, spacing, DECISION, sample)
    return float(similarity.local_correlation(moving, fixed, mask)[0].sum() / mask.sum().clamp(min=1))
