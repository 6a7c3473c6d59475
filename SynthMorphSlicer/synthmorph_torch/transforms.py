"""Spatial transforms in files and in use.

In memory a transform is a :class:`SimpleITK.Transform` that pulls: it maps *fixed* world points to *moving* world
points in LPS millimetres, so that sampling the moving image there gives the moved image. "Fixed" is the image on
whose grid it lives, "moving" the one it samples; for the opposite transform the two change places.

Files, by extension (reading and writing):

* ``.lta``: FreeSurfer matrix, RAS, stored from moving to fixed. ``.tfm .txt .mat .h5``: ITK, as in memory.
* ``.nrrd .mha .nii .nii.gz``: ITK displacement field on the fixed grid, vectors in LPS millimetres. In NIfTI it has
  five dimensions and intent VECTOR (1007), which all versions of ITK, ANTs and Slicer take for LPS. (ITK before 5.4
  misreads intent DISPVECT, which Slicer writes. Slicer shows a warning for VECTOR, and reads it correctly.)
* ``.mgz``: FreeSurfer warp on the fixed grid, vectors in RAS millimetres.

Read only: NIfTI with five dimensions and intent DISPVECT (1006), RAS: FreeSurfer 8 and Slicer. And NIfTI or .mgz with
(X, Y, Z, 3) voxels and no word on their meaning, taken for RAS millimetres, as older versions of mri_synthmorph
wrote them. VoxelMorph's scripts save *voxel* displacements in the same shape: these cannot be told apart.
"""
from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import SimpleITK as sitk
from numpy.typing import ArrayLike, NDArray

from . import freesurfer
from .errors import ImageError, SynthMorphError, TransformError, UsageError
from .files import ITK_MATRICES, MGH_IMAGES, check_output_path, extension, replacing
from .geometry import Matrix, Space, matrix_to_sitk_affine, sitk_affine_to_matrix, transform_points
from .images import quiet, read_itk, read_nifti_header, write_image

Grid: TypeAlias = sitk.Image | Space
PIXEL_TYPES = {"uint8": sitk.sitkUInt8, "int8": sitk.sitkInt8, "uint16": sitk.sitkUInt16, "int16": sitk.sitkInt16,
               "uint32": sitk.sitkUInt32, "int32": sitk.sitkInt32, "float32": sitk.sitkFloat32,
               "float64": sitk.sitkFloat64}
INTERPOLATORS = {"linear": sitk.sitkLinear, "nearest": sitk.sitkNearestNeighbor}
_DISPVECT, _VECTOR = 1006, 1007
_RAS = np.array([-1, -1, 1], np.float32)  # turns vectors from LPS to RAS and back
_log = logging.getLogger(__name__)


def affine_transform(matrix: ArrayLike) -> sitk.AffineTransform:
    """Transform from a (4, 4) matrix that maps fixed to moving world points."""
    return matrix_to_sitk_affine(matrix)


def residual_transform(residual: NDArray[np.floating], grid: Space, affine: ArrayLike) -> sitk.CompositeTransform:
    """Transform p -> affine(p + residual(p)).

    Args:
        residual: (3, X, Y, Z) displacement in LPS millimetres; should fade to zero at the edge of its grid, beyond
            which ITK takes it for zero.
        grid: where its voxels lie.
        affine: (4, 4), fixed to moving world points.
    """
    vectors = np.ascontiguousarray(np.transpose(residual, (3, 2, 1, 0)), dtype=np.float64)
    return sitk.CompositeTransform([affine_transform(affine), _field_transform(grid.image(vectors, vector=True))])


def _field_transform(field: sitk.Image) -> sitk.DisplacementFieldTransform:
    # The constructor takes the voxels away from its argument, hence the cast even if the type is right.
    return sitk.DisplacementFieldTransform(sitk.Cast(field, sitk.sitkVectorFloat64))


def matrix_of(transform: sitk.Transform) -> Matrix:
    """(4, 4) matrix of a linear transform, or of a composite of linear ones.

    Raises:
        TransformError: the transform is not linear.
    """
    return sitk_affine_to_matrix(transform)


def linear_part(transform: sitk.Transform) -> Matrix | None:
    """(4, 4) product of the linear members of a composite; None for a bare displacement field, which hides them."""
    if transform.IsLinear():
        return sitk_affine_to_matrix(transform)
    if transform.GetName() != "CompositeTransform":
        return None
    matrix, found = np.eye(4), False
    composite = sitk.CompositeTransform(transform)
    for n in range(composite.GetNumberOfTransforms()):  # the first acts last
        part = linear_part(composite.GetNthTransform(n))
        if part is not None:
            matrix, found = matrix @ part, True
    return matrix if found else None


