"""VoxelMorph: networks that compare the images themselves.

Those of 2018 (SPEC 9) are here for comparison with earlier work. Balakrishnan et al., CVPR 2018 ("vm1", "vm2"): a
displacement field on the full grid. Dalca et al., MICCAI 2018 ("miccai"): a stationary velocity field at half
resolution. Images must be affinely aligned, skull-stripped and in [0, 1], and every axis divisible by 16. The
published weights are under the GPL and no part of this project.

``VoxelMorphNetworks`` are for networks trained here without labels, see :mod:`.training.voxelmorph`.
"""
from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from . import spatial
from .errors import ImageError, UsageError, WeightsError
from .networks import LEAK, Kernels, MidSpace, Widths, symmetric_velocity
from .weights import open_arrays
from .weights.loading import to_kernel

STEPS = 7


@dataclass(frozen=True)
class Variant:
    """Filters of the convolutions after the encoder: at half resolution and coarser, then at full resolution."""

    name: str
    decoder: tuple[int, ...]
    full: tuple[int, ...]
    outputs: int  # 1: displacement; 2: mean and log sigma of a velocity field

    def layers(self) -> list[tuple[int, int]]:
        """Channels (in, out) of every convolution in stored order."""
        encoder = [(2, 16), (16, 32), (32, 32), (32, 32)]
        inputs = [32, 64, 64, 48, 32]
        layers = [*encoder, *zip(inputs, self.decoder, strict=True)]
        channels = self.decoder[-1]
        for number, width in enumerate(self.full):
            layers.append((channels + 2 * (number == 0), width))
            channels = width
        return layers + [(channels, 3)] * self.outputs


VARIANTS = (
    Variant("vm1", (32, 32, 32, 32, 8), (8,), 1),
    Variant("vm2", (32, 32, 32, 32, 32), (16, 16), 1),
    Variant("miccai", (32, 32, 32, 32, 16), (), 2),
)


class VoxelMorph2018(nn.Module):
    """One of the three networks; call it with moving and fixed images (N, 1, X, Y, Z).

    It returns the displacement in voxels on the full fixed grid, (N, 3, X, Y, Z): sample the moving image at
    ``x + displacement(x)`` with the edge continued.
    """

    def __init__(self, variant: Variant) -> None:
        super().__init__()
        self.variant = variant
        # Keras pads a stride of 2 on an even size behind the image only; padding=1 would shift it by a voxel
        self.convolutions = nn.ModuleList(
            nn.Conv3d(i, o, 3, stride=2) if number < 4 else nn.Conv3d(i, o, 3, padding=1)
            for number, (i, o) in enumerate(variant.layers())
        )

    @classmethod
    def load(cls, path: str | Path) -> VoxelMorph2018:
        """Read a published Keras file; its shapes tell which network it holds.

        Raises:
            WeightsError: the file is missing, damaged or holds another network.
        """
        with open_arrays(path) as stored:
            shapes = stored.shapes()
            for variant in VARIANTS:
                if shapes == [s for i, o in variant.layers() for s in ((3, 3, 3, i, o), (o,))]:
                    break
            else:
                raise WeightsError(
                    f"'{path}' holds {len(shapes)} arrays that are not those of a 2018 VoxelMorph network (22 or 24 "
                    "arrays of fixed sizes): give one of the published cvpr2018 or miccai2018 files."
                )
            network = cls(variant)
            arrays = [torch.from_numpy(stored.read(n)) for n in range(len(shapes))]
        state = [to_kernel(a.numpy()) if a.ndim == 5 else a for a in arrays]
        network.load_state_dict(dict(zip(network.state_dict(), state, strict=True)))
        return network.requires_grad_(False).eval()

    def outputs(self, moving: Tensor, fixed: Tensor) -> list[Tensor]:
        """What the last convolutions give: [displacement], or [mean, log sigma] of the velocity at half resolution.

        Raises:
            ImageError: the sizes differ or are not divisible by 16.
        """
        if moving.shape != fixed.shape or any(n % 16 for n in fixed.shape[2:]):
            raise ImageError("VoxelMorph needs two images of one shape, divisible by 16 on every axis: resample them.")
        layers = iter(self.convolutions)
        x = images = torch.cat([moving, fixed], 1)
        skips = []
        for _ in range(4):
            x = F.leaky_relu(next(layers)(F.pad(x, (0, 1) * 3)), LEAK)
            skips.append(x)
        x = F.leaky_relu(next(layers)(skips.pop()), LEAK)
        for skip in reversed(skips):
            x = F.leaky_relu(next(layers)(_upsampled(x, skip)), LEAK)
        x = F.leaky_relu(next(layers)(x), LEAK)
        for number in range(len(self.variant.full)):
            x = F.leaky_relu(next(layers)(_upsampled(x, images) if number == 0 else x), LEAK)
        return [layer(x) for layer in layers]

    def forward(self, moving: Tensor, fixed: Tensor) -> Tensor:
        first, *rest = self.outputs(moving, fixed)
        if not rest:
            return first
        half = 2 * spatial.integrate(first, STEPS)  # the mean of the posterior, without noise
        grid = spatial.identity_grid(fixed.shape[2:], fixed.device)[None] / 2
        return spatial.sample(half, grid.expand(len(half), -1, -1, -1, -1))


def _upsampled(x: Tensor, skip: Tensor) -> Tensor:
    return torch.cat([F.interpolate(x, scale_factor=2.0, mode="nearest"), skip], 1)


@dataclass
class VoxelMorphNetworks:
    """A network trained on images alone, behind the face that registrations expect (see :class:`.models.Networks`).

    Its U-Net lacks the last upsampling, so the velocity has half the density of the images. It deforms images that
    are aligned already; how smooth the warp is was settled when it was trained, so lambda changes nothing.
    """

    widths: Widths
    kernels: Kernels
    spacing: float = 2.0
    residual_factor: int = 1
    fades: bool = False

    def affine(self, moving: Tensor, fixed: Tensor, rigid: bool) -> Tensor:
        raise UsageError("A VoxelMorph network deforms aligned images only: choose the transform 'deform' (-m deform), "
                         "if need be with an initial affine transform (-i).")

    def mid_space(self, moving: Tensor, fixed: Tensor, align: bool) -> MidSpace:
        if align:
            self.affine(moving, fixed, False)
        double = torch.linalg.inv(spatial.pooled(2.0, moving.device))
        x, y, z = (n // 2 for n in moving.shape[2:])
        return MidSpace(double, double, (x, y, z))

    def velocity(self, moving: Tensor, fixed: Tensor, mid: MidSpace, regularization: float) -> Tensor:
        return symmetric_velocity(moving, fixed, self.widths, self.kernels)
