"""Reading, checking and writing images and label maps.

Images are :class:`SimpleITK.Image` objects with their geometry in LPS millimetres. How a header is to be understood
is left to ITK, so that Slicer and ANTs agree; a NIfTI qform code of 0, for one, means that the sform counts. There is
one addition: ITK refuses NIfTI files with a sheared sform, which FreeSurfer and others write for header-only affine
registration. They are read with their exact, sheared grid, which SimpleITK resamples correctly.
"""
from __future__ import annotations

import gzip
import math
import os
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from .errors import ImageError, UsageError
from .files import MGH_IMAGES, check_length, check_output_path, extension, replacing
from .freesurfer import read_mgh, write_mgh
from .geometry import Space

__all__ = ["check_image", "check_labels", "check_output_path", "check_overlap", "foreground", "from_array",
           "read_image", "read_labels", "to_array", "write_image"]

MAX_SHEAR = 1e-3  # cosine between two axes above which ITK's NIfTI writer would change the grid
MIN_DETERMINANT = 0.05  # of the direction cosines; two axes less than three degrees apart
MIN_CONTENT = 1e-4  # fraction of voxels that must differ from the background


def read_image(path: str | Path) -> sitk.Image:
    """Read a three-dimensional scalar image: NIfTI, NRRD, MetaImage, .mgz and whatever else ITK reads.

    Only what is needed to have an image at all is checked here; :func:`check_image` looks at the content.

    Raises:
        ImageError: missing or unreadable file, a dimension other than 3, vector or colour voxels.
    """
    path = Path(path)
    if not path.exists():
        raise ImageError(f"'{path}' does not exist: check the file name.")
    image = _read_mgh_image(path) if extension(path) in (*MGH_IMAGES, ".mgh.gz") else read_itk(path)
    _check_kind(image, f"'{path}'")
    return image


def _read_mgh_image(path: Path) -> sitk.Image:
    volume = read_mgh(path)
    frames = volume.data.shape[3]
    if frames != 1:
        raise ImageError(f"'{path}' holds {frames} frames: extract one 3-D volume, for example with mri_convert -f 0.")
    return volume.space.image(np.ascontiguousarray(volume.data[..., 0].transpose(2, 1, 0)))


def read_itk(path: Path) -> sitk.Image:
    """Read any image that ITK reads, vectors included, and make sure that a NIfTI file is all there.

    Raises:
        ImageError: it cannot be read.
    """
    header = read_nifti_header(path)
    with quiet():
        try:
            if header is not None:
                check_length(path, header.length)
            return sitk.ReadImage(str(path))
        except (OSError, RuntimeError) as error:
            problem = str(error)
        if header is not None and "orthonormal" in problem and (image := _read_sheared(path, header)) is not None:
            return image
    if path.is_dir():
        advice = "it is a folder: convert a DICOM series to one file first, for example with dcm2niix"
    elif not os.access(path, os.R_OK):
        advice = "it may not be read: change its permissions"
    elif "orthonormal" in problem or "determinant" in problem.lower():
        advice = "its direction matrix is singular: correct the header"
    elif "pacing" in problem:
        advice = "its voxel spacing is zero or negative: correct the header"
    else:
        advice = "it is damaged or in an unknown format: convert it to NIfTI"
    raise ImageError(f"'{path}' could not be read, {advice}.")


@contextmanager
def quiet() -> Iterator[None]:
    """Keep ITK's warnings, which are not for the user, off the terminal."""
    before = sitk.ProcessObject.GetGlobalWarningDisplay()
    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    try:
        yield
    finally:
        sitk.ProcessObject.SetGlobalWarningDisplay(before)


@dataclass(frozen=True)
class NiftiHeader:
    """The few fields of a NIfTI-1 header that ITK hides."""

    dim: tuple[int, ...]
    intent: int
    intent_name: str
    sform_code: int
    sform: NDArray[np.float64]  # (4, 4), index to RAS millimetres
    extensions: dict[int, bytes]
    length: int  # bytes of the whole file, uncompressed


def read_nifti_header(path: str | Path) -> NiftiHeader | None:
    """Header and extensions of a single-file NIfTI-1 image, or None if the file is something else."""
    opener = gzip.open if str(path).lower().endswith(".gz") else open
    try:
        with opener(path, "rb") as file:
            raw = file.read(352)
            if len(raw) < 352 or raw[344:347] != b"n+1":
                return None
            order = "<" if struct.unpack("<i", raw[:4])[0] == 348 else ">"
            offset = int(struct.unpack(order + "f", raw[108:112])[0])
            extensions, rest = {}, file.read(max(offset - 352, 0)) if raw[348] else b""
    except (OSError, EOFError, ValueError, OverflowError, zlib.error):
        return None
    while len(rest) >= 8 and (size := struct.unpack(order + "i", rest[:4])[0]) >= 8:
        extensions[struct.unpack(order + "i", rest[4:8])[0]] = rest[8:size]
        rest = rest[size:]
    dim = struct.unpack(order + "8h", raw[40:56])
    length = offset + math.prod(dim[1:1 + dim[0]]) * struct.unpack(order + "h", raw[72:74])[0] // 8
    sform = np.vstack([np.reshape(struct.unpack(order + "12f", raw[280:328]), (3, 4)), [0, 0, 0, 1]])
    return NiftiHeader(dim[1:1 + dim[0]], struct.unpack(order + "h", raw[68:70])[0],
                       raw[328:344].split(b"\0")[0].decode("latin-1"), struct.unpack(order + "h", raw[254:256])[0],
                       sform.astype(np.float64), extensions, length)