def to_displacement_field(transform: sitk.Transform, reference: Grid) -> sitk.Image:
    """Displacement in LPS millimetres at every voxel of a grid: vectors of float32."""
    space = _space(reference)
    return sitk.TransformToDisplacementField(transform, sitk.sitkVectorFloat32, space.shape, space.origin.tolist(),
                                             space.spacing.tolist(), space.direction.ravel().tolist())


def displacement_slabs(transform: sitk.Transform, reference: Grid, overlap: int = 0, slices: int = 16
                       ) -> Iterator[tuple[int, int, Space, NDArray[np.float32]]]:
    """The displacement field of :func:`to_displacement_field` a few slices at a time, to save memory.

    Yields:
        first slice and end of the slab proper, the grid of the slab with up to ``overlap`` more slices on each
        side, and the displacements there, (slices, Y, X, 3).
    """
    space = _space(reference)
    nx, ny, nz = space.shape
    for first in range(0, nz, slices):
        end = min(first + slices, nz)
        low, high = max(first - overlap, 0), min(end + overlap, nz)
        shift = np.eye(4)
        shift[2, 3] = low
        slab = Space((nx, ny, high - low), space.matrix @ shift)
        yield first, end, slab, sitk.GetArrayFromImage(to_displacement_field(transform, slab))


def apply(transform: sitk.Transform, image: sitk.Image, reference: Grid, interpolation: str = "linear",
          fill: float = 0.0, dtype: str | None = None) -> sitk.Image:
    """Resample a moving image onto a reference grid.

    Args:
        transform: maps points of the reference to points of the image.
        image: image to resample.
        reference: image (or grid) that gives the grid of the result.
        interpolation: "linear" or "nearest".
        fill: value of voxels that lie outside the image.
        dtype: type of the result, a key of :data:`PIXEL_TYPES`; by default that of the image for "nearest", and
            float32 for "linear". Integers are rounded and clipped.

    Raises:
        UsageError: unknown interpolation or type.
    """
    if interpolation not in INTERPOLATORS:
        raise UsageError(f"Interpolation '{interpolation}' is unknown: choose linear or nearest.")
    if dtype is not None and dtype not in PIXEL_TYPES:
        raise UsageError(f"Data type '{dtype}' is unknown: choose one of {', '.join(PIXEL_TYPES)}.")
    linear = interpolation == "linear"
    wide = image.GetPixelID() in (sitk.sitkFloat64, sitk.sitkInt32, sitk.sitkUInt32, sitk.sitkInt64, sitk.sitkUInt64)
    working = image.GetPixelID() if not linear else sitk.sitkFloat64 if wide and dtype else sitk.sitkFloat32
    space = _space(reference)
    moved = sitk.Resample(image, space.shape, transform, INTERPOLATORS[interpolation], space.origin.tolist(),
                          space.spacing.tolist(), space.direction.ravel().tolist(), fill, working)
    return moved if dtype is None else convert(moved, dtype)


def convert(image: sitk.Image, dtype: str) -> sitk.Image:
    """Convert to another type; integers are rounded and clipped instead of cut off and wrapped around."""
    if np.dtype(dtype).kind in "iu":
        limits = np.iinfo(dtype)
        if image.GetPixelID() in (sitk.sitkFloat32, sitk.sitkFloat64):
            image = sitk.Round(image)
        return sitk.Clamp(image, PIXEL_TYPES[dtype], float(limits.min), float(limits.max))
    return sitk.Cast(image, PIXEL_TYPES[dtype])


def apply_to_points(transform: sitk.Transform, points: ArrayLike) -> NDArray[np.float64]:
    """Where a transform maps world points (LPS millimetres), (..., 3) to (..., 3).

    A ``fixed_to_moving`` transform takes points from the fixed to the moving image; landmarks of the moving image
    want its opposite.
    """
    points = np.asarray(points, dtype=np.float64)
    if transform.IsLinear():
        return transform_points(matrix_of(transform), points)
    mapped = [transform.TransformPoint(p) for p in points.reshape(-1, 3).tolist()]
    return np.reshape(mapped, points.shape)


