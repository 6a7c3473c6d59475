"""Spatial operations on voxel grids: sampling, composition and integration.

Volumes have shape (N, C, X, Y, Z) with axes in the order (i, j, k) of SPEC. Coordinates are zero-based voxel
indices with voxel centres at integers. A displacement field has shape (N, 3, X, Y, Z); channel ``c`` displaces
along axis ``c``, in voxels. A matrix has shape (4, 4) or (N, 4, 4) and acts on column vectors.

All functions are differentiable and run on the device of their arguments.
"""
from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from .matrices import homogeneous

Shape = Sequence[int]
PLANES = 16  # planes of a large grid looked at together, so that intermediate results stay in the CPU's cache


def identity_grid(shape: Shape, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32,
                  first: Shape = (0, 0, 0)) -> Tensor:
    """Voxel coordinates of every point of a grid, or of a part of one that begins at ``first``, (3, X, Y, Z)."""
    axes = [torch.arange(a, a + n, device=device, dtype=dtype) for a, n in zip(first, shape, strict=True)]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"))


def affine_grid(matrix: Tensor, shape: Shape) -> Tensor:
    """Coordinates ``matrix @ x`` for every point ``x`` of a grid, shape (N, 3, X, Y, Z) float32.

    The three axes are expanded separately, so that no homogeneous copy of the grid is ever made.
    """
    matrix = matrix if matrix.ndim == 3 else matrix[None]
    axes = [torch.arange(n, device=matrix.device, dtype=matrix.dtype) for n in shape]
    parts = [matrix[:, :3, d, None] * axis for d, axis in enumerate(axes)]
    coordinates = parts[0][..., None, None] + parts[1][..., None, :, None] + parts[2][..., None, None, :]
    return (coordinates + matrix[:, :3, 3, None, None, None]).float()


def affine_field(matrix: Tensor, shape: Shape) -> Tensor:
    """Displacement ``matrix @ x - x`` on a grid, shape (N, 3, X, Y, Z) (SPEC 4)."""
    eye = torch.eye(4, device=matrix.device, dtype=matrix.dtype)
    return affine_grid(homogeneous(matrix) - eye, shape)


def sample(volume: Tensor, coordinates: Tensor, mode: str = "linear", fill: float | None = None) -> Tensor:
    """Interpolate a volume at voxel coordinates (SPEC 4).

    Args:
        volume: (N, C, X, Y, Z).
        coordinates: (N, 3, *out), voxel indices into ``volume``.
        mode: "linear"; "quick", which is linear at points that are off by up to a thousandth of a voxel, and takes half
            the time on a CPU; or "nearest" (halves round to even).
        fill: value wherever a coordinate lies outside [0, n - 1]; None continues the edge voxels outwards.

    Returns:
        (N, C, *out).
    """
    size = coordinates.new_tensor(volume.shape[2:]).view(1, 3, 1, 1, 1)
    if mode == "nearest":
        values = _gather_nearest(volume, coordinates)
    elif mode in ("linear", "quick"):
        in_planes = (mode == "quick" and volume.device.type == "cpu" and volume.shape[0] == coordinates.shape[0] == 1
                     and min(volume.shape[2:]) > 1 and coordinates.numel() > 0)
        values = (_sample_in_planes if in_planes else _sample_linear)(volume, coordinates)
    else:
        raise ValueError(f"Interpolation mode must be 'linear', 'quick' or 'nearest', not {mode!r}.")
    if fill is None:
        return values
    inside = ((coordinates >= 0) & (coordinates <= size - 1)).all(dim=1, keepdim=True)
    return torch.where(inside, values, values.new_tensor(fill))


def _normalising(shape: Shape, like: Tensor) -> Tensor:
    """Voxels to the units of grid_sample, (1, 3, 1, 1, 1): the grid spans -1 to 1."""
    return (2 / (like.new_tensor(list(shape)) - 1).clamp(min=1)).view(1, 3, 1, 1, 1)


