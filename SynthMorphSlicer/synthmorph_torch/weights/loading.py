"""From weight files to networks: shapes are checked, widths inferred, and the hypernetwork is baked for one lambda.

The official deformable file holds 877 million numbers, of which one lambda needs 27 million combinations. They are
computed row by row from the file (SPEC 3.1), so memory stays at a few hundred megabytes, and kept in a cache folder.
"""
from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..errors import SynthMorphError, WeightsError
from ..files import replacing
from ..networks import AffineDetector, Kernels, Widths
from .arrays import KERAS_FORMAT, StoredArrays, open_arrays, read_safetensors, safetensors_header, write_safetensors
from .store import cache_folder, checksum

Shapes = list[tuple[int, ...]]
BAKED_FORMAT = "synthmorph-baked"
BAKED_KEPT = 10  # baked files in the cache, about 100 MB each for the official network


@dataclass(frozen=True)
class Depth:
    """Convolutions per stage; the widths are read from the file, the depth is part of the architecture."""

    encoder: int = 4
    decoder: int = 4
    extra: int = 4
    hyper: int = 4

    @property
    def convolutions(self) -> int:
        return self.encoder + self.decoder + self.extra + 1


DETECTOR_DEPTH = Depth(decoder=0, hyper=0)
DEFORMABLE_DEPTH = Depth()


# Shapes ------------------------------------------------------------------------------------------------------

def split_roles(shapes: Shapes) -> tuple[range, range]:
    """Positions of the detector's arrays and of the deformable network's, either of which may be empty.

    A joint model saved as one file holds the detector first; its first dense kernel starts the rest.
    """
    first = next((n for n, shape in enumerate(shapes) if len(shape) == 2), len(shapes))
    return range(first), range(first, len(shapes))


def detector_widths(shapes: Shapes, path: Path, depth: Depth = DETECTOR_DEPTH) -> Widths:
    """Widths of a feature detector from its kernel and bias shapes (SPEC 2).

    Raises:
        WeightsError: the shapes are not those of a detector of this depth.
    """
    outputs = [shape[0] for shape in shapes[1::2] if len(shape) == 1]
    widths = _widths(1, outputs, depth, last=outputs[-1] if outputs else 64)
    expected: Shapes = []
    for inputs, out in widths.layers():
        expected += [(3, 3, 3, inputs, out), (out,)]
    _compare(shapes, expected, path, "affine or rigid feature detector")
    return widths


def deformable_shape(shapes: Shapes, path: Path, depth: Depth = DEFORMABLE_DEPTH) -> tuple[Widths, tuple[int, ...]]:
    """Widths and hidden units of a hypernetwork U-Net from its array shapes (SPEC 3.1).

    Raises:
        WeightsError: the shapes are not those of a deformable network of this depth.
    """
    units = [shape[0] for shape in shapes[1 : 2 * depth.hyper : 2] if len(shape) == 1]
    units += [32] * (depth.hyper - len(units))
    outputs = [shape[0] for shape in shapes[2 * depth.hyper + 3 :: 4] if len(shape) == 1]
    widths = _widths(2, outputs, depth, last=3)
    expected: Shapes = []
    for inputs, out in zip([1, *units], units, strict=False):
        expected += [(inputs, out), (out,)]
    for inputs, out in widths.layers():
        size = 27 * inputs * out
        expected += [(units[-1], size), (size,), (units[-1], out), (out,)]
    _compare(shapes, expected, path, "deformable network")
    return widths, tuple(units)


def _widths(inputs: int, outputs: list[int], depth: Depth, last: int) -> Widths:
    """Assign the found numbers of filters to the stages; official ones stand in for what is missing."""
    found = outputs[: depth.convolutions - 1]
    found += [256] * (depth.convolutions - 1 - len(found))
    stages = iter(found)
    encoder, decoder, extra = (
        tuple(next(stages) for _ in range(n)) for n in (depth.encoder, depth.decoder, depth.extra)
    )
    return Widths(inputs, encoder, decoder, extra, last)