def header_only(image: sitk.Image, transform: sitk.Transform) -> sitk.Image:
    """The moving image with its voxels untouched and a header that brings it onto the fixed image (SPEC 7).

    Scaling and shear of the matrix end up in the header: .nii.gz, .nrrd and .mha can hold a sheared grid, .mgz cannot.

    Args:
        image: moving image.
        transform: linear, fixed to moving world points.

    Raises:
        TransformError: the transform is not linear.
    """
    return Space.of(image).transformed(np.linalg.inv(matrix_of(transform))).stamp(sitk.Image(image))


def read_transform(path: str | Path) -> sitk.Transform:
    """Read a transform in any of the formats above.

    Raises:
        TransformError: missing or unreadable file, or one whose meaning cannot be known.
    """
    path, kind = Path(path), extension(path)
    if not path.is_file():
        raise TransformError(f"'{path}' does not exist: check the file name.")
    if kind == ".lta":
        return affine_transform(freesurfer.read_lta(path))
    if kind in ITK_MATRICES:
        return _read_itk_transform(path)
    try:
        if kind in MGH_IMAGES:
            return _read_mgh_warp(path)
        return _read_nifti_warp(path) if kind.startswith(".nii") else _read_field(path)
    except ImageError as error:
        raise TransformError(str(error)) from error


def _read_itk_transform(path: Path) -> sitk.Transform:
    try:
        with quiet():
            transform = sitk.ReadTransform(str(path))
    except RuntimeError as error:
        raise TransformError(f"'{path}' is damaged or no ITK transform: write it again.") from error
    if transform.GetDimension() != 3:
        raise TransformError(f"'{path}' holds a {transform.GetDimension()}-D transform: give a 3-D one.")
    if transform.IsLinear() and abs(np.linalg.det(matrix_of(transform)[:3, :3])) < 1e-9:
        raise TransformError(f"'{path}' holds a matrix without inverse: write it again.")
    return transform


def _read_field(path: Path) -> sitk.Transform:
    """A displacement field as ITK stores it: LPS millimetres."""
    field = read_itk(path)
    if field.GetDimension() != 3 or field.GetNumberOfComponentsPerPixel() != 3:
        raise TransformError(f"'{path}' is no displacement field: it needs three dimensions and three components.")
    return _checked(path, field)


def _checked(path: Path, field: sitk.Image) -> sitk.Transform:
    if not np.isfinite(sitk.GetArrayViewFromImage(field).sum(dtype=np.float64)):
        raise TransformError(f"'{path}' contains NaN or infinite displacements: write it again.")
    return _field_transform(field)


def _read_nifti_warp(path: Path) -> sitk.Transform:
    header = read_nifti_header(path)
    if header is None:
        raise TransformError(f"'{path}' is damaged or no NIfTI-1 file: write it again.")
    if len(header.dim) == 4 and header.dim[3] == 3:
        _log.warning("'%s' does not say what its vectors mean: taking them for RAS millimetres.", path)
        field = read_itk(path)
        vectors = np.moveaxis(sitk.GetArrayFromImage(field), 0, -1)
        space = Space.of(sitk.Extract(field, [*field.GetSize()[:3], 0]))
        return _from_freesurfer(path, vectors, space, freesurfer.DISPLACEMENT_RAS, None)
    if len(header.dim) != 5 or header.dim[3:] != (1, 3):
        raise TransformError(f"'{path}' is no displacement field: it needs the shape (X, Y, Z, 1, 3).")
    if header.intent not in (_DISPVECT, _VECTOR):
        raise TransformError(f"'{path}' does not say what its vectors mean: set the intent code to {_VECTOR} for LPS "
                             f"millimetres as ITK has them, or to {_DISPVECT} for RAS.")
    if header.intent_name.startswith("NREG_TRANS"):
        raise TransformError(f"'{path}' is a NiftyReg transform: convert it to an ITK displacement field first.")
    meaning = freesurfer.nifti_warp_format(header.extensions.get(14, b""))
    if meaning is None or meaning[0] == freesurfer.DISPLACEMENT_RAS or header.intent == _VECTOR:
        return _read_field(path)  # ITK 5.4 and later turns the vectors of DISPVECT from RAS to LPS
    field = read_itk(path)
    return _from_freesurfer(path, sitk.GetArrayFromImage(field) * _RAS, Space.of(field), *meaning)