def _read_sheared(path: Path, header: NiftiHeader) -> sitk.Image | None:
    """A NIfTI image with the exact grid of a sform that ITK refuses, or None if that is not invertible."""
    if header.sform_code <= 0 or not np.isfinite(header.sform).all():
        return None
    setting = "ITK_NIFTI_SFORM_PERMISSIVE"
    before = os.environ.get(setting)
    os.environ[setting] = "1"  # makes ITK read the voxels, with the nearest straight grid
    try:
        image = sitk.ReadImage(str(path))
        if image.GetDimension() == 3:
            Space.from_ras(image.GetSize(), header.sform).stamp(image)
        return image
    except RuntimeError:
        return None
    finally:
        if before is None:
            del os.environ[setting]
        else:
            os.environ[setting] = before


def _check_kind(image: sitk.Image, name: str) -> None:
    """Refuse what is not a volume of scalars on an invertible grid, whatever its values."""
    components, dimension = image.GetNumberOfComponentsPerPixel(), image.GetDimension()
    if components > 1 or "complex" in image.GetPixelIDTypeAsString():
        kind = "a vector or colour image" if components > 1 else "a complex image"
        raise ImageError(f"{name} is {kind}: give an image with one real value per voxel.")
    if dimension != 3:
        advice = "extract one 3-D volume" if dimension > 3 else "give a 3-D volume"
        raise ImageError(f"{name} has {dimension} dimensions: {advice}.")
    thin = min(image.GetSize())
    if thin < 2:
        what = "is empty" if thin < 1 else "has only one slice"
        raise ImageError(f"{name} {what}: give a 3-D volume.")
    if not (np.isfinite(image.GetSpacing()).all() and min(image.GetSpacing()) > 0):
        raise ImageError(f"{name} has a voxel spacing of zero or below: correct the header.")
    determinant = np.linalg.det(np.reshape(image.GetDirection(), (3, 3)))
    if not (np.isfinite(image.GetOrigin()).all() and abs(determinant) > MIN_DETERMINANT):
        raise ImageError(f"{name} has a singular direction matrix: correct the header.")


def check_image(image: sitk.Image, name: str = "image") -> sitk.Image:
    """Refuse an image that cannot be registered.

    Args:
        image: any image.
        name: what to call it in messages: a path, or "moving image".

    Returns:
        The image, unchanged.

    Raises:
        ImageError: not a 3-D scalar volume of two slices or more, an invalid grid, NaN or infinite values, or
        (almost) all voxels the same.
    """
    name = f"The {name}" if not name.startswith(("The ", "'")) else name
    _check_kind(image, name)
    voxels = sitk.GetArrayViewFromImage(image)
    low, high = voxels.min(), voxels.max()
    if not (np.isfinite(low) and np.isfinite(high)):
        raise ImageError(f"{name} contains NaN or infinite values: replace them, for example by 0.")
    if low == high:
        kind = "empty" if low == 0 else "constant"
        raise ImageError(f"{name} is {kind}, every voxel is {low:g}: give another image.")
    content = min(np.count_nonzero(voxels != low), np.count_nonzero(voxels != high))
    if content <= MIN_CONTENT * voxels.size:
        raise ImageError(f"{name} is all background, only {content} voxels differ: give another image.")
    return image


def read_labels(path: str | Path, like: sitk.Image | None = None) -> sitk.Image:
    """Read a label map and check it as :func:`check_labels` does."""
    return check_labels(read_image(path), f"'{path}'", like)


