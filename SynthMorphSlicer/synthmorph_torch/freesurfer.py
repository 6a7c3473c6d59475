"""FreeSurfer's formats, read and written without FreeSurfer: .mgz volumes and warps, and .lta matrices.

World coordinates in these files are RAS millimetres; :class:`geometry.Space` is LPS, and all conversion happens here.
The layouts were learnt from FreeSurfer's public documentation and from surfa 0.6.3, with which they are compatible.
"""
from __future__ import annotations

import gzip
import io
import re
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from .errors import ImageError, TransformError
from .files import replacing, write_text
from .geometry import Matrix, Space, flip_frame

# What the three components of a warp mean at an index of its grid ("CRS" are voxel coordinates of the moving image).
ABSOLUTE_CRS, DISPLACEMENT_CRS, ABSOLUTE_RAS, DISPLACEMENT_RAS = range(4)
_WARP_INTENT = 3
_HEADER = struct.Struct(">7ih15f")
_HEADER_BYTES = 284
_DTYPES = {0: ">u1", 1: ">i4", 2: ">i8", 3: ">f4", 4: ">i2", 10: ">u2"}
_TAG_GEOMETRY, _TAG_META, _TAG_GEOMETRY_SHEAR = 10, 13, 15
_GEOMETRY = struct.Struct(">i3i15f")
_NAME_BYTES = 512
_DEFAULT_GEOMETRY = [1.0, 1, 1, -1, 0, 0, 0, 0, -1, 0, 1, 0, 0, 0, 0]  # FreeSurfer's: 1 mm, coronal, centred


@dataclass
class Mgh:
    """Contents of an .mgh or .mgz file.

    Attributes:
        data: (X, Y, Z, frames), in the byte order of this machine.
        space: the grid.
        warp_format: one of the four formats above if the file says that it holds a warp, else None.
        moving: grid of the moving image, if the file holds a warp and names it.
    """

    data: NDArray[np.generic]
    space: Space
    warp_format: int | None = None
    moving: Space | None = None


def read_mgh(path: str | Path) -> Mgh:
    """Read an .mgh or .mgz file.

    Raises:
        ImageError: the file is missing, truncated or of another format.
    """
    try:
        raw = Path(path).read_bytes()
        content = gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw
        return _parse_mgh(content)
    except OSError as error:
        reason = (error.strerror or "it is damaged").lower()
        raise ImageError(f"'{path}' could not be read ({reason}): check the file name and permissions.") from error
    except (ValueError, KeyError, EOFError, struct.error, zlib.error) as error:
        raise ImageError(f"'{path}' is damaged or no FreeSurfer volume ({error}): write it again.") from error


def _parse_mgh(content: bytes) -> Mgh:
    fields = _HEADER.unpack_from(content)
    version, shape, code, has_geometry, geometry = fields[0], list(fields[1:5]), fields[5], fields[7], list(fields[8:])
    if version & 0xFF != 1 or min(shape) < 1:
        raise ValueError("unknown version")
    dtype = np.dtype(_DTYPES[code])
    count = int(np.prod(shape, dtype=np.int64))
    data = np.frombuffer(content, dtype, count, _HEADER_BYTES).reshape(shape, order="F")
    if not has_geometry:
        geometry = _DEFAULT_GEOMETRY
    result = Mgh(data.astype(dtype.newbyteorder("=")), _space(shape[:3], geometry))
    if (version >> 8) & 0xFFFF == _WARP_INTENT:
        result.warp_format, result.moving = _parse_mgh_tags(content[_HEADER_BYTES + data.nbytes + 20:])
    return result


def _parse_mgh_tags(content: bytes) -> tuple[int, Space | None]:
    """Format and moving grid of a warp from the tags at the end of an .mgz file."""
    stream, warp_format, moving = io.BytesIO(content), DISPLACEMENT_CRS, None
    while len(head := stream.read(4)) == 4:
        tag = int.from_bytes(head, "big")
        if tag == _TAG_GEOMETRY:  # has no length field
            moving = _read_geometry(stream, _NAME_BYTES)
            _read_geometry(stream, _NAME_BYTES)
        elif tag == _TAG_META:
            stream.read(8)
            warp_format = struct.unpack(">iif", stream.read(12))[0]
        elif tag in (1, 2, 11, 12, 20, 30):  # other tags without a length, after which nothing can be found
            break
        else:
            stream.seek(int.from_bytes(stream.read(8), "big"), 1)
    return warp_format, moving