def _read_mgh_warp(path: Path) -> sitk.Transform:
    volume = freesurfer.read_mgh(path)
    if volume.data.shape[3] != 3:
        raise TransformError(f"'{path}' is no warp: it has {volume.data.shape[3]} frames instead of 3.")
    meaning = volume.warp_format
    if meaning is None:
        _log.warning("'%s' does not say what its vectors mean: taking them for RAS millimetres.", path)
        meaning = freesurfer.DISPLACEMENT_RAS
    return _from_freesurfer(path, volume.data.transpose(2, 1, 0, 3), volume.space, meaning, volume.moving)


def _from_freesurfer(path: Path, vectors: NDArray[Any], space: Space, meaning: int, moving: Space | None
                     ) -> sitk.Transform:
    """Transform from a (Z, Y, X, 3) FreeSurfer warp in one of its four formats."""
    if meaning == freesurfer.DISPLACEMENT_RAS:
        return _checked(path, space.image(vectors * _RAS, vector=True))
    if meaning not in (freesurfer.ABSOLUTE_CRS, freesurfer.DISPLACEMENT_CRS, freesurfer.ABSOLUTE_RAS):
        raise TransformError(f"'{path}' has an unknown warp format ({meaning}): convert it with mri_warp_convert.")
    index = np.stack(np.meshgrid(*map(np.arange, vectors.shape[:3]), indexing="ij"), -1)[..., ::-1].astype(np.float64)
    world = space.to_world(index)
    if meaning == freesurfer.ABSOLUTE_RAS:
        target = np.asarray(vectors * _RAS, dtype=np.float64)
    elif moving is None:
        raise TransformError(f"'{path}' maps voxels of an image whose geometry it lacks: write it in RAS millimetres.")
    else:
        target = moving.to_world(vectors if meaning == freesurfer.ABSOLUTE_CRS else index + vectors)
    return _checked(path, space.image(target - world, vector=True))


def write_transform(transform: sitk.Transform, path: str | Path, fixed: Grid | None = None,
                    moving: Grid | None = None) -> None:
    """Write a transform in the format of its extension, whole or not at all.

    Args:
        transform: fixed to moving.
        path: file to write.
        fixed: grid on which to write a displacement field; needed for these and recorded in .lta.
        moving: recorded in .lta and .mgz, because FreeSurfer wants it.

    Raises:
        UsageError: unknown extension, or a warp in a matrix format. SynthMorphError: not writable.
    """
    check_output_path(path, "transform" if transform.IsLinear() else "warp")
    kind = extension(path)
    fixed_space, moving_space = (None if grid is None else _space(grid) for grid in (fixed, moving))
    if kind == ".lta":
        freesurfer.write_lta(path, matrix_of(transform), fixed_space, moving_space)
    elif kind in ITK_MATRICES:
        _write_itk_transform(transform, Path(path))
    elif fixed_space is None:
        raise UsageError(f"'{path}' needs the grid of the fixed image: give it, or write to .h5 instead.")
    else:
        field = to_displacement_field(transform, fixed_space)
        if kind in MGH_IMAGES:
            vectors = sitk.GetArrayFromImage(field) * _RAS
            freesurfer.write_mgh(path, vectors.transpose(2, 1, 0, 3), fixed_space, moving_space, warp=True)
        else:
            write_image(field, path)


def _write_itk_transform(transform: sitk.Transform, path: Path) -> None:
    if transform.IsLinear():
        transform = affine_transform(matrix_of(transform))  # one plain matrix, which every program reads
    elif shutil.disk_usage(path.resolve().parent).free < 8 * _size(transform) + 2**20:
        # ITK's HDF5 library crashes on a full disk and its text format does not notice: look first.
        raise SynthMorphError(f"'{path}' could not be written, the disk is full: make room or write elsewhere.")
    with replacing(path) as temporary, quiet():
        sitk.WriteTransform(transform, str(temporary))
        with open(temporary, "rb") as file:
            file.seek(-1, os.SEEK_END)
            if path.suffix.lower() in (".tfm", ".txt") and file.read() != b"\n":
                raise OSError("the file is shorter than it should be; the disk may be full")


def _size(transform: sitk.Transform) -> int:
    """How many numbers a transform consists of."""
    if transform.GetName() != "CompositeTransform":
        return int(transform.GetNumberOfParameters())
    composite = sitk.CompositeTransform(transform)
    return sum(_size(composite.GetNthTransform(n)) for n in range(composite.GetNumberOfTransforms()))


def _space(grid: Grid) -> Space:
    return grid if isinstance(grid, Space) else Space.of(grid)
