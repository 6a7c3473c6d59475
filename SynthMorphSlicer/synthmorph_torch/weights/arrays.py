"""Arrays in files: Keras HDF5 in stored order (SPEC 1.1) and safetensors, both read piece by piece.

Slicer brings neither h5py nor safetensors. The safetensors format is simple enough to be read here with numpy: an
8-byte little-endian header length, a JSON header, then the raw arrays. Neither format can carry code.
"""
from __future__ import annotations

import json
import math
import os
import struct
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import WeightsError
from ..files import replacing

KERAS_FORMAT = "synthmorph-keras-order"  # safetensors files whose arrays have Keras' layouts and order
_HDF5_SIGNATURE = b"\x89HDF\r\n\x1a\n"
_HEADER_LIMIT = 100 << 20
_DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "I64": torch.int64,
    "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool,
}
_CODES = {dtype: name for name, dtype in _DTYPES.items()}


@dataclass
class StoredArrays:
    """The arrays of a weight file in stored order, on disk until they are asked for.

    ``arrays`` holds objects with a ``shape`` that give a numpy array when sliced, such as h5py datasets.
    """

    path: Path
    arrays: Sequence[Any]
    metadata: Mapping[str, str] = field(default_factory=dict)

    def shapes(self) -> list[tuple[int, ...]]:
        """Shape of every array."""
        return [tuple(int(n) for n in array.shape) for array in self.arrays]

    def read(self, number: int, rows: int | slice | None = None) -> np.ndarray:
        """One array, or some of its rows, as float32."""
        try:
            part = self.arrays[number][slice(None) if rows is None else rows]
        except (OSError, ValueError) as error:
            raise _damaged(self.path, error) from error
        return np.require(part, dtype=np.float32, requirements="W")


@contextmanager
def open_arrays(path: str | Path) -> Iterator[StoredArrays]:
    """Open a weight file, Keras HDF5 or safetensors.

    Raises:
        WeightsError: the file is missing, damaged, of another format, or h5py is needed and missing.
    """
    path = Path(path)
    kind = file_kind(path)
    if kind == "hdf5":
        with _open_hdf5(path) as file:
            yield StoredArrays(path, _in_stored_order(path, file))
    else:
        tensors, metadata = _map_safetensors(path)
        yield StoredArrays(path, [tensors[name] for name in sorted(tensors)], metadata)


def file_kind(path: Path) -> str:
    """"hdf5" or "safetensors", told by content.

    Raises:
        WeightsError: the file cannot be read or is neither.
    """
    try:
        with open(path, "rb") as file:
            start = file.read(9)
    except FileNotFoundError:
        raise WeightsError(f"There is no weight file '{path}': check the path.") from None
    except OSError as error:
        raise WeightsError(f"'{path}' cannot be read as a weight file ({error.strerror}).") from error
    if start[:8] == _HDF5_SIGNATURE:
        return "hdf5"
    if start[8:9] == b"{" and struct.unpack("<Q", start[:8])[0] < _HEADER_LIMIT:
        return "safetensors"
    raise WeightsError(
        f"'{path}' is no weight file of a kind that is read here (HDF5 .h5 or .safetensors); it may be an incomplete "
        "download or a placeholder, so fetch it again."
    )


def _damaged(path: Path, error: Exception) -> WeightsError:
    return WeightsError(f"'{path}' is damaged ({error}): fetch or copy it again.")


# Keras HDF5 --------------------------------------------------------------------------------------------------

@contextmanager
def _open_hdf5(path: Path) -> Iterator[Any]:
    try:
        import h5py  # type: ignore[import-untyped]  # not in Slicer, and needed for official files only
    except ImportError:
        raise WeightsError(f"Reading '{path}' needs the Python package h5py: run 'pip install h5py'.") from None
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        raise _damaged(path, error) from error
    with file:
        yield file


def _in_stored_order(path: Path, file: Any) -> list[Any]:
    """Datasets reached by walking layer_names, then weight_names; names mean nothing beyond that."""
    root = file.get("model_weights", file)
    try:
        return [
            root[layer][weight]
            for layer in _names(root.attrs, "layer_names")
            for weight in _names(root[layer].attrs, "weight_names")
        ]
    except (KeyError, OSError, RuntimeError) as error:
        raise WeightsError(
            f"'{path}' is an HDF5 file but holds no weights written by Keras 2 (save_weights): use one of the official "
            "SynthMorph files."
        ) from error