def _sample_linear(volume: Tensor, coordinates: Tensor) -> Tensor:
    """Trilinear interpolation with edge clamping through grid_sample, whose axes run backwards."""
    scale = _normalising(volume.shape[2:], coordinates).flatten()
    axes = zip(coordinates.unbind(1), scale, strict=True)
    return _sample_normalised(volume, torch.stack([c * s - 1 for c, s in axes][::-1], -1).to(volume.dtype))


def _sample_in_planes(volume: Tensor, coordinates: Tensor) -> Tensor:
    """Trilinear interpolation of one volume on the CPU with edge clamping.

    PyTorch interpolates in planes with vector instructions, and in volumes without. So every point is interpolated in
    the planes on either side of it, laid below each other as one picture, and then between them. Where the picture is
    high, single precision leaves its coordinates a little off.
    """
    planes, rows, columns = volume.shape[2:]
    x, y, z = coordinates[0]
    x = x.clamp(0, planes - 1)
    lower = x.floor().clamp_(max=planes - 2)
    begin, end = int(lower.amin()), int(lower.amax()) + 1
    sides = torch.cat([volume[:, :, begin:end], volume[:, :, begin + 1:end + 1]], 1).flatten(2, 3)
    row = (lower - begin).mul_(rows).add_(y.clamp(0, rows - 1))
    grid = torch.stack([z * (2 / (columns - 1)) - 1, row.mul_(2 / (sides.shape[2] - 1)).sub_(1)], -1)
    chunks = _cpu_chunks(volume, grid[None])
    values = F.grid_sample(sides.expand(chunks, -1, -1, -1), grid.view(chunks, 1, -1, 2), padding_mode="border",
                           align_corners=True)
    before, after = values.transpose(0, 1).reshape(2, volume.shape[1], *x.shape)
    return torch.lerp(before, after, x - lower)[None]


def _sample_normalised(volume: Tensor, grid: Tensor) -> Tensor:
    chunks = _cpu_chunks(volume, grid)
    if chunks > 1:  # one image uses one core only: give every core a part of the output
        parts = grid.reshape(chunks, 1, 1, -1, 3)
        values = F.grid_sample(volume.expand(chunks, -1, -1, -1, -1), parts, padding_mode="border", align_corners=True)
        return values.transpose(0, 1).reshape(1, volume.shape[1], *grid.shape[1:4])
    return F.grid_sample(volume, grid, padding_mode="border", align_corners=True)


def _cpu_chunks(volume: Tensor, grid: Tensor) -> int:
    if volume.device.type != "cpu" or volume.shape[0] != 1 or grid.shape[0] != 1:
        return 1
    points = grid.shape[1:4].numel()
    return max(n for n in range(1, torch.get_num_threads() + 1) if points % n == 0)


def _gather_nearest(volume: Tensor, coordinates: Tensor) -> Tensor:
    batch, channels = volume.shape[:2]
    index = torch.zeros_like(coordinates[:, 0], dtype=torch.long)
    for axis, n in enumerate(volume.shape[2:]):
        index = index * n + coordinates[:, axis].round().long().clamp(0, n - 1)
    flat = index.flatten(1)[:, None].expand(-1, channels, -1)
    return volume.flatten(2).gather(2, flat).view(batch, channels, *coordinates.shape[2:])


def warp(volume: Tensor, displacement: Tensor, mode: str = "linear", fill: float | None = None,
         first: Shape = (0, 0, 0)) -> Tensor:
    """Sample ``volume`` at ``x + displacement(x)`` for every ``x`` of the displacement's grid.

    That grid is part of the volume's own; ``first`` is the index of its first voxel.
    """
    grid = identity_grid(displacement.shape[2:], displacement.device, displacement.dtype, first)
    return sample(volume, grid + displacement, mode, fill)


