"""What a mid-space adds to the affine transform: a displacement field in the world of one image.

The total transform of SPEC 3.3 step 4 is stored as ``T(p) = A (p + r(p))`` with a residual field ``r`` in millimetres
on a coarse grid of its own, zero where the networks see nothing, so that there the affine part holds.
"""
from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from . import spatial
from .geometry import Space, index_map
from .networks import MidSpace

REFINED_VOXEL = 1.5  # of a refined field, millimetres: with 2 mm, there and back is 0.13 mm off, with 1.5 mm 0.09
FOLDING = 0.02  # a Jacobian determinant below this may fold once the field is resampled
TAPER = 10  # voxels over which the field fades to zero beyond the networks' field of view
PATH = (0.0, 0.5, 1.0)  # where on its way through the mid-space a point is looked at
REACH = 2  # voxels around what has changed, because a path is looked at in few places


class Residual:
    """A velocity as a residual field in the world of the image whose points it moves."""

    def __init__(self, mid: MidSpace, source: Space, lattice: Space, forward: bool, steps: int, exactly: bool,
                 fades: bool) -> None:
        """
        Args:
            mid: the mid-space with its velocity.
            source: network space of the image whose points are moved: the fixed one if ``forward``.
            lattice: voxels on which to store the field; as many are used as are needed, also beyond its borders.
            forward: from the fixed to the moving image, or the other way.
            steps: of the integration.
            exactly: see :meth:`MidSpace.bent`.
            fades: whether the velocity is zero at the border of the mid-space.
        """
        device = mid.to_fixed.device
        to_source = mid.to_fixed if forward else mid.to_moving
        self.grid = _covered(lattice, source, mid, forward, fades)
        self._how = steps, forward, exactly
        to_mid = torch.linalg.inv(to_source) @ torch.as_tensor(index_map(self.grid, source), device=device)
        self._points = spatial.affine_grid(to_mid, self.grid.shape)
        self._bent = mid.bent(self._points, *self._how)
        # in the mid-space, points move by ``bent``; the affine part that follows takes them on to the other image
        self._to_world = torch.as_tensor(source.matrix, device=device) @ to_source
        self._taper = _taper(self.grid.shape, device, 1 if fades else TAPER)

    def update(self, mid: MidSpace, changed: Tensor) -> None:
        """Take over a velocity that differs from the last one where a mask (1, 1, x, y, z) of the mid-space is true."""
        near = F.max_pool3d(changed.float(), 2 * REACH + 1, 1, REACH)[0, 0] > 0
        touched = torch.cat([_passes(near, points, bent) for points, bent in zip(
            self._points.split(spatial.PLANES, 2), self._bent.split(spatial.PLANES, 2), strict=True)])
        self._bent[..., touched] = mid.bent(self._points[..., touched][:, :, None, None], *self._how)[:, :, 0, 0]

    def field(self) -> Tensor:
        """(1, 3, X, Y, Z) in LPS millimetres on the grid."""
        return spatial.linearly(self._to_world, self._bent) * self._taper

    def folds(self) -> Tensor:
        """(K, 3) voxels of the mid-space through which the points pass where the field (almost) folds."""
        to_index = torch.as_tensor(np.linalg.inv(self.grid.matrix), device=self._bent.device)
        low = spatial.smallest_determinant(spatial.linearly(to_index, self.field()))[0] < FOLDING
        return torch.cat([(self._points + part * self._bent)[0, :, low].T for part in PATH])


def _passes(marked: Tensor, points: Tensor, bent: Tensor) -> Tensor:
    """True where points (1, 3, X, Y, Z), or what they are bent to, are in marked voxels (x, y, z)."""
    result = torch.zeros(points.shape[2:], dtype=torch.bool, device=points.device)
    _, ny, nz = marked.shape
    for part in PATH:
        i, j, k = (c.round_().clamp_(0, n - 1) for c, n in zip((points + part * bent)[0], marked.shape, strict=True))
        result |= marked.flatten()[i.mul_(ny).add_(j).mul_(nz).add_(k).long()]  # floats count exactly to 2**24
    return result


def _covered(lattice: Space, source: Space, mid: MidSpace, forward: bool, fades: bool) -> Space:
    """The part of a lattice that the mid-space grid covers, with a margin for the taper.

    Args:
        lattice: voxels on which the residual field may be stored, around the source image.
        source: network space of the source image.
        mid: the mid-space.
        forward: whether the fixed image is the source.
        fades: whether the field is zero beyond the mid-space grid; otherwise all of the lattice is included.
    """
    to_source = (mid.to_fixed if forward else mid.to_moving).cpu().numpy()
    corners = np.stack(np.meshgrid(*[(0, n - 1) for n in mid.shape], indexing="ij"), -1).reshape(8, 3)
    world = source.to_world(corners @ to_source[:3, :3].T + to_source[:3, 3])
    index = lattice.to_index(world)
    low, high = np.floor(index.min(0)), np.ceil(index.max(0))
    if not fades:
        low, high = np.minimum(low, 0), np.maximum(high, np.array(lattice.shape) - 1)
    margin = 1 if fades else TAPER
    low, high = (low - margin).astype(int), (high + margin).astype(int)
    shift = np.eye(4)
    shift[:3, 3] = low
    x, y, z = (int(n) for n in high - low + 1)
    return Space((x, y, z), lattice.matrix @ shift)


def _taper(shape: tuple[int, int, int], device: torch.device, width: int) -> Tensor:
    """(1, 1, X, Y, Z): one inside, falling to zero over the padded outer voxels, ``width`` at each end."""
    window = torch.ones(1, 1, 1, 1, 1, device=device)
    for axis, n in enumerate(shape):
        distance = torch.minimum(torch.arange(n, device=device), torch.arange(n - 1, -1, -1, device=device))
        size = [1] * 5
        size[axis + 2] = n
        window = window * (distance / width).clamp(max=1.0).view(size)
    return window
