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

from . import matrices, spatial
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
from .similarity import gaussian

Bake = Callable[[float], Kernels]
MASS = 500.0  # cubic millimetres from which a structure has its full say in an affine fit
PASSES = 3  # looks of the deformable network at what is left to align
SMOOTHING = 1.0  # sigma of the velocity's last smoothing at lambda 1, in voxels of the deformable network
# A hypernetwork of hinges is at its roughest where they meet, near lambda 0.5: in between, what it finds at both ends
# is mixed, so that every larger lambda makes a smoother field.
HINGE = 0.4, 0.6
HALF_STEPS = 4  # squarings for half a velocity between passes
MID_SHAPE, MID_SPACING = (64, 64, 80), 3.0  # grid around an upright brain (LIA axes), millimetres
RESIDUAL_MM = 8.0  # distance at which a barycentre that does not fit the others loses three quarters of its weight


class Networks(Protocol):
    """What a registration needs of a model. Images are (1, 1, N, N, N) in [0, 1] on the network grid."""

    spacing: float  # voxel size of the network grid, millimetres
    residual_factor: int  # density of the network grid over that of the residual field in the result
    fades: bool  # whether the velocity is zero at the border of the mid-space grid

    def mid_space(self, moving: Tensor, fixed: Tensor, transform: str) -> MidSpace:
        """Mid-space of two images, whose matrices hold the affine part of a transform (see :class:`Options`).

        "joint" and "affine" find it, "rigid" finds one without scale and shear; for "deform" the images are aligned.
        """

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
        return matrices.rigid_part(matrix) if rigid else matrix

    def mid_space(self, moving: Tensor, fixed: Tensor, transform: str) -> MidSpace:
        x, y, z = moving.shape[2:]
        if transform in ("affine", "rigid"):  # SPEC 2: no grid half-way is needed
            matrix = uncentre(self._centred_affine(moving, fixed, (x, y, z), transform == "rigid"), (x, y, z))
            return MidSpace(matrix, torch.eye(4, dtype=torch.float64, device=moving.device), (x, y, z))
        x, y, z = x // 2, y // 2, z // 2
        half = (x, y, z)
        double = torch.diag(torch.tensor([2.0, 2.0, 2.0, 1.0], dtype=torch.float64, device=moving.device))
        if transform == "deform":
            return MidSpace(double, double, half)
        matrix = self._centred_affine(moving, fixed, half)  # SPEC 3.2: everything in units of the half grid
        roots = [matrices.sqrtm(m) for m in (matrix, torch.linalg.inv(matrix))]
        to_moving, to_fixed = (double @ uncentre(root, half) for root in roots)
        return MidSpace(to_moving, to_fixed, half)

    def velocity(self, moving: Tensor, fixed: Tensor, mid: MidSpace, regularization: float) -> Tensor:
        if self.bake is None or self.deformable_widths is None:
            raise ValueError("This model holds no weights for deformable registration.")
        images = [spatial.resample(image, matrix, mid.shape)
                  for image, matrix in ((moving, mid.to_moving), (fixed, mid.to_fixed))]
        # one order after the other: networks of this size keep any GPU busy, and both at once take twice the memory
        return symmetric_velocity(images[0], images[1], self.deformable_widths, self.bake(regularization))