def resample(volume: Tensor, matrix: Tensor, shape: Shape, mode: str = "linear", fill: float | None = 0.0) -> Tensor:
    """Sample ``volume`` at ``matrix @ x`` for every ``x`` of a new grid of ``shape``."""
    parts, shift = [], torch.eye(4, dtype=matrix.dtype, device=matrix.device)
    for first in range(0, shape[0], PLANES):
        shift[0, 3] = first
        grid = affine_grid(matrix @ shift, (min(PLANES, shape[0] - first), *shape[1:]))
        parts.append(sample(volume, grid, mode, fill))
    return torch.cat(parts, 2)


def integrate(velocity: Tensor, steps: int = 7) -> Tensor:
    """Displacement of the unit-time flow of a stationary velocity field by scaling and squaring (SPEC 5).

    ``integrate(-velocity)`` is the inverse map. With ``steps`` 0 the velocity itself is returned.
    """
    # kept in grid_sample's own units and axis order throughout, so that a squaring is two sums and one sampling
    scale = _normalising(velocity.shape[2:], velocity)
    grid = (identity_grid(velocity.shape[2:], velocity.device, velocity.dtype) * scale - 1).flip(1)
    flow = (velocity * (scale / 2**steps)).flip(1)
    for _ in range(steps):
        flow = flow + _sample_normalised(flow, (grid + flow).permute(0, 2, 3, 4, 1))
    return flow.flip(1) / scale


def linearly(matrix: Tensor, vectors: Tensor) -> Tensor:
    """Vectors (1, 3, X, Y, Z) under the linear part of a (4, 4) matrix."""
    return torch.einsum("ij,njxyz->nixyz", matrix[:3, :3].float(), vectors)


def flow(velocity: Tensor, points: Tensor, steps: int) -> Tensor:
    """Displacement of points by the unit-time flow of a stationary velocity field, followed by the midpoint rule.

    Scaling and squaring interpolates its own result at every step; this samples nothing but the velocity, so that the
    flow of ``-velocity`` leads back to where the points came from.

    Args:
        velocity: (1, 3, X, Y, Z) in voxels.
        points: (1, 3, *shape) voxel coordinates.
        steps: of the path; three are enough for the few voxels that anatomy moves.
    """
    return torch.cat([_followed(velocity, part, steps) for part in points.split(PLANES, 2)], 2)


def _followed(velocity: Tensor, points: Tensor, steps: int) -> Tensor:
    reached = points
    for _ in range(steps):
        middle = reached + sample(velocity, reached, "quick") / (2 * steps)
        reached = reached + sample(velocity, middle, "quick") / steps
    return reached - points


def compose(transforms: Sequence[Tensor], shape: Shape | None = None) -> Tensor:
    """Compose maps ``T1, ..., Tn`` into ``x -> T1(T2(...Tn(x)))`` (SPEC 4).

    Args:
        transforms: matrices, (4, 4) or (3, 4), and displacement fields, (1, 3, X, Y, Z).
        shape: output grid for a composition that ends in a matrix but contains a field; by default the grid
            of the rightmost field.

    Returns:
        A (4, 4) matrix if all are matrices, else a displacement field on the output grid.
    """
    *rest, current = transforms
    for left in reversed(rest):
        current = _compose_pair(left, current, shape)
    return homogeneous(current) if current.ndim == 2 else current


def _compose_pair(left: Tensor, right: Tensor, shape: Shape | None) -> Tensor:
    if left.ndim == 2 and right.ndim == 2:
        return homogeneous(left) @ homogeneous(right)
    if left.ndim == 2:
        grid = identity_grid(right.shape[2:], right.device, right.dtype)
        return transform_points(left, grid + right) - grid
    if right.ndim == 2:
        right = affine_field(right, shape or left.shape[2:])
    return right + warp(left, right)


def pooled(factor: float, device: torch.device | str = "cpu") -> Tensor:
    """(4, 4) matrix from indices of a grid to those of one with ``factor`` times larger voxels and the same corner."""
    matrix = torch.diag(torch.tensor([1 / factor] * 3 + [1.0], dtype=torch.float64, device=device))
    matrix[:3, 3] = (1 / factor - 1) / 2
    return matrix


