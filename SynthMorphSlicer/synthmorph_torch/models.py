"""Two families of networks behind one face: where does each image lie in the mid-space, and how must it be warped?

``OfficialNetworks`` follows SPEC 2 and 3 to the letter. ``CompactNetworks`` is this project's own small model: the
same kinds of network, trained so that a first registration takes seconds on a CPU. A registration never asks which
one it has.
"""
from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from . import spatial
from .networks import (
    AffineDetector,
    Kernels,
    MidSpace,
    Widths,
    detect_affine,
    half_resolution,
    symmetric_velocity,
    uncentre,
)

Bake = Callable[[float], Kernels]


class Networks(Protocol):
    """What a registration needs of a model. Images are (1, 1, N, N, N) in [0, 1] on the network grid."""

    spacing: float  # voxel size of the network grid, millimetres
    residual_factor: int  # density of the network grid over that of the residual field in the result
    fades: bool  # whether the velocity is zero at the border of the mid-space grid

    def affine(self, moving: Tensor, fixed: Tensor, rigid: bool) -> Tensor:
        """Fixed-to-moving (4, 4) float64 matrix in indices of the network images."""

    def mid_space(self, moving: Tensor, fixed: Tensor, align: bool) -> MidSpace:
        """Mid-space of two images; without ``align`` they are taken to be aligned already."""

    def velocity(self, moving: Tensor, fixed: Tensor, mid: MidSpace, regularization: float) -> Tensor:
        """Velocity field (1, 3, X, Y, Z) in mid-space voxels."""