@dataclass
class CompactNetworks:
    """Own small model. It differs from the official one in what surrounds the networks:

    * feature maps are probabilities of named structures. A coarse detector finds the head in any pose; a segmenter
      then looks at it upright and closer. The barycentres of its maps are fitted robustly, and a structure that is
      cut off in one image gets little say;
    * the mid-space grid stands upright around the brain, wherever the brain lies in the fields of view;
    * the deformable network reads the maps, not the images, and looks again at what its own warp left unaligned;
    * the velocity fades to zero at the border of that grid, beyond which the affine transform holds.

    ``template`` holds the mean barycentres of the training subjects, (M, 3) in millimetres along the network's axes.
    """

    detector: AffineDetector
    segmenter: AffineDetector
    deformable_widths: Widths
    bake: Bake
    template: Tensor
    spacing: float = 2.0
    residual_factor: int = 1
    fades: bool = True
    detector_pool: int = 2
    mid_spacing: float = MID_SPACING
    mid_shape: tuple[int, int, int] = MID_SHAPE
    passes: int = PASSES

    def _upright(self, centres: Tensor, masses: Tensor) -> Tensor:
        """Rigid (4, 4) matrix from the template's pose to an image, in voxels from the image centre."""
        template = self.template.double() / self.spacing
        matrix = robust_affine(centres, template[None], masses.clamp(max=1.0), RESIDUAL_MM / self.spacing)
        return rigid_about(matrix, template.mean(0))

    @property
    def _grid(self) -> Tensor:
        """(4, 4) matrix from indices of the mid-space grid to voxels from the template's origin."""
        step = self.mid_spacing / self.spacing
        grid = torch.diag(self.template.new_tensor([step, step, step, 1.0], dtype=torch.float64))
        grid[:3, 3] = self._centre - step * (grid.new_tensor(self.mid_shape) - 1) / 2
        return grid

    @property
    def _centre(self) -> Tensor:
        return self.template.double().mean(0) / self.spacing

    def _look(self, image: Tensor) -> Look:
        """Find the head in an image, turn it upright and look at it closely."""
        shape = image.shape[2:]
        coarse = self.detector(normalise(F.avg_pool3d(image, self.detector_pool)))
        voxel = self.spacing * shape[0] / coarse.shape[2]
        to_image = self._upright(*barycentres(coarse, shape, voxel)) @ self._grid
        upright = spatial.resample(image, centring(shape, to_image) @ to_image, self.mid_shape)
        features = self.segmenter(normalise(upright))
        centres, masses = barycentres(features, self.mid_shape, self.mid_spacing)
        to_image = to_image @ centring(self.mid_shape, to_image)
        centres = centres @ to_image[:3, :3].T + to_image[:3, 3]
        return Look(features, to_image @ torch.linalg.inv(centring(self.mid_shape, to_image)), centres, masses)

    def _fit(self, moving: Look, fixed: Look) -> Tensor:
        """Fixed-to-moving matrix in voxels from the image centres."""
        weights = agreement(moving.masses, fixed.masses)
        return robust_affine(moving.centres, fixed.centres, weights, RESIDUAL_MM / self.spacing)

    def mid_space(self, moving: Tensor, fixed: Tensor, transform: str) -> MidSpace:
        looks = self._look(moving), self._look(fixed)
        poses = [self._upright(look.centres, look.masses) for look in looks]
        matrix = self._fit(*looks)
        if transform == "deform":
            matrix, poses[0] = torch.eye(4, dtype=torch.float64, device=moving.device), poses[1]
        # from the upright fixed head to the upright moving head: close to the identity, so the root exists
        root = matrices.sqrtm(torch.linalg.inv(poses[0]) @ matrix @ poses[1])
        to_images = poses[0] @ root @ self._grid, poses[1] @ torch.linalg.inv(root) @ self._grid
        features = [spatial.resample(look.features, torch.linalg.inv(look.to_image) @ to_image, self.mid_shape)
                    for look, to_image in zip(looks, to_images, strict=True)]
        to_moving, to_fixed = (centring(moving.shape[2:], m) @ m for m in to_images)
        mid = MidSpace(to_moving, to_fixed, self.mid_shape, None, (features[0], features[1]))
        return mid.rigid() if transform == "rigid" else mid

    def velocity(self, moving: Tensor, fixed: Tensor, mid: MidSpace, regularization: float) -> Tensor:
        assert mid.features is not None
        maps = [F.avg_pool3d(f, 2) for f in mid.features]
        low, high = HINGE
        if low < regularization < high:
            ends = self._velocity(maps, low), self._velocity(maps, high)
            velocity = torch.lerp(*ends, (regularization - low) / (high - low))
        else:
            velocity = self._velocity(maps, regularization)
        return upsampled(velocity) * spatial.border_window(mid.shape, velocity.device)

    def _velocity(self, maps: Sequence[Tensor], regularization: float) -> Tensor:
        velocity = feature_velocity(maps[0], maps[1], self.deformable_widths, self.bake(regularization), self.passes)
        # passes add up, so the hypernetwork alone does not make every larger lambda a smoother one
        return gaussian(velocity, SMOOTHING * regularization)


@dataclass(frozen=True)
class Look:
    """What is seen in an image: maps of the upright head, and the barycentres and masses of its structures.

    ``to_image`` is the matrix from indices of the maps to voxels from the image centre, the unit of ``centres``.
    """

    features: Tensor
    to_image: Tensor
    centres: Tensor
    masses: Tensor


def barycentres(features: Tensor, shape: Sequence[int], voxel: float) -> tuple[Tensor, Tensor]:
    """Barycentres (1, M, 3) of feature maps in voxels from the centre of a grid, and masses (1, M) in units of MASS.

    Args:
        features: (1, M, x, y, z), maps over the whole grid.
        shape: size of the grid in voxels.
        voxel: voxel size of the maps in millimetres.
    """
    masses = features.sum(dim=(2, 3, 4)).double() * (voxel**3 / MASS)
    return spatial.barycentres(features, shape).double(), masses