def check_labels(labels: sitk.Image, name: str = "label map", like: sitk.Image | None = None) -> sitk.Image:
    """Refuse a label map that is none, or that does not belong to an image.

    Args:
        labels: a label map; integers stored as floating-point numbers are accepted.
        name: what to call it in messages.
        like: the image whose grid the labels must lie on.

    Returns:
        The labels with an integer type: unchanged if they had one, else 32-bit.

    Raises:
        ImageError: not a 3-D scalar volume, no integers, no label at all, or another grid.
    """
    name = f"The {name}" if not name.startswith(("The ", "'")) else name
    _check_kind(labels, name)
    voxels = sitk.GetArrayViewFromImage(labels)
    if voxels.dtype.kind == "f":
        if not np.isfinite([voxels.min(), voxels.max()]).all() or (voxels != np.rint(voxels)).any():
            raise ImageError(f"{name} contains values that are no integers: give a label map, not an intensity image "
                             "or one resampled with linear interpolation.")
        if np.abs(voxels).max() >= 2**31:
            raise ImageError(f"{name} contains values beyond 32-bit integers: renumber the labels.")
    if not voxels.any():
        raise ImageError(f"{name} contains no label, every voxel is 0: give another label map.")
    if like is not None and not Space.of(labels).same_as(Space.of(like), 0.1 * min(like.GetSpacing())):
        raise ImageError(f"{name} lies on another grid than its image: resample it onto that image with "
                         "nearest-neighbour interpolation.")
    return sitk.Cast(labels, sitk.sitkInt32) if voxels.dtype.kind == "f" else labels


def check_overlap(moving: sitk.Image, fixed: sitk.Image) -> None:
    """Refuse two images whose fields of view do not meet in the world.

    Only a registration that starts from the headers needs this: elsewhere each image is centred on its own.

    Raises:
        ImageError: there is no overlap.
    """
    first, second = Space.of(moving), Space.of(fixed)
    for inner, outer in ((first, second), (second, first)):
        steps = [np.linspace(-0.5, n - 0.5, 17) for n in inner.shape]
        world = inner.to_world(np.stack(np.meshgrid(*steps, indexing="ij"), -1))
        index = outer.to_index(world)
        if np.any(np.all((index >= -0.5) & (index <= np.array(outer.shape) - 0.5), axis=-1)):
            return
    raise ImageError("The fields of view of the moving and the fixed image do not overlap: align them first (an affine "
                     "registration does) or give an initial transform.")


def write_image(image: sitk.Image, path: str | Path) -> None:
    """Write an image in the format of its extension, whole or not at all.

    Raises:
        UsageError: unknown extension. ImageError: the format cannot hold the image. SynthMorphError: not writable.
    """
    check_output_path(path, "image")
    if extension(path) in MGH_IMAGES:
        voxels = sitk.GetArrayViewFromImage(image)
        if voxels.ndim != 3:
            raise UsageError(f"'{path}' cannot hold vectors: use another format.")
        write_mgh(path, voxels.transpose(2, 1, 0), Space.of(image))
        return
    direction = np.reshape(image.GetDirection(), (3, 3))
    sheared = extension(path).startswith(".nii") and np.abs(direction.T @ direction - np.eye(3)).max() > MAX_SHEAR
    with replacing(path) as temporary, quiet():
        plain = temporary.with_name("plain.nii") if sheared else temporary
        sitk.WriteImage(image, str(plain), useCompression=extension(path) != ".nii")
        if extension(path).startswith(".nii"):
            check_length(plain, sitk.GetArrayViewFromImage(image).nbytes + 352)
        if sheared:
            _write_sheared(plain, temporary, Space.of(image).ras)


def _write_sheared(plain: Path, target: Path, sform: NDArray[np.float64]) -> None:
    """Copy a NIfTI file, giving it the sheared sform that ITK would have straightened, and no qform."""
    raw = bytearray(plain.read_bytes())
    order = "<" if struct.unpack("<i", raw[:4])[0] == 348 else ">"
    struct.pack_into(order + "2h", raw, 252, 0, 1)
    struct.pack_into(order + "12f", raw, 280, *sform[:3].ravel())
    target.write_bytes(gzip.compress(raw, 6, mtime=0) if target.suffix == ".gz" else raw)


def to_array(image: sitk.Image) -> NDArray[np.float32]:
    """Voxels as a contiguous float32 array (i, j, k), ready for torch."""
    voxels = sitk.GetArrayViewFromImage(image)
    return np.ascontiguousarray(voxels.transpose(2, 1, 0), dtype=np.float32)


def from_array(array: NDArray[np.generic], space: Space) -> sitk.Image:
    """Image on a grid from an array (i, j, k), the opposite of :func:`to_array`."""
    return space.image(np.ascontiguousarray(array.transpose(2, 1, 0)))


def foreground(image: sitk.Image) -> sitk.Image:
    """Binary mask (uint8) of what is not background: a tenth of the range above the minimum or more.

    Simple on purpose: it must hold for any contrast, with or without skull, where Otsu's threshold may lose dark
    tissue. The 99.5th percentile stands for the maximum because of bright vessels and artefacts, and the 0.5th for the
    minimum because resampling overshoots: a few negative voxels would make a background of 0 look bright.
    """
    voxels = sitk.GetArrayViewFromImage(image)
    thinned = voxels[::2, ::2, ::2]
    low, high = (float(value) for value in np.percentile(thinned, (0.5, 99.5)))
    if high <= low:
        high = float(voxels.max())
    mask = sitk.GetImageFromArray((voxels > low + 0.1 * (high - low)).astype(np.uint8))
    mask.CopyInformation(image)
    return mask
