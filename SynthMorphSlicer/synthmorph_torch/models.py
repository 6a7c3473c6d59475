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
from .similarity import gaussian

Bake = Callable[[float], Kernels]
LAMBDA_SIGMA = 1.5  # smoothing of the compact network's velocity at lambda 0.5, mid-space voxels
MID_SHAPE, MID_SPACING = (64, 64, 80), 3.0  # grid around an upright brain (LIA axes), millimetres
RESIDUAL_MM = 8.0  # distance at which a barycentre that does not fit the others loses three quarters of its weight


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
        x, y, z = (n // 2 for n in moving.shape[2:])
        half = (x, y, z)
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
    """Own small model. It differs from the official one in what surrounds the networks:

    * feature maps are probabilities of named structures. Their barycentres show how each head is turned, so that it
      can be looked at again in an upright pose; the two sets of barycentres are then fitted robustly, and a structure
      that is cut off in one image gets little say;
    * the mid-space grid stands upright around the brain, wherever the brain lies in the fields of view;
    * the velocity fades to zero at the border of that grid, beyond which the affine transform holds.

    ``template`` holds the mean barycentres of the training subjects, (M, 3) in millimetres along the network's axes.
    """

    detector: AffineDetector
    deformable_widths: Widths
    bake: Bake
    template: Tensor
    spacing: float = 2.0
    residual_factor: int = 1
    fades: bool = True
    detector_pool: int = 2
    mid_spacing: float = 3.0
    mid_size: int = 64

    def _detect(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Maps, their barycentres (1, M, 3) in voxels from the image centre, and masses (1, M) of the structures."""
        features = self.detector(normalise(F.avg_pool3d(image, self.detector_pool)))
        return features, spatial.barycentres(features, image.shape[2:]).double(), features.sum(dim=(2, 3, 4)).double()

    def _upright(self, centres: Tensor, masses: Tensor) -> Tensor:
        """Rigid (4, 4) matrix from the template's pose to an image, in voxels from the image centre."""
        template = self.template.double() / self.spacing
        matrix = robust_affine(centres, template[None], masses.clamp(max=1.0), RESIDUAL_MM / self.spacing)[0]
        return rigid_about(matrix, template.mean(0))

    def _look(self, image: Tensor) -> Look:
        """Look at an image twice, the second time with the head upright."""
        _, centres, masses = self._detect(image)
        pose = self._upright(centres, masses)
        upright = spatial.resample(image, uncentre(pose, image.shape[2:]), image.shape[2:])
        features, centres, masses = self._detect(upright)
        centres = centres @ pose[:3, :3].T + pose[:3, 3]
        return Look(features, pose, centres, masses)

    def _fit(self, moving: Look, fixed: Look) -> Tensor:
        """Fixed-to-moving matrix in voxels from the image centres."""
        weights = agreement(moving.masses, fixed.masses)
        return robust_affine(moving.centres, fixed.centres, weights, RESIDUAL_MM / self.spacing)[0]

    def affine(self, moving: Tensor, fixed: Tensor, rigid: bool) -> Tensor:
        looks = self._look(moving), self._look(fixed)
        matrix = self._fit(*looks)
        if rigid:
            matrix = rigid_about(matrix, spatial.transform_points(looks[1].pose, self._centre[None, :, None])[0, :, 0])
        return uncentre(matrix, moving.shape[2:])

    @property
    def _centre(self) -> Tensor:
        return self.template.double().mean(0) / self.spacing

    def mid_space(self, moving: Tensor, fixed: Tensor, align: bool) -> MidSpace:
        looks = self._look(moving), self._look(fixed)
        poses = [self._upright(look.centres, look.masses) for look in looks]
        matrix = self._fit(*looks)
        if not align:
            matrix, poses[0] = torch.eye(4, dtype=torch.float64, device=moving.device), poses[1]
        # from the upright fixed head to the upright moving head: close to the identity, so the root exists
        root = spatial.sqrtm(torch.linalg.inv(poses[0]) @ matrix @ poses[1])
        step = self.mid_spacing / self.spacing
        grid = torch.diag(matrix.new_tensor([step, step, step, 1.0]))
        grid[:3, 3] = self._centre - step * (self.mid_size - 1) / 2
        to_images = poses[0] @ root @ grid, poses[1] @ torch.linalg.inv(root) @ grid
        features = [self._maps(look, to_image, moving.shape[2:])
                    for look, to_image in zip(looks, to_images, strict=True)]
        to_moving, to_fixed = (centring(moving.shape[2:], m) @ m for m in to_images)
        return MidSpace(to_moving, to_fixed, (self.mid_size,) * 3, None, (features[0], features[1]))

    def _maps(self, look: Look, to_image: Tensor, shape: Sequence[int]) -> Tensor:
        """Feature maps of one image on the mid-space grid of half density, (1, M, n/2, n/2, n/2)."""
        upright = centring(shape, to_image) @ torch.linalg.inv(look.pose) @ to_image
        device = upright.device
        matrix = pooled(shape[0] / look.features.shape[2], device) @ upright @ torch.linalg.inv(pooled(2.0, device))
        return spatial.resample(look.features, matrix, (self.mid_size // 2,) * 3)

    def velocity(self, moving: Tensor, fixed: Tensor, mid: MidSpace, regularization: float) -> Tensor:
        assert mid.features is not None
        velocity = feature_velocity(*mid.features, self.deformable_widths, self.bake(regularization))
        # the hypernetwork of the shipped weights fell silent in training (see their model card), so lambda smooths here
        velocity = gaussian(velocity, LAMBDA_SIGMA * (regularization / (1 - regularization)) ** 0.5)
        return velocity * spatial.border_window(mid.shape, velocity.device)


@dataclass(frozen=True)
class Look:
    """What the detector sees in an image: maps of the upright head and the rigid pose from upright to image.

    Barycentres are in voxels of the image from its centre.
    """

    features: Tensor
    pose: Tensor
    centres: Tensor
    masses: Tensor


def feature_velocity(moving: Tensor, fixed: Tensor, widths: Widths, kernels: Kernels) -> Tensor:
    """Velocity on a grid of twice the density of the feature maps (1, M, n, n, n), in voxels of that grid."""
    return upsampled(symmetric_velocity(moving, fixed, widths, kernels, batch=True))


def upsampled(field: Tensor) -> Tensor:
    """A displacement or velocity field (N, 3, X, Y, Z) on a grid of twice the density, in voxels of that grid."""
    return F.interpolate(field, scale_factor=2.0, mode="trilinear") * 2


def pooled(factor: float, device: torch.device | str = "cpu") -> Tensor:
    """(4, 4) matrix from indices of a grid to those of one with ``factor`` times larger voxels and the same corner."""
    matrix = torch.diag(torch.tensor([1 / factor] * 3 + [1.0], dtype=torch.float64, device=device))
    matrix[:3, 3] = (1 / factor - 1) / 2
    return matrix


def centring(shape: Sequence[int], like: Tensor) -> Tensor:
    """(4, 4) matrix from voxels relative to the image centre to zero-based indices."""
    return translation((like.new_tensor(list(shape)) - 1) / 2)


def rigid_about(matrix: Tensor, point: Tensor) -> Tensor:
    """The rigid part of an affine matrix that sends ``point`` where the affine sends it.

    SPEC 2.5 keeps the translation instead, which displaces whatever is not at the origin.
    """
    rigid = spatial.rigid_part(matrix)
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