def _compare(found: Shapes, expected: Shapes, path: Path, what: str) -> None:
    if len(found) != len(expected):
        raise WeightsError(
            f"'{path}' does not fit the {what}: {len(expected)} arrays were expected and {len(found)} found; give the "
            "file that belongs to this transform."
        )
    for number, (is_, should) in enumerate(zip(found, expected, strict=True)):
        if is_ != should:
            raise WeightsError(
                f"'{path}' does not fit the {what}: array {number + 1} of {len(expected)} should have shape {should} "
                f"but has {is_}; give the file that belongs to this transform."
            )


# Loading -----------------------------------------------------------------------------------------------------

def load_detector(path: str | Path, depth: Depth = DETECTOR_DEPTH) -> AffineDetector:
    """The affine or rigid feature detector of a weight file, without gradients, on the CPU.

    Raises:
        WeightsError: the file is missing, damaged or holds another network.
    """
    with open_arrays(path) as stored:
        shapes = stored.shapes()
        positions, _ = split_roles(shapes)
        widths = detector_widths([shapes[n] for n in positions], stored.path, depth)
        with torch.device("meta"):
            detector = AffineDetector(widths)
        state = {
            name: to_kernel(array) if array.ndim == 5 else torch.from_numpy(array)
            for name, array in zip(detector.state_dict(), (stored.read(n) for n in positions), strict=True)
        }
    _check_finite(state.values(), path)
    detector.load_state_dict(state, assign=True)
    return detector.requires_grad_(False).eval()


@dataclass(frozen=True)
class Deformable:
    """A deformable network on disk, and its kernels for any lambda."""

    path: Path
    widths: Widths
    units: tuple[int, ...]
    depth: Depth = DEFORMABLE_DEPTH
    cache: bool = True

    @classmethod
    def open(cls, path: str | Path, depth: Depth = DEFORMABLE_DEPTH, cache: bool = True) -> Deformable:
        """Check a weight file without reading its numbers.

        Raises:
            WeightsError: the file is missing, damaged or holds another network.
        """
        with open_arrays(path) as stored:
            shapes = stored.shapes()
            _, positions = split_roles(shapes)
            widths, units = deformable_shape([shapes[n] for n in positions], stored.path, depth)
        return cls(Path(path), widths, units, depth, cache)

    def bake(self, regularization: float) -> Kernels:
        """Kernel (out, in, 3, 3, 3) and bias (out,) of every convolution, float32 on the CPU.

        Raises:
            WeightsError: the file changed or is damaged.
        """
        if not self.cache:
            return self._compute(regularization)
        name = f"{checksum(self.path)[:16]}-lambda-{float(regularization)!r}.safetensors"
        cached = cache_folder() / "baked" / name
        try:
            return self._from_cache(cached)
        except WeightsError:
            pass  # not there yet, or damaged: compute it again
        kernels = self._compute(regularization)
        with contextlib.suppress(SynthMorphError, OSError):  # a full or read-only disk costs time, not the result
            self._to_cache(cached, kernels, regularization)
        return kernels

    def _compute(self, regularization: float) -> Kernels:
        with open_arrays(self.path) as stored:
            _, positions = split_roles(stored.shapes())
            kernels = bake(stored, positions, len(self.units), regularization)
        _check_finite((tensor for pair in kernels for tensor in pair), self.path)
        return kernels

    def _from_cache(self, path: Path) -> Kernels:
        tensors, metadata = read_safetensors(path)
        values = list(tensors.values())
        kernels = list(zip(values[::2], values[1::2], strict=False))
        layers = [(kernel.shape[1], kernel.shape[0]) for kernel, _ in kernels]
        if metadata.get("format") != BAKED_FORMAT or layers != self.widths.layers():
            raise WeightsError(f"'{path}' is not what was cached there.")
        with contextlib.suppress(OSError):
            os.utime(path)  # the least recently used are dropped first
        return [(_channels_last(kernel), bias) for kernel, bias in kernels]

    @staticmethod
    def _to_cache(path: Path, kernels: Kernels, regularization: float) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        tensors = {}
        for number, (kernel, bias) in enumerate(kernels):
            tensors[f"{number:02}.kernel"], tensors[f"{number:02}.bias"] = kernel, bias
        write_safetensors(path, tensors, {"format": BAKED_FORMAT, "lambda": repr(float(regularization))})
        newest = sorted(path.parent.glob("*.safetensors"), key=os.path.getmtime, reverse=True)
        for old in newest[BAKED_KEPT:]:
            old.unlink(missing_ok=True)


