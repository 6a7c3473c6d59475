"""Write random weight files of the official networks' size, in the layout that Keras gives the official files.

    python benchmarks/make_official_size_weights.py FOLDER [affine] [rigid] [deform]

The numbers follow the rule by which the reference fixture default_size.npz was made: array ``n`` is drawn from
``RandomState(seed + n)``. The deformable file takes 3.5 GB and about a minute.
"""
from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "SynthMorphSlicer"))

from synthmorph_torch.networks import OFFICIAL_DEFORMABLE, OFFICIAL_DETECTOR, OFFICIAL_HYPER_UNITS  # noqa: E402

NAMES = {"affine": "synthmorph.affine.2.h5", "rigid": "synthmorph.rigid.1.h5", "deform": "synthmorph.deform.3.h5"}
SEEDS = {"affine": 1000, "rigid": 1000, "deform": 2000}
_Rules = list[tuple[tuple[int, ...], np.float32]]


def detector_rules() -> _Rules:
    """Shape and standard deviation of the detector's arrays in stored order."""
    rules: _Rules = []
    for inputs, outputs in OFFICIAL_DETECTOR.layers():
        rules.append(((3, 3, 3, inputs, outputs), np.float32(1.5 / np.sqrt(27 * inputs))))
        rules.append(((outputs,), np.float32(0.02)))
    return rules


def deformable_rules() -> _Rules:
    """The same for the deformable network."""
    rules: _Rules = []
    inputs = 1
    for units in OFFICIAL_HYPER_UNITS:
        rules.append(((inputs, units), np.float32(1.5 / np.sqrt(inputs))))
        rules.append(((units,), np.float32(0.3)))
        inputs = units
    layers = OFFICIAL_DEFORMABLE.layers()
    for number, (channels, outputs) in enumerate(layers):
        size, fan_in = 27 * channels * outputs, 27 * channels
        scale = 6 if number == len(layers) - 1 else 1
        for shape, deviation in (
            ((units, size), 0.5 / np.sqrt(fan_in * units)),
            ((size,), 1.3 / np.sqrt(fan_in)),
            ((units, outputs), 0.05 / np.sqrt(units)),
            ((outputs,), 0.05),
        ):
            rules.append((shape, np.float32(deviation * scale)))
    return rules


def random_arrays(role: str) -> Iterator[np.ndarray]:
    """The arrays of a network in stored order, float32, one at a time."""
    for number, (shape, deviation) in enumerate(deformable_rules() if role == "deform" else detector_rules()):
        random = np.random.RandomState(SEEDS[role] + number)
        array = np.empty(shape, np.float32)
        flat = array.reshape(-1)
        for start in range(0, flat.size, 1 << 24):  # float64 numbers of the whole array would take 900 MB
            part = flat[start : start + (1 << 24)]
            part[:] = random.standard_normal(part.size)
        array *= deviation
        yield array


def write(folder: Path, role: str) -> Path:
    """Write one file under its official name and return its path."""
    path = folder / NAMES[role]
    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = [b"input_1", b"model_1"]
        file.create_group("input_1").attrs["weight_names"] = []
        group = file.create_group("model_1")
        names = []
        for number, array in enumerate(random_arrays(role)):
            names.append(f"layer_{number // 2}/{'bias' if number % 2 else 'kernel'}:0")
            group[names[-1]] = array
        group.attrs["weight_names"] = [name.encode() for name in names]
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("roles", nargs="*", help="affine, rigid, deform; by default all three")
    options = parser.parse_args()
    if unknown := set(options.roles) - set(NAMES):
        parser.error(f"unknown: {', '.join(sorted(unknown))}")
    options.folder.mkdir(parents=True, exist_ok=True)
    for role in options.roles or NAMES:
        print(write(options.folder, role))


if __name__ == "__main__":
    main()
