"""Registrations of real pairs, kept on disk so that a benchmark can be stopped and gone on with.

Used by ``verdict.py`` and ``transfer.py``. The scans are those of the development data pack, which is no part of the
repository: name its folder in SYNTHMORPH_DATA.
"""
from __future__ import annotations

import json
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "SynthMorphSlicer"), str(ROOT / "benchmarks")]

from peers.machine import processor  # noqa: E402

DATA = Path(os.environ.get("SYNTHMORPH_DATA") or ROOT.parent / "shared" / "data")
IMAGES = {
    **{f"malf{n}": f"malf/{n}_t1" for n in (1000, 1001, 1113, 1122)}, "oasis": "oasis/oasis_test_t1",
    "eve": "eve/JHU_MNI_SS_T1_Brain", **{n: f"spm/{n}" for n in ("avg152T1", "avg152T2", "avg152PD")},
    "single_subj": "spm/single_subj_T1", "chris_t1": "multicontrast/chris_t1", "chris_PD": "multicontrast/chris_PD",
    "ms12_T1": "multicontrast/ms12_study1_T1W", "ms12_T2": "multicontrast/ms12_study1_T2W",
    "ms12_FLAIR": "multicontrast/ms12_study1_FLAIR", "ms12_2T1": "multicontrast/ms12_study2_T1W",
    "msx19_T1": "multicontrast/msx19_mni_T1_brain", "msx19_FLAIR": "multicontrast/msx19_mni_FLAIR_brain",
}
LABELS = {**{f"malf{n}": (f"malf/{n}_glm", "malf") for n in (1000, 1001, 1113, 1122)},
          "oasis": ("oasis/oasis_test_seg", "fs")}


def read(name: str) -> sitk.Image:
    """One of the scans."""
    from synthmorph_torch import images

    return images.read_image(DATA / f"{IMAGES[name]}.nii.gz")


@dataclass(frozen=True)
class Kept:
    """A registration from the cache; ``refused`` is the sentence with which the program declined it."""

    forward: sitk.Transform | None
    backward: sitk.Transform | None
    refused: str
    seconds: float


def registered(cache: Path, name: str, moving: sitk.Image, fixed: sitk.Image, model) -> Kept:
    """Register once, remember for ever; ``model`` makes the model when it is needed."""
    from synthmorph_torch.errors import SynthMorphError

    cache.mkdir(parents=True, exist_ok=True)
    note, paths = cache / f"{name}.json", [cache / f"{name}.{side}.h5" for side in ("forward", "backward")]
    if not note.exists():
        start, refused = time.perf_counter(), ""
        try:
            result = model().register(moving, fixed)
            for path, transform in zip(paths, (result.fixed_to_moving, result.moving_to_fixed), strict=True):
                sitk.WriteTransform(single(transform), str(path))
        except SynthMorphError as error:
            refused = str(error)
        note.write_text(json.dumps({"refused": refused, "seconds": time.perf_counter() - start}))
        print(f"{time.strftime('%H:%M:%S')} {name} {time.perf_counter() - start:.0f} s {refused}", flush=True)
    told = json.loads(note.read_text())
    both = (None, None) if told["refused"] else [sitk.ReadTransform(str(path)) for path in paths]
    return Kept(both[0], both[1], told["refused"], told["seconds"])


def single(transform: sitk.Transform) -> sitk.Transform:
    """A flat composite, as files hold it."""
    if transform.GetName() != "CompositeTransform":
        return transform
    composite = sitk.CompositeTransform(transform)
    composite.FlattenTransform()
    return composite


