"""Two images where they meet half-way, and how a velocity field makes them more alike there."""
from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from . import similarity, spatial
from .networks import MidSpace
from .similarity import LocalCorrelation
from .tones import Relation

LOOKS = 40  # planes, about, that tell how the contrasts of the images are related
SLAB = 1_200_000  # voxels looked at together on the CPU: of more, the intermediate results leave the cache
PROFILE = 0.3  # sigma of what a point in a thick slice shows of its surroundings, in slices
THICK = 2.0  # voxels of the mid-space; slices that are thinner than this do not matter

Sample = Callable[[int, Tensor, Sequence[int]], Tensor]
"""Samples the moving (0) or fixed image (1) itself: matrix from the indices of a new grid to those of its network
image, shape of the grid -> (1, 1, X, Y, Z)."""
Tile = tuple[slice, ...]


class Scene:
    """Both images on the mid-space at one resolution, and a velocity field on a grid of the same box.

    The field's grid may be coarser: the field is smooth, and integrating it costs more than looking at the images.
    """

    def __init__(self, moving: Tensor, fixed: Tensor, mid: MidSpace, spacing: float, image_voxel: float,
                 field_voxel: float, sample: Sample | None = None, brain: Tensor | None = None,
                 voxels: Sequence[Tensor] = ()) -> None:
        """
        Args:
            moving, fixed: network images (1, 1, N, N, N).
            mid: where the grid lies in them, with a velocity under which their contrasts are compared.
            spacing: voxel size of the mid-space in millimetres.
            image_voxel, field_voxel: voxel sizes of the images and of the field, as nearly as whole voxels allow.
            sample: samples images finer than those of the network; without it they are interpolated.
            brain: mask (1, 1, x, y, z) of what is to be compared; without it everything is.
            voxels: edges of a voxel of the moving and of the fixed image itself, (3, 3) each, as columns in voxels of
                its network image. Without them both images are taken to be equally fine.
        """
        assert mid.velocity is not None
        self.shape = [round(n * spacing / image_voxel) for n in mid.shape]
        self.field_voxel = max(field_voxel, spacing)
        self.field_shape = [round(n * spacing / self.field_voxel) for n in mid.shape]
        self.voxel = self.field_shape[0] / self.shape[0]  # an image voxel in field voxels
        scale = spatial.pooled(self.shape[0] / mid.shape[0], mid.to_fixed.device)
        images: list[Tensor] = []
        for k, (image, matrix) in enumerate(((moving, mid.to_moving), (fixed, mid.to_fixed))):
            finer = float(torch.linalg.det((matrix @ scale)[:3, :3]).abs()) < 0.9
            images.append(sample(k, matrix @ scale, self.shape) if sample and finer
                          else spatial.resample(image, matrix @ scale, self.shape))
        if voxels:
            edges = edges_on((mid.to_moving @ scale, mid.to_fixed @ scale), voxels)
            images = [_as_coarse(images[0], *edges), _as_coarse(images[1], *edges[::-1])]
        inside = torch.ones_like(images[0]) if brain is None else F.interpolate(
            brain, size=self.shape, mode="trilinear")
        self.images, self.inside = images, inside
        self.tiles = list(_tiles(inside[0, 0] > 0, similarity.RADIUS))
        self.compare(mid.velocity)

    def compare(self, velocity: Tensor) -> None:
        """Look anew how the tones are related; a velocity on a grid of any density over the same box aligns them."""
        relation = self._relation(spatial.regrid(velocity, self.field_shape))
        moving, fixed = self.images
        self.measure = LocalCorrelation(moving, fixed, relation, self.inside)

    def _relation(self, velocity: Tensor) -> Relation:
        """How the tones of the images are related, going by planes half-way."""
        halves, seen = halves_of(velocity), []
        rows, columns = (slice(0, n) for n in self.shape[1:])
        for x in range(0, self.shape[0], max(1, self.shape[0] // LOOKS)):
            displacements = self._enlarged(halves, (slice(x, x + 1), rows, columns))
            moving, fixed = (spatial.warp(image, d, "quick", first=(x, 0, 0))
                             for image, d in zip(self.images, displacements, strict=True))
            weight = similarity.foreground(moving, fixed) * self.inside[:, :, x:x + 1]
            seen.append(torch.cat([moving, fixed, weight]).flatten(1))
        return Relation.of(*torch.cat(seen, 1))

    def similarity(self, velocity: Tensor) -> float:
        """Similarity of the images warped half-way by a velocity on a grid of any density over the same box."""
        return self.ascent(spatial.regrid(velocity, self.field_shape))[0]

    def ascent(self, velocity: Tensor) -> tuple[float, Tensor]:
        """Similarity of the images warped half-way, and its ascent direction on the field's grid."""
        halves, halo = halves_of(velocity), self.measure.HALO
        total, weight = 0.0, 0.0
        # averaged over the field's voxels along two axes at once, so that the whole is never stored
        direction = velocity.new_zeros(3, self.shape[0], *self.field_shape[1:])
        for tile in self.tiles:
            wider, core = self._widened(tile, halo)
            found = self.measure.ascent(*self._enlarged(halves, wider), [w.start for w in wider])
            values, weights, part = (one[0][core] for one in found)
            total, weight = total + float(values.sum()), weight + float(weights.sum())
            planes = velocity.new_zeros(3, part.shape[1], *self.shape[1:])
            planes[:, :, tile[1], tile[2]] = part
            direction[:, tile[0]] = F.interpolate(planes, size=self.field_shape[1:], mode="area")
        return total / max(weight, 1.0), F.interpolate(direction[None], size=self.field_shape, mode="area")

    def _widened(self, tile: Tile, halo: int) -> tuple[Tile, Tile]:
        """A tile with a halo as far as the grid goes, and where in it the tile lies (with a slice for channels)."""
        wider = tuple(slice(max(0, s.start - halo), min(n, s.stop + halo))
                      for s, n in zip(tile, self.shape, strict=True))
        core = (slice(s.start - w.start, s.stop - w.start) for s, w in zip(tile, wider, strict=True))
        return wider, (slice(None), *core)

    def _enlarged(self, halves: Tensor, tile: Tile) -> tuple[Tensor, Tensor]:
        """The displacements of both images in a part of their grid, (1, 3, X, Y, Z) in voxels of that grid."""
        n, planes = self.field_shape[0], tile[0]
        position = (torch.arange(planes.start, planes.stop, device=halves.device) + 0.5) * self.voxel - 0.5
        position = position.clamp(0, n - 1)
        lower = position.floor().long()
        values = torch.lerp(halves[:, :, lower], halves[:, :, (lower + 1).clamp(max=n - 1)],
                            (position - lower).view(-1, 1, 1))
        values = F.interpolate(values.flatten(1, 2), size=self.shape[1:], mode="bilinear")[..., tile[1], tile[2]]
        forward, backward = (values / self.voxel).unflatten(1, (3, -1))
        return forward[None], backward[None]


def edges_on(matrices: Sequence[Tensor], voxels: Sequence[Tensor]) -> list[Tensor]:
    """Edges of a voxel of each image in voxels of a grid; ``matrices`` lead from there to the network images."""
    return [torch.linalg.inv(matrix[:3, :3]) @ edge for matrix, edge in zip(matrices, voxels, strict=True)]


def halves_of(velocity: Tensor) -> Tensor:
    """Half-way displacements of the moving and of the fixed image, (2, 3, x, y, z) in voxels, for (1, 3, x, y, z)."""
    halves = torch.cat([velocity, -velocity]) / 2
    # one step by the midpoint rule, which is enough for the few voxels that they are long, and quick
    return torch.cat([spatial.warp(half, half / 2, "quick") for half in halves.split(1)])


def _as_coarse(image: Tensor, own: Tensor, other: Tensor) -> Tensor:
    """An image with no more detail along any direction than another one has.

    Args:
        image: (1, 1, X, Y, Z).
        own, other: edges of a voxel in which this and the other image were taken, (3, 3) columns in voxels of the grid.
    """
    lacking = PROFILE**2 * (other @ other.T - own @ own.T)
    if float(torch.linalg.eigvalsh(lacking)[-1]) < (PROFILE * THICK)**2:
        return image
    waves = spatial.waves(image.shape[2:], image.device)
    variance = (waves * torch.einsum("ab,bXYZ->aXYZ", lacking.to(waves), waves)).sum(0).clamp(min=0)
    spectrum = torch.fft.rfftn(image, dim=(2, 3, 4)) * torch.exp(-variance / 2)
    return torch.fft.irfftn(spectrum, s=image.shape[2:], dim=(2, 3, 4))


def _tiles(inside: Tensor, reach: int) -> Iterator[Tile]:
    """Boxes, a slab of planes each, that together hold all that is at most ``reach`` voxels from a mask (X, Y, Z)."""
    x, y, z = inside.shape
    thickness = max(8, SLAB // (y * z)) if inside.device.type == "cpu" else x
    for first in range(0, x, thickness):
        last = min(x, first + thickness)
        near = inside[max(0, first - reach):last + reach].any(0)
        if near.any():
            yield slice(first, last), _extent(near.any(1), reach), _extent(near.any(0), reach)


def _extent(line: Tensor, reach: int) -> slice:
    """From ``reach`` before the first to ``reach`` after the last true value."""
    where = line.nonzero().flatten()
    return slice(max(0, int(where[0]) - reach), min(len(line), int(where[-1]) + 1 + reach))