def load_deformable(path: str | Path, lam: float, cache: bool = True, depth: Depth = DEFORMABLE_DEPTH
                    ) -> tuple[Widths, Kernels]:
    """Widths and baked kernels of a deformable network for one lambda; see :class:`Deformable`."""
    network = Deformable.open(path, depth, cache)
    return network.widths, network.bake(lam)


def bake(stored: StoredArrays, positions: range, hidden: int, regularization: float) -> Kernels:
    """Run the hypernetwork of a file for one lambda, reading one row of one array at a time (SPEC 3.1).

    Args:
        stored: the file.
        positions: which of its arrays are the hypernetwork's.
        hidden: number of dense layers.
        regularization: lambda.
    """
    numbers = iter(positions)
    code = np.array([regularization], dtype=np.float32)
    for _ in range(hidden):
        code = np.maximum(code @ stored.read(next(numbers)) + stored.read(next(numbers)), 0)
    kernels = []
    for _ in range((len(positions) - 2 * hidden) // 4):
        kernel, bias = (_combine(stored, code, next(numbers), next(numbers)) for _ in range(2))
        outputs = bias.size
        shaped = kernel.reshape(3, 3, 3, -1, outputs).astype(np.float32)
        kernels.append((to_kernel(shaped), torch.from_numpy(bias.astype(np.float32))))
    return kernels


def _combine(stored: StoredArrays, code: np.ndarray, matrix: int, offset: int) -> np.ndarray:
    """``code @ matrix + offset`` in float64. Hidden units at zero, often half of them, are never read."""
    total = stored.read(offset).astype(np.float64)
    for row in np.flatnonzero(code):
        total += float(code[row]) * stored.read(matrix, int(row))
    return total


def to_kernel(array: np.ndarray) -> Tensor:
    """Keras kernel (ki, kj, kk, in, out) to PyTorch's (out, in, ki, kj, kk), in channels-last memory."""
    return _channels_last(torch.from_numpy(array).permute(4, 3, 0, 1, 2))


def _channels_last(kernel: Tensor) -> Tensor:
    return kernel.contiguous(memory_format=torch.channels_last_3d)


def _check_finite(tensors: Iterable[Tensor], path: str | Path) -> None:
    if not all(bool(torch.isfinite(t).all()) for t in tensors):
        raise WeightsError(f"'{path}' holds numbers that are not finite and is damaged: fetch or copy it again.")


# Conversion --------------------------------------------------------------------------------------------------

def convert(source: str | Path, target: str | Path) -> None:
    """Copy a Keras file into a safetensors file of the same arrays, which loads without h5py.

    Raises:
        WeightsError: the source is no SynthMorph file of official depth. SynthMorphError: the target cannot be written.
    """
    with open_arrays(source) as stored:
        shapes = stored.shapes()
        detector, deformable = split_roles(shapes)
        if detector:
            detector_widths([shapes[n] for n in detector], stored.path)
        if deformable or not detector:
            deformable_shape([shapes[n] for n in deformable], stored.path)
        entries = [(f"{n:03}", torch.float32, shape) for n, shape in enumerate(shapes)]
        with replacing(target) as temporary, open(temporary, "wb") as file:
            file.write(safetensors_header(entries, {"format": KERAS_FORMAT, "source": Path(source).name}))
            for number, shape in enumerate(shapes):
                rows = range(shape[0]) if len(shape) == 2 else [None]
                for row in rows:
                    file.write(np.ascontiguousarray(stored.read(number, row)).astype("<f4", copy=False).data)