def middle(image: sitk.Image) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Middle, lower and upper corner (LPS mm) of the box around what is not background."""
    from synthmorph_torch.geometry import Space
    from synthmorph_torch.images import foreground

    mask = sitk.GetArrayFromImage(foreground(image))[::2, ::2, ::2]
    points = Space.of(image).to_world(2 * np.argwhere(mask)[:, ::-1])
    low, high = np.percentile(points, (1, 99), axis=0)
    return (low + high) / 2, low, high


def halved(image: sitk.Image, axis: int, keep_low: bool) -> sitk.Image:
    """The image cut off at the middle of its content, across a world axis (0 left-right, 1 front-back, 2 height)."""
    from synthmorph_torch.geometry import Space

    space = Space.of(image)
    index_axis = int(np.argmax(np.abs(space.direction[axis])))
    center, _, _ = middle(image)
    cut = int(round(float(space.to_index(center)[index_axis])))
    low = keep_low == (space.direction[axis, index_axis] > 0)
    start, size = [0, 0, 0], list(image.GetSize())
    if low:
        size[index_axis] = max(cut, 2)
    else:
        start[index_axis], size[index_axis] = cut, size[index_axis] - cut
    return sitk.RegionOfInterest(image, size, start)


def organ(kind: str, seed: int) -> sitk.Image:
    """A made-up scan of another part of the body, 2 mm: ``chest``, ``thigh`` or ``kidneys``; smooth texture, noise."""
    random = np.random.default_rng(seed)
    size, spacing = {"chest": ((170, 120, 130), 2.0), "thigh": ((90, 90, 130), 2.0),
                     "kidneys": ((140, 100, 100), 2.0)}[kind], 2.0
    shape, spacing = size
    axes = [(np.arange(n) - (n - 1) / 2) * spacing for n in shape]
    x, y, z = np.meshgrid(*axes, indexing="ij")
    image = np.zeros(shape, np.float32)

    def blob(center, radii, value, power=2.0):
        center = np.array(center) + random.normal(0, 4, 3)
        radii = np.array(radii) * random.uniform(0.9, 1.1, 3)
        inside = sum(np.abs((a - c) / r) ** power for a, c, r in zip((x, y, z), center, radii, strict=True)) < 1
        image[inside] = value * random.uniform(0.8, 1.2)

    if kind == "chest":
        blob((0, 0, 0), (150, 100, 400), 90)
        blob((0, 0, 0), (135, 85, 400), 130)
        for side in (-1, 1):
            blob((70 * side, 0, 10), (50, 65, 110), 15)
        blob((25, -25, -20), (45, 40, 50), 170)
        blob((0, 60, 0), (18, 18, 400), 200)
        blob((-60, -10, -115), (80, 60, 50), 150)
    elif kind == "thigh":
        blob((0, 0, 0), (75, 78, 900), 180, 2.2)
        blob((0, 0, 0), (62, 64, 900), 70)
        for angle in np.linspace(0, 2 * np.pi, 6)[:-1]:
            blob((36 * np.cos(angle), 36 * np.sin(angle), 0), (17, 17, 900), 85)
        blob((5, 0, 0), (14, 14, 900), 12)
        blob((5, 0, 0), (8, 8, 900), 190)
    else:
        blob((0, 0, 0), (120, 85, 400), 160)
        blob((0, 0, 0), (105, 70, 400), 80)
        for side in (-1, 1):
            blob((55 * side, 20, 0), (26, 24, 52), 150)
            blob((48 * side, 18, 0), (10, 10, 24), 220)
        blob((0, 40, 0), (20, 20, 400), 120)
        blob((70, -20, 60), (60, 45, 40), 110)
    texture = sitk.GetArrayFromImage(sitk.SmoothingRecursiveGaussian(sitk.GetImageFromArray(
        random.normal(0, 1, shape[::-1]).astype(np.float32)), 3.0)).T
    image *= 1 + 0.15 * texture / texture.std() * (image > 0)
    result = sitk.GetImageFromArray(np.ascontiguousarray(np.clip(
        image + np.abs(random.normal(0, 3, shape)), 0, None).T.astype(np.float32)))
    result = sitk.SmoothingRecursiveGaussian(result, 1.5)
    result.SetSpacing([spacing] * 3)
    result.SetOrigin([float(a[0]) for a in axes])
    return result


def machine() -> str:
    """One line on what figures were measured with, and when."""
    import platform

    import torch
    from synthmorph_torch import __version__
    from synthmorph_torch.weights import find_weights

    weights = find_weights("joint", None, "compact").checksum
    return (f"{processor()}, one thread; SynthMorphSlicer {__version__}, compact model {weights[:12]}, PyTorch "
            f"{torch.__version__}, SimpleITK {sitk.Version_VersionString()}, numpy {np.__version__}, Python "
            f"{platform.python_version()}; {time.strftime('%Y-%m-%d')}.")