def _names(attributes: Any, name: str) -> list[str]:
    """A list attribute, which Keras splits into numbered parts where it exceeds 64 kB."""
    if name in attributes:
        parts = [attributes[name]]
    else:
        parts = []
        while f"{name}{len(parts)}" in attributes:
            parts.append(attributes[f"{name}{len(parts)}"])
        if not parts:
            raise KeyError(name)
    return [item.decode() if isinstance(item, bytes) else str(item) for part in parts for item in part]


# safetensors -------------------------------------------------------------------------------------------------

def read_safetensors(path: str | Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """All tensors of a safetensors file by name, and its metadata.

    Raises:
        WeightsError: the file is missing or damaged.
    """
    path = Path(path)
    header, metadata, start = _read_header(path)
    tensors = {}
    with open(path, "rb") as file:
        for name, (dtype, shape, begin, end) in header.items():
            file.seek(start + begin)
            buffer = bytearray(file.read(end - begin))
            flat = torch.frombuffer(buffer, dtype=dtype) if buffer else torch.empty(0, dtype=dtype)
            tensors[name] = flat.reshape(shape)
    return tensors, metadata


def _map_safetensors(path: Path) -> tuple[dict[str, Any], dict[str, str]]:
    """Float32 arrays of a safetensors file as memory maps."""
    header, metadata, start = _read_header(path)
    if any(dtype != torch.float32 for dtype, *_ in header.values()):
        raise WeightsError(f"'{path}' holds other numbers than float32 and is no converted SynthMorph file.")
    return {
        name: np.memmap(path, dtype="<f4", mode="r", offset=start + begin, shape=shape)
        for name, (_, shape, begin, _) in header.items()
    }, metadata


def read_metadata(path: str | Path) -> dict[str, str]:
    """Metadata of a safetensors file.

    Raises:
        WeightsError: the file is missing or damaged.
    """
    return _read_header(Path(path))[1]


_Header = dict[str, tuple[torch.dtype, tuple[int, ...], int, int]]


def _read_header(path: Path) -> tuple[_Header, dict[str, str], int]:
    """Type, shape and byte range of every tensor, the metadata, and where the data begin; all of it checked."""
    if file_kind(path) != "safetensors":
        raise WeightsError(f"'{path}' is not a safetensors file: give one that ends in .safetensors.")
    try:
        with open(path, "rb") as file:
            length = struct.unpack("<Q", file.read(8))[0]
            raw = json.loads(file.read(length))
        size = os.path.getsize(path) - 8 - length
        metadata = {str(k): str(v) for k, v in raw.pop("__metadata__", {}).items()}
        header: _Header = {}
        for name, entry in raw.items():
            dtype, (begin, end) = _DTYPES[entry["dtype"]], entry["data_offsets"]
            shape = tuple(int(n) for n in entry["shape"])
            if end - begin != math.prod(shape) * dtype.itemsize or not 0 <= begin <= end <= size:
                raise ValueError(f"{name} lies outside the file")
            header[name] = dtype, shape, begin, end
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise _damaged(path, error) from error
    return header, metadata, 8 + length


def write_safetensors(path: str | Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write tensors in the given order, whole or not at all.

    Raises:
        SynthMorphError: the file cannot be written.
    """
    header = safetensors_header([(name, t.dtype, tuple(t.shape)) for name, t in tensors.items()], metadata)
    with replacing(path) as temporary, open(temporary, "wb") as file:
        file.write(header)
        for tensor in tensors.values():
            file.write(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)


def safetensors_header(
    entries: Sequence[tuple[str, torch.dtype, tuple[int, ...]]], metadata: Mapping[str, str]
) -> bytes:
    """The bytes before the data, for tensors (name, type, shape) that follow each other without gaps."""
    header: dict[str, Any] = {"__metadata__": dict(metadata)}
    offset = 0
    for name, dtype, shape in entries:
        end = offset + math.prod(shape) * dtype.itemsize
        header[name] = {"dtype": _CODES[dtype], "shape": list(shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)  # the format asks for aligned data
    return struct.pack("<Q", len(text)) + text