def nifti_warp_format(extension: bytes) -> tuple[int, Space | None] | None:
    """Format and moving grid of a warp from FreeSurfer's NIfTI header extension (code 14), or None without."""
    if len(extension) < 4 or int.from_bytes(extension[1:3], "big") != _WARP_INTENT:
        return None
    stream, warp_format, moving = io.BytesIO(extension[4:]), DISPLACEMENT_RAS, None
    while len(head := stream.read(12)) == 12:
        tag, length = struct.unpack(">iq", head)
        content = stream.read(max(length, 0))
        if tag == _TAG_GEOMETRY:
            moving = _read_geometry(io.BytesIO(content), 0)
        elif tag == _TAG_META:
            warp_format = struct.unpack_from(">i", content)[0]
    return warp_format, moving


def _read_geometry(stream: BinaryIO, name_bytes: int) -> Space | None:
    valid, *numbers = _GEOMETRY.unpack(stream.read(_GEOMETRY.size))
    stream.read(name_bytes)
    return _space(numbers[:3], numbers[3:]) if valid else None


def _space(shape: list[int], geometry: list[float]) -> Space:
    """Grid from FreeSurfer's 15 numbers: spacing, direction cosines by column, world position of index shape/2."""
    values = np.array(geometry, dtype=np.float64)
    matrix = np.eye(4)
    matrix[:3, :3] = values[3:12].reshape(3, 3).T * values[:3]
    matrix[:3, 3] = values[12:] - matrix[:3, :3] @ (np.array(shape) / 2)
    return Space.from_ras(shape, matrix)


def _geometry(space: Space) -> list[float]:
    """FreeSurfer's 15 numbers of a grid, the opposite of :func:`_space`."""
    ras = space.ras
    center = ras @ [*(n / 2 for n in space.shape), 1]
    return [*space.spacing, *(ras[:3, :3] / space.spacing).T.ravel(), *center[:3]]


def write_mgh(path: str | Path, data: NDArray[np.generic], space: Space, moving: Space | None = None,
              warp: bool = False) -> None:
    """Write an .mgh or .mgz file.

    Args:
        path: compressed if it ends in .mgz.
        data: (X, Y, Z) or (X, Y, Z, frames); stored in the smallest type of the format that holds all values.
        space: grid of ``data``.
        moving: for a warp, grid of the moving image.
        warp: ``data`` is a displacement field in RAS millimetres.

    Raises:
        ImageError: the grid is sheared or values are too large for the format. SynthMorphError: not writable.
    """
    cosines = space.direction
    if np.abs(cosines.T @ cosines - np.eye(3)).max() > 1e-3:
        raise ImageError(f"'{path}' cannot hold a sheared grid: write to .nii.gz, or resample onto a straight grid.")
    code = _type_code(path, data)
    frames = data.shape[3] if data.ndim == 4 else 1
    version = (_WARP_INTENT << 8 | 1) if warp else 1
    header = _HEADER.pack(version, *space.shape, frames, code, 1, 1, *_geometry(space))
    with replacing(path) as temporary, open(temporary, "wb") as file:
        stream = gzip.GzipFile("", "wb", 6, file, mtime=0) if temporary.suffix == ".mgz" else file
        stream.write(header.ljust(_HEADER_BYTES, b"\0"))
        stream.write(np.asarray(data).astype(_DTYPES[code]).tobytes(order="F"))
        stream.write(struct.pack(">5f", 0, 0, 0, 0, float(max(np.multiply(space.spacing, space.shape)))))
        if warp:
            stream.write(_warp_tags(space, moving))
        if stream is not file:
            stream.close()


def _type_code(path: str | Path, data: NDArray[np.generic]) -> int:
    kind, size = data.dtype.kind, data.dtype.itemsize
    if kind == "f":
        return 3
    if kind in "bu" and size == 1:
        return 0
    if kind in "iu" and (size == 1 or (kind, size) == ("i", 2)):
        return 4
    if (kind, size) == ("u", 2):
        return 10
    if kind in "iu" and (not data.size or (data.min() >= -2**31 and data.max() < 2**31)):
        return 1
    raise ImageError(f"'{path}' cannot hold values of type {data.dtype} that large: write to .nii.gz instead.")


def _warp_tags(fixed: Space, moving: Space | None) -> bytes:
    """The tags by which FreeSurfer recognises a warp: both grids, twice, and the format."""
    plain, sheared = b"", b""
    for space in (moving, fixed):
        known = space or fixed  # an invalid geometry still needs plausible numbers
        packed = _GEOMETRY.pack(int(space is not None), *known.shape, *_geometry(known))
        plain += packed + bytes(_NAME_BYTES)
        sheared += packed + bytes(12 + _NAME_BYTES)
    meta = struct.pack(">iqiif", _TAG_META, 12, DISPLACEMENT_RAS, 1, 0.0)
    return (struct.pack(">i", _TAG_GEOMETRY) + plain
            + struct.pack(">iq", _TAG_GEOMETRY_SHEAR, len(sheared)) + sheared + meta)