def feature_velocity(moving: Tensor, fixed: Tensor, widths: Widths, kernels: Kernels, passes: int) -> Tensor:
    """Velocity (N, 3, X, Y, Z) in voxels from feature maps (N, M, X, Y, Z) of both images.

    Every pass but the first sees the maps warped half-way by what was found before, so that the sum still changes
    its sign when the images are swapped. Gradients, where wanted, flow through the last pass only.
    """
    with torch.no_grad():
        velocity = None
        for _ in range(passes - 1):
            velocity = _look_again(moving, fixed, velocity, widths, kernels)
    return _look_again(moving, fixed, velocity, widths, kernels)


def _look_again(moving: Tensor, fixed: Tensor, velocity: Tensor | None, widths: Widths, kernels: Kernels) -> Tensor:
    """One more pass on top of a velocity."""
    if velocity is None:
        return symmetric_velocity(moving, fixed, widths, kernels, batch=True)
    forward, backward = (spatial.integrate(v, HALF_STEPS) for v in (velocity / 2, -velocity / 2))
    return velocity + symmetric_velocity(spatial.warp(moving, forward), spatial.warp(fixed, backward), widths,
                                         kernels, batch=True)


def upsampled(field: Tensor) -> Tensor:
    """A displacement or velocity field (N, 3, X, Y, Z) on a grid of twice the density, in voxels of that grid."""
    return spatial.regrid(field, [2 * n for n in field.shape[2:]])


def centring(shape: Sequence[int], like: Tensor) -> Tensor:
    """(4, 4) matrix from voxels relative to the image centre to zero-based indices."""
    return translation((like.new_tensor(list(shape)) - 1) / 2)


def rigid_about(matrix: Tensor, point: Tensor) -> Tensor:
    """The rigid part of an affine matrix that sends ``point`` where the affine sends it.

    SPEC 2.5 keeps the translation instead, which displaces whatever is not at the origin.
    """
    rigid = matrices.rigid_part(matrix)
    rigid[:3, 3] = matrix[:3, :3] @ point + matrix[:3, 3] - rigid[:3, :3] @ point
    return rigid


def translation(vector: Tensor) -> Tensor:
    """(4, 4) matrix of a shift."""
    matrix = torch.eye(4, dtype=vector.dtype, device=vector.device)
    matrix[:3, 3] = vector
    return matrix


def normalise(image: Tensor) -> Tensor:
    """Min-max normalisation to [0, 1] (SPEC 6); a constant image becomes zero."""
    image = image - image.amin()
    return image / image.amax().clamp(min=1e-12)


def agreement(moving_mass: Tensor, fixed_mass: Tensor) -> Tensor:
    """Weights (N, M) of structures seen in both images: high where their volumes agree, zero where one is missing."""
    low, high = torch.minimum(moving_mass, fixed_mass), torch.maximum(moving_mass, fixed_mass)
    return (low / high.clamp(min=1e-6)).square() * low.clamp(max=1.0)


def robust_affine(moving: Tensor, fixed: Tensor, weights: Tensor, scale: float, rounds: int = 6) -> Tensor:
    """Affine fit that discounts structures by their residual (iteratively reweighted, Geman-McClure).

    Swapping the points gives the inverse matrix: the fits in both directions are averaged geometrically, where
    SPEC 2.4 averages their entries.

    Args:
        moving, fixed: (1, M, 3) barycentres; weights: (1, M).
        scale: residual, in the unit of the points, at which a structure loses three quarters of its weight.

    Returns:
        (4, 4) float64 matrix from fixed to moving points.
    """
    matrix = _geometric_fit(moving, fixed, weights)
    for _ in range(rounds):
        there = spatial.transform_points(matrix, fixed.transpose(1, 2)) - moving.transpose(1, 2)
        back = spatial.transform_points(torch.linalg.inv(matrix), moving.transpose(1, 2)) - fixed.transpose(1, 2)
        residual = (there.square().sum(1) + back.square().sum(1)) / 2
        matrix = _geometric_fit(moving, fixed, weights / (1 + residual / scale**2).square())
    return matrix


def _geometric_fit(moving: Tensor, fixed: Tensor, weights: Tensor) -> Tensor:
    """Geometric mean of the fit from fixed to moving points and the inverse of the opposite fit."""
    forward, backward = matrices.fit_affine(moving, fixed, weights)[0], matrices.fit_affine(fixed, moving, weights)[0]
    return torch.linalg.solve(backward, matrices.sqrtm(backward @ forward))