def regrid(velocity: Tensor, shape: Sequence[int]) -> Tensor:
    """A displacement or velocity field on a grid of another density over the same box, in voxels of that grid."""
    if tuple(velocity.shape[2:]) == tuple(shape):
        return velocity
    factor = shape[0] / velocity.shape[2]
    return F.interpolate(velocity, size=list(shape), mode="trilinear" if factor > 1 else "area") * factor


def transform_points(matrix: Tensor, points: Tensor) -> Tensor:
    """Apply a (4, 4) or (3, 4) matrix to points of shape (N, 3, ...)."""
    matrix = matrix.to(points)
    shift = matrix[:3, 3].view(1, 3, *[1] * (points.ndim - 2))
    return torch.einsum("cd,nd...->nc...", matrix[:3, :3], points) + shift


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


def barycentres(features: Tensor, shape: Shape) -> Tensor:
    """Centres of mass of non-negative feature maps relative to the image centre (SPEC 2.2).

    Args:
        features: (N, M, X, Y, Z).
        shape: size of the image that the maps describe, in voxels.

    Returns:
        (N, M, 3) in voxels of that image; zero where a map is empty.
    """
    mass = features.sum(dim=(2, 3, 4))
    centres = []
    for axis, n in enumerate(features.shape[2:]):
        position = (torch.arange(n, device=features.device, dtype=features.dtype) - (n - 1) / 2) / n
        others = [d for d in (2, 3, 4) if d != axis + 2]
        centres.append(shape[axis] * (features.sum(dim=others) * position).sum(-1) / mass)
    return torch.where(mass[..., None] > 0, torch.stack(centres, -1), 0.0)


def waves(shape: Shape, device: torch.device | str = "cpu") -> Tensor:
    """Wave vectors of what ``torch.fft.rfftn`` makes of a grid, (3, X, Y, Z // 2 + 1), radians per voxel."""
    x, y, z = shape
    frequencies = (torch.fft.fftfreq(x, device=device), torch.fft.fftfreq(y, device=device),
                   torch.fft.rfftfreq(z, device=device))
    return 2 * torch.pi * torch.stack(torch.meshgrid(*frequencies, indexing="ij"))


def jacobian_determinant(displacement: Tensor) -> Tensor:
    """Determinant of the gradient of ``x + displacement(x)`` by central differences, shape (N, X, Y, Z)."""
    return _determinant(torch.gradient(displacement, dim=(2, 3, 4)))


def smallest_determinant(displacement: Tensor) -> Tensor:
    """Smaller of the Jacobian determinants by forward and by backward differences, (N, X, Y, Z).

    Central differences do not see a fold between neighbours that a finer grid would show.

    Args:
        displacement: (N, 3, X, Y, Z) in voxels.
    """
    parts = []
    for first in range(0, displacement.shape[2], PLANES):
        low = max(0, first - 1)  # with a neighbour on either side
        part = _one_sided(displacement[:, :, low:first + PLANES + 1])
        parts.append(part[:, first - low:first - low + PLANES])
    return torch.cat(parts, 1)


def _one_sided(displacement: Tensor) -> Tensor:
    steps = [displacement.diff(dim=axis) for axis in (2, 3, 4)]
    forward, backward = ([F.pad(step, [0] * (2 * (2 - axis)) + ends) for axis, step in enumerate(steps)]
                         for ends in ([0, 1], [1, 0]))
    return torch.minimum(_determinant(forward), _determinant(backward))


def _determinant(derivatives: Sequence[Tensor]) -> Tensor:
    """det(I + du/dx) from the derivatives of a displacement along the three axes, each (N, 3, X, Y, Z)."""
    eye = torch.eye(3).to(derivatives[0])
    a, b, c = (one + row.view(1, 3, 1, 1, 1) for one, row in zip(derivatives, eye, strict=True))
    return (a * torch.linalg.cross(b, c, dim=1)).sum(1)
