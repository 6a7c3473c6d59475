"""Grids in the world: index-to-world matrices, the network space, and matrices as ITK transforms.

World coordinates are millimetres in LPS, as in ITK: x grows to the Left, y to the Posterior, z to the
Superior. SPEC and FreeSurfer use RAS; the two differ by the sign of x and y (:func:`flip_frame`). Index
coordinates are (i, j, k), zero-based, with voxel centres at integers, in the order of SimpleITK's ``GetSize``.
All matrices are 4x4 float64 numpy arrays and act on column vectors.
"""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import SimpleITK as sitk
from numpy.typing import ArrayLike, NDArray

from .errors import TransformError

Matrix = NDArray[np.float64]

# Columns are the LPS directions of the network's axes: Left, Inferior, Anterior (SPEC 6, there in RAS).
NETWORK_DIRECTION: Matrix = np.array([[1.0, 0.0, 0.0], [0.0, 0.0, -1.0], [0.0, -1.0, 0.0]])
_RAS_LPS: Matrix = np.diag([-1.0, -1.0, 1.0, 1.0])


@dataclass(frozen=True, eq=False)
class Space:
    """A voxel grid placed in the world.

    Attributes:
        shape: voxels along i, j and k.
        matrix: index to LPS world in mm, (4, 4) float64.
    """

    shape: tuple[int, int, int]
    matrix: Matrix

    @classmethod
    def of(cls, image: sitk.Image) -> Space:
        """The grid of a three-dimensional image."""
        matrix = np.eye(4)
        matrix[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
        matrix[:3, 3] = image.GetOrigin()
        x, y, z = image.GetSize()
        return cls((x, y, z), matrix)

    @classmethod
    def from_ras(cls, shape: Sequence[int], matrix: ArrayLike) -> Space:
        """The grid given by an index-to-world matrix in RAS, as nibabel and FreeSurfer store it."""
        x, y, z = (int(n) for n in shape)
        return cls((x, y, z), _RAS_LPS @ np.asarray(matrix, dtype=np.float64))

    @property
    def ras(self) -> Matrix:
        """Index to RAS world."""
        return _RAS_LPS @ self.matrix

    @property
    def spacing(self) -> Matrix:
        """Voxel size along each index axis in mm, (3,)."""
        return np.linalg.norm(self.matrix[:3, :3], axis=0)

    @property
    def origin(self) -> Matrix:
        """World position of voxel (0, 0, 0), (3,)."""
        return self.matrix[:3, 3]

    @property
    def direction(self) -> Matrix:
        """Unit vectors of the index axes as columns, (3, 3)."""
        return self.matrix[:3, :3] / self.spacing

    @property
    def center(self) -> Matrix:
        """World centre by FreeSurfer's rule: index ``shape / 2``, half a voxel off the middle (SPEC 6)."""
        return self.to_world([n / 2 for n in self.shape])

    def to_world(self, points: ArrayLike) -> Matrix:
        """World positions of index points, (..., 3) to (..., 3)."""
        return transform_points(self.matrix, points)

    def to_index(self, points: ArrayLike) -> Matrix:
        """Index coordinates of world points, (..., 3) to (..., 3)."""
        return transform_points(np.linalg.inv(self.matrix), points)

    def corners(self) -> Matrix:
        """World positions of the eight outer corners of the grid (voxel edges, not centres), (8, 3)."""
        ends = [(-0.5, n - 0.5) for n in self.shape]
        return self.to_world(np.stack(np.meshgrid(*ends, indexing="ij"), axis=-1).reshape(8, 3))

    def scaled(self, factor: float) -> Space:
        """The grid of every ``factor``-th voxel, starting with the first (SPEC 2.1 for a factor of 2)."""
        x, y, z = (int(n / factor) for n in self.shape)
        return Space((x, y, z), self.matrix @ np.diag([factor, factor, factor, 1.0]))

    def transformed(self, world: ArrayLike) -> Space:
        """The same voxels moved by a (4, 4) world matrix, as a header-only transform does."""
        return Space(self.shape, np.asarray(world, dtype=np.float64) @ self.matrix)

    def same_as(self, other: Space, tolerance: float = 1e-3) -> bool:
        """Whether two grids agree in shape and, at every corner, in position within ``tolerance`` mm."""
        return self.shape == other.shape and bool(np.abs(self.corners() - other.corners()).max() <= tolerance)

    def stamp(self, image: sitk.Image) -> sitk.Image:
        """Write this grid into the header of ``image``, which must have the same shape, and return it.

        Raises:
            ValueError: the image has another shape.
        """
        if tuple(image.GetSize()) != self.shape:
            raise ValueError(f"An image of shape {image.GetSize()} does not fit a grid of shape {self.shape}.")
        image.SetOrigin(self.origin.tolist())
        image.SetSpacing(self.spacing.tolist())
        image.SetDirection(self.direction.ravel().tolist())
        return image

    def image(self, array: NDArray[np.generic], vector: bool = False) -> sitk.Image:
        """An image on this grid from an array in SimpleITK's order (k, j, i), or (k, j, i, c) for vectors."""
        return self.stamp(sitk.GetImageFromArray(array, isVector=vector))


def network_space(center: ArrayLike, extent: float, spacing: float = 1.0) -> Space:
    """The cube that a network sees: isotropic, without shear, axes Left, Inferior, Anterior (SPEC 6).

    Args:
        center: LPS world position of index (n/2, n/2, n/2), see :attr:`Space.center`.
        extent: edge length in mm; 192 or 256 for the official networks.
        spacing: voxel size in mm.
    """
    n = round(extent / spacing)
    matrix: Matrix = np.eye(4)
    matrix[:3, :3] = NETWORK_DIRECTION * spacing
    matrix[:3, 3] = np.asarray(center, dtype=np.float64) - matrix[:3, :3] @ np.full(3, n / 2)
    return Space((n, n, n), matrix)


def index_map(source: Space, target: Space) -> Matrix:
    """Matrix from the indices of ``source`` to the indices of ``target`` at the same world position."""
    return np.asarray(np.linalg.solve(target.matrix, source.matrix), dtype=np.float64)


def flip_frame(world: ArrayLike) -> Matrix:
    """Turn a world-to-world matrix from RAS to LPS or back; both directions are the same operation."""
    return _RAS_LPS @ np.asarray(world, dtype=np.float64) @ _RAS_LPS


def transform_points(matrix: ArrayLike, points: ArrayLike) -> Matrix:
    """Apply a (4, 4) matrix to points of shape (..., 3)."""
    matrix = np.asarray(matrix, dtype=np.float64)
    return np.asarray(points, dtype=np.float64) @ matrix[:3, :3].T + matrix[:3, 3]


def matrix_to_sitk_affine(matrix: ArrayLike) -> sitk.AffineTransform:
    """ITK transform that maps points by a (4, 4) LPS world matrix."""
    matrix = np.asarray(matrix, dtype=np.float64)
    transform = sitk.AffineTransform(3)
    transform.SetMatrix(matrix[:3, :3].ravel().tolist())
    transform.SetTranslation(matrix[:3, 3].tolist())
    return transform


def sitk_affine_to_matrix(transform: sitk.Transform) -> Matrix:
    """(4, 4) LPS world matrix of any linear ITK transform, whatever its parameters or centre.

    Raises:
        TransformError: the transform is not three-dimensional or not linear.
    """
    if transform.GetDimension() != 3 or not transform.IsLinear():
        raise TransformError(
            f"A matrix was expected but {transform.GetName()} is not linear in three dimensions; "
            "give an affine or rigid one."
        )
    origin = np.array(transform.TransformPoint((0.0, 0.0, 0.0)))
    matrix = np.eye(4)
    matrix[:3, 3] = origin
    for axis in range(3):
        unit = np.eye(3)[axis].tolist()
        matrix[:3, axis] = np.array(transform.TransformPoint(unit)) - origin
    return matrix
