"""How far the rigid fits of different methods to the scans of one person lie apart, in millimetres."""
from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray
from synthmorph_torch import transforms
from synthmorph_torch.geometry import Space

from . import scoring
from .cases import Case, Files
from .methods import METHODS, Settings

POINT_SPACING = 4.0  # mm between the points at which transforms are compared


def find_brain(case: Case, data: Path, settings: Settings) -> None:
    """Write where the brain of the fixed image is: the labels of the average head under the classical affine transform.

    All fixed images are T1, as the average head is. The mask only says where transforms are compared, so a few
    millimetres do not matter.
    """
    mask, out = case.folder / "brain.nii.gz", case.folder / "template"
    method = METHODS["affine"]
    if mask.exists() or method.version(settings) is None:
        return
    template = Files(data / "spm" / "avg152T1.nii.gz", case.fixed)
    if method.run(template, out, settings).status == 0:
        labels = sitk.ReadImage(str(data / "spm" / "labels_Neuromorphometrics.nii.gz")) > 0
        moved = transforms.apply(scoring.read_chain(out), labels, sitk.ReadImage(str(case.fixed)), "nearest")
        sitk.WriteImage(moved, str(mask))


def brain_points(mask: sitk.Image) -> NDArray[np.float64]:
    """World points (N, 3) on a lattice inside a mask."""
    space = Space.of(mask)
    low, high = space.corners().min(0), space.corners().max(0)
    lattice = np.stack(np.meshgrid(*[np.arange(a, b, POINT_SPACING) for a, b in zip(low, high, strict=True)],
                                   indexing="ij"), -1).reshape(-1, 3)
    index = np.rint(space.to_index(lattice)).astype(int)
    inside = np.all((index >= 0) & (index < space.shape), axis=1)
    i, j, k = index[inside].T
    return lattice[inside][sitk.GetArrayViewFromImage(mask)[k, j, i] > 0]


def distances(out: Path, pair: str, names: list[str]) -> dict[tuple[str, str], float]:
    """Mean distance in mm between where each two methods take the points of the fixed brain."""
    mask = out / "cases" / "same-person" / pair / "brain.nii.gz"
    if not mask.exists():
        return {}
    points = brain_points(sitk.ReadImage(str(mask)))
    mapped = {name: transforms.apply_to_points(transforms.affine_transform(matrix(out, name, pair)), points)
              for name in names}
    return {(a, b): float(np.linalg.norm(mapped[a] - mapped[b], axis=1).mean())
            for a, b in itertools.combinations(names, 2)}


def matrix(out: Path, method: str, pair: str) -> NDArray[np.float64]:
    """The fixed-to-moving matrix that a method left, (4, 4) in LPS millimetres."""
    linear = transforms.linear_part(scoring.read_chain(out / "runs" / method / "same-person" / pair))
    assert linear is not None
    return linear
