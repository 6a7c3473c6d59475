"""Write weight files as Keras 2 does, with random numbers, for tests of the loader."""
from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np


def detector_shapes(encoder=(4, 5, 6, 7), extra=(8, 9, 10, 11), features=6) -> list[tuple[int, ...]]:
    shapes, channels = [], 1
    for width in (*encoder, *extra, features):
        shapes += [(3, 3, 3, channels, width), (width,)]
        channels = width
    return shapes


def deformable_shapes(units=(3, 4, 5, 6), encoder=(2, 3, 4, 5), decoder=(6, 5, 4, 3), extra=(5, 4, 3, 2), output=3):
    shapes, previous = [], 1
    for unit in units:
        shapes += [(previous, unit), (unit,)]
        previous = unit
    inputs = [2, *encoder]
    inputs += [d + e for d, e in zip(decoder, reversed(encoder), strict=True)]
    inputs += [*extra]
    for channels, width in zip(inputs, (*encoder, *decoder, *extra, output), strict=True):
        size = 27 * channels * width
        shapes += [(units[-1], size), (size,), (units[-1], width), (width,)]
    return shapes


def random_arrays(shapes, seed=0) -> list[np.ndarray]:
    random = np.random.default_rng(seed)
    return [random.normal(size=shape).astype(np.float32) for shape in shapes]


def write(path: Path, arrays, per_layer=False, split=False, nested=False) -> Path:
    """Write arrays in order, in one group or one group per layer, with names that sort in another order.

    ``split`` divides the list attributes as Keras does where they would exceed 64 kB; ``nested`` puts all of it
    into the subgroup of a complete saved model, beside an optimizer's weights that must be ignored.
    """
    with h5py.File(path, "w") as file:
        root = file.create_group("model_weights") if nested else file
        if nested:
            decoy = file.create_group("optimizer_weights")
            decoy.attrs["weight_names"] = [b"decoy:0"]
            decoy["decoy:0"] = np.ones(3, np.float32)
        groups = {"input_1": [], "model_1": list(enumerate(arrays))}
        if per_layer:  # conv3d_8, ..., conv3d_12: the names do not sort in stored order
            groups = {f"conv3d_{8 + n}": [(n, array)] for n, array in enumerate(arrays)}
            groups["lambda_1"] = []
        for name, members in groups.items():
            group = root.create_group(name)
            names = [f"part_{99 - n}/kernel:0".encode() for n, _ in members]
            _attribute(group, "weight_names", names, split)
            for stored, (_, array) in zip(names, members, strict=True):
                group[stored.decode()] = array
        _attribute(root, "layer_names", [name.encode() for name in groups], split)
    return path


def _attribute(group, name, values, split):
    if split and len(values) > 1:
        half = len(values) // 2
        group.attrs[f"{name}0"], group.attrs[f"{name}1"] = values[:half], values[half:]
    else:
        group.attrs[name] = values