@dataclass
class OfficialNetworks:
    """The networks of mri_synthmorph (SPEC 2, 3). Parts that a mode does not need may be None."""

    detector: AffineDetector | None
    rigid_detector: AffineDetector | None
    deformable_widths: Widths | None
    bake: Bake | None
    spacing: float = 1.0
    residual_factor: int = 2
    fades: bool = False

    def _centred_affine(self, moving: Tensor, fixed: Tensor, shape: Sequence[int], rigid: bool = False) -> Tensor:
        detector = self.rigid_detector if rigid else self.detector
        if detector is None:
            raise ValueError("This model holds no weights for that kind of transform.")
        # one image after the other: the detector's first activations are its largest
        features = [detector(half_resolution(image)) for image in (moving, fixed)]
        matrix = detect_affine(features[0], features[1], shape)[0]
        return spatial.rigid_part(matrix) if rigid else matrix

    def affine(self, moving: Tensor, fixed: Tensor, rigid: bool) -> Tensor:
        shape = moving.shape[2:]
        return uncentre(self._centred_affine(moving, fixed, shape, rigid), shape)

    def mid_space(self, moving: Tensor, fixed: Tensor, align: bool) -> MidSpace:
        half = tuple(n // 2 for n in moving.shape[2:])
        double = torch.diag(torch.tensor([2.0, 2.0, 2.0, 1.0], dtype=torch.float64, device=moving.device))
        if not align:
            return MidSpace(double, double, half)
        matrix = self._centred_affine(moving, fixed, half)  # SPEC 3.2: everything in units of the half grid
        roots = [spatial.sqrtm(m) for m in (matrix, torch.linalg.inv(matrix))]
        to_moving, to_fixed = (double @ uncentre(root, half) for root in roots)
        return MidSpace(to_moving, to_fixed, half)

    def velocity(self, moving: Tensor, fixed: Tensor, mid: MidSpace, regularization: float) -> Tensor:
        if self.bake is None or self.deformable_widths is None:
            raise ValueError("This model holds no weights for deformable registration.")
        images = [spatial.resample(image, matrix, mid.shape)
                  for image, matrix in ((moving, mid.to_moving), (fixed, mid.to_fixed))]
        return symmetric_velocity(images[0], images[1], self.deformable_widths, self.bake(regularization),
                                  batch=moving.device.type != "cpu")


@dataclass
class CompactNetworks:
    """Own small model. It differs from the official one in three choices:

    * feature maps are probabilities of named structures, so their barycentres are fitted robustly: a structure that
      is cut off in one image gets little say;
    * the mid-space grid is centred on the brain, not on the field of view, and need not cover the neck;
    * the velocity fades to zero at the border of that grid, beyond which the affine transform holds.
    """

    detector: AffineDetector
    deformable_widths: Widths
    bake: Bake
    spacing: float = 2.0
    residual_factor: int = 1
    fades: bool = True
    detector_pool: int = 2
    mid_spacing: float = 3.0
    mid_size: int = 64

    def _features(self, image: Tensor) -> Tensor:
        return self.detector(normalise(F.avg_pool3d(image, self.detector_pool)))

    def _fit(self, moving: Tensor, fixed: Tensor) -> tuple[Tensor, Tensor]:
        """Centred fixed-to-moving matrix and the brain's centre in both images (2, 3), in voxels from the centre."""
        shape = moving.shape[2:]
        features = [self._features(image) for image in (moving, fixed)]
        centres = [spatial.barycentres(f, shape).double() for f in features]
        masses = [f.sum(dim=(2, 3, 4)).double() for f in features]
        matrix = robust_affine(centres[0], centres[1], agreement(masses[0], masses[1]), 4.0 / self.spacing)
        whole = [(c * m[..., None]).sum(1) / m.sum(1, keepdim=True) for c, m in zip(centres, masses, strict=True)]
        return matrix[0], torch.cat(whole)

    def affine(self, moving: Tensor, fixed: Tensor, rigid: bool) -> Tensor:
        matrix, _ = self._fit(moving, fixed)
        return uncentre(spatial.rigid_part(matrix) if rigid else matrix, moving.shape[2:])

    def mid_space(self, moving: Tensor, fixed: Tensor, align: bool) -> MidSpace:
        matrix, brain = self._fit(moving, fixed)
        device = moving.device
        if not align:
            matrix = torch.eye(4, dtype=torch.float64, device=device)
        # move both brains to the origin first: the root of the transform then turns about the brain, not about the
        # centre of the field of view, and the mid-space grid needs to cover no more than a head
        centre = spatial.transform_points(torch.linalg.inv(matrix), brain[:1, :, None])[0, :, 0]
        fixed_brain = (brain[1] + centre) / 2 if align else brain.mean(0)
        to_brain = torch.eye(4, dtype=torch.float64, device=device)
        to_brain[:3, 3] = fixed_brain
        moving_brain = torch.eye(4, dtype=torch.float64, device=device)
        moving_brain[:3, 3] = spatial.transform_points(matrix, fixed_brain[None, :, None])[0, :, 0]
        local = torch.linalg.inv(moving_brain) @ matrix @ to_brain
        grid = torch.eye(4, dtype=torch.float64, device=device) * (self.mid_spacing / self.spacing)
        grid[3, 3] = 1
        grid[:3, 3] = -(self.mid_size - 1) / 2 * self.mid_spacing / self.spacing
        image_centre = torch.eye(4, dtype=torch.float64, device=device)
        image_centre[:3, 3] = (grid.new_tensor(list(moving.shape[2:])) - 1) / 2
        root = spatial.sqrtm(local)
        return MidSpace(image_centre @ moving_brain @ root @ grid,
                        image_centre @ to_brain @ torch.linalg.inv(root) @ grid, (self.mid_size,) * 3)

    def velocity(self, moving: Tensor, fixed: Tensor, mid: MidSpace, regularization: float) -> Tensor:
        images = [normalise(spatial.resample(image, matrix, mid.shape))
                  for image, matrix in ((moving, mid.to_moving), (fixed, mid.to_fixed))]
        velocity = symmetric_velocity(images[0], images[1], self.deformable_widths, self.bake(regularization),
                                      batch=moving.device.type != "cpu")
        return velocity * border_window(mid.shape, velocity.device)


def normalise(image: Tensor) -> Tensor:
    """Min-max normalisation to [0, 1] (SPEC 6); a constant image becomes zero."""
    image = image - image.amin()
    return image / image.amax().clamp(min=1e-12)


def agreement(moving_mass: Tensor, fixed_mass: Tensor) -> Tensor:
    """Weights (N, M) of structures seen in both images: high where their volumes agree, zero where one is missing."""
    low, high = torch.minimum(moving_mass, fixed_mass), torch.maximum(moving_mass, fixed_mass)
    return (low / high.clamp(min=1e-6)).square() * low.clamp(max=1.0)


def robust_affine(moving: Tensor, fixed: Tensor, weights: Tensor, scale: float, rounds: int = 6) -> Tensor:
    """Symmetric affine fit that discounts structures by their residual (iteratively reweighted, Geman-McClure).

    Args:
        moving, fixed: (N, M, 3) barycentres; weights: (N, M).
        scale: residual, in the unit of the points, at which a structure loses three quarters of its weight.
    """
    matrix = spatial.symmetric_affine(moving, fixed, weights)
    for _ in range(rounds):
        predicted = fixed @ matrix[:, :3, :3].transpose(1, 2) + matrix[:, None, :3, 3]
        residual = (predicted - moving).square().sum(-1)
        matrix = spatial.symmetric_affine(moving, fixed, weights / (1 + residual / scale**2).square())
    return matrix


def border_window(shape: Sequence[int], device: torch.device, width: int = 4) -> Tensor:
    """(1, 1, X, Y, Z): one inside, falling smoothly to zero over the outermost ``width`` voxels."""
    window = torch.ones(1, 1, 1, 1, 1, device=device)
    for axis, n in enumerate(shape):
        distance = torch.minimum(torch.arange(n, device=device), torch.arange(n - 1, -1, -1, device=device))
        ramp = (distance / width).clamp(max=1.0)
        size = [1] * 5
        size[axis + 2] = n
        window = window * (ramp * ramp * (3 - 2 * ramp)).view(size)
    return window