def read_lta(path: str | Path) -> Matrix:
    """Fixed-to-moving world matrix (LPS, for sampling) of an .lta file, whose own direction is the opposite (SPEC 7).

    Raises:
        TransformError: the file is unreadable, of another type than 0 (voxels) or 1 (RAS), or singular.
    """
    try:
        text = re.sub(r"#.*", "", Path(path).read_text(encoding="utf-8", errors="replace"))
    except OSError as error:
        raise TransformError(f"'{path}' could not be read ({(error.strerror or 'error').lower()}): check the file "
                             "name and permissions.") from error
    kind = re.search(r"^\s*type\s*=\s*(\d+)", text, re.MULTILINE)
    rows = re.search(r"^\s*1\s+4\s+4\s*\n((?:.*\n){4})", text, re.MULTILINE)
    try:
        if kind is None or rows is None:
            raise ValueError
        matrix = np.array([line.split() for line in rows[1].splitlines()], dtype=np.float64).reshape(4, 4)
    except ValueError:
        raise TransformError(f"'{path}' is damaged or no LTA file: write it again.") from None
    if kind[1] == "0":
        source, target = (_lta_space(text, name) for name in ("src", "dst"))
        if source is None or target is None:
            raise TransformError(f"'{path}' maps voxels of images whose geometry it lacks: convert it with "
                                 "lta_convert, naming both images.")
        matrix = target.ras @ matrix @ np.linalg.inv(source.ras)
    elif kind[1] != "1":
        raise TransformError(f"'{path}' is an LTA of type {kind[1]}, and only 0 and 1 can be read: convert it to a "
                             "RAS-to-RAS matrix with lta_convert.")
    if not np.isfinite(matrix).all() or abs(np.linalg.det(matrix[:3, :3])) < 1e-9:
        raise TransformError(f"'{path}' holds a matrix without inverse: write it again.")
    return flip_frame(np.linalg.inv(matrix))


def lta_target(path: str | Path) -> Space | None:
    """Grid of the fixed image that an .lta file names, or None if it names none."""
    return _lta_space(re.sub(r"#.*", "", Path(path).read_text(encoding="utf-8", errors="replace")), "dst")


def _lta_space(text: str, name: str) -> Space | None:
    """Grid of the "src" or "dst" image of an LTA, if there is a valid one."""
    block = re.search(rf"^\s*{name} volume info\s*\n((?:\s*\w+\s*=.*\n?)+)", text, re.MULTILINE)
    if block is None:
        return None
    fields = dict(re.findall(r"(\w+)\s*=\s*(.*)", block[1]))
    try:
        if int(fields["valid"].split()[0]) == 0:
            return None
        shape = [int(n) for n in fields["volume"].split()]
        keys = ("voxelsize", "xras", "yras", "zras", "cras")
        return _space(shape, [float(n) for key in keys for n in fields[key].split()[:3]])
    except (KeyError, ValueError, IndexError):
        return None


def write_lta(path: str | Path, matrix: Matrix, fixed: Space | None = None, moving: Space | None = None) -> None:
    """Write a fixed-to-moving world matrix (LPS) as a RAS-to-RAS .lta, from moving to fixed (SPEC 7).

    Args:
        path: file to write.
        matrix: (4, 4), maps fixed to moving world points.
        fixed, moving: grids to record, which FreeSurfer needs to resample images.
    """
    rows = "\n".join(" ".join(f"{x:.15e}" for x in row) for row in flip_frame(np.linalg.inv(matrix)))
    write_text(path, "type      = 1 # LINEAR_RAS_TO_RAS\nnxforms   = 1\nmean      = 0.0000 0.0000 0.0000\n"
                     f"sigma     = 1.0000\n1 4 4\n{rows}\n"
                     f"src volume info\n{_lta_geometry(moving)}dst volume info\n{_lta_geometry(fixed)}")


def _lta_geometry(space: Space | None) -> str:
    known = space or _space([256, 256, 256], _DEFAULT_GEOMETRY)
    numbers = np.reshape(_geometry(known), (5, 3))
    lines = [f"valid = {int(space is not None)}  # volume info {'valid' if space else 'invalid'}", "filename = none",
             "volume = " + " ".join(str(n) for n in known.shape)]
    names = ("voxelsize", "xras  ", "yras  ", "zras  ", "cras  ")
    lines += [f"{name} = " + " ".join(f"{x:.15e}" for x in row) for name, row in zip(names, numbers, strict=True)]
    return "\n".join(lines) + "\n"
