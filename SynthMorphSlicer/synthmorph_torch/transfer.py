"""Atlas label transfer: one atlas or many onto one patient, fused, measured, and carried back when corrected."""
from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import SimpleITK as sitk

from . import fusion, images, transforms, volumes
from .atlas import Atlas, Fault, Structure, write_ctbl
from .errors import ImageError, SynthMorphError, UsageError
from .files import replacing_folder, write_text
from .geometry import Space
from .labels import settled, uncertainty, warp_labels
from .quality import json_ready
from .review import Case, is_doubtful

if TYPE_CHECKING:
    from .registration import Model

FORMAT = "synthmorph-transfer-1"
INDEX, LABELS, AGREEMENT, VOLUMES, TABLE = ("transfer.json", "labels.nii.gz", "agreement.nii.gz", "volumes.csv",
                                            "labels.ctbl")
FORWARD, BACKWARD, CORRECTED = "patient_to_atlas.h5", "atlas_to_patient.h5", "corrected_labels.nii.gz"
Progress = Callable[[str, float], None]


class Cancelled(Exception):
    """Raised inside a registration that a person called off."""


@dataclass
class Propagated:
    """What one atlas says about the patient: labels and moved volume on the patient's grid, and the transforms.

    ``forward`` maps patient to atlas points (LPS mm) and is what the atlas is sampled with; ``backward`` the opposite.
    ``doubtful`` is true if the two do not look alike where the registration puts them.
    """

    atlas: Atlas
    labels: sitk.Image
    moved: sitk.Image
    forward: sitk.Transform
    backward: sitk.Transform | None
    provenance: dict[str, Any] = field(default_factory=dict)
    doubtful: bool = False


@dataclass
class Transfer:
    """The fused labels of a patient, and all that led to them; ``faults`` tells which atlases failed and why."""

    patient: sitk.Image
    fused: fusion.Fused
    propagated: list[Propagated]
    structures: dict[int, Structure]
    volumes: list[volumes.Volume]
    faults: list[Fault] = field(default_factory=list)
    cancelled: bool = False

    @property
    def doubtful(self) -> list[str]:
        """Names of the atlases that do not look like the patient where they were put."""
        return [one.atlas.name for one in self.propagated if one.doubtful]


def transfer(model: Model, atlases: Sequence[Atlas], patient: sitk.Image, method: str = "local",
             progress: Progress | None = None, cancelled: Callable[[], bool] | None = None,
             done: Callable[[Propagated], None] | None = None, **settings: Any) -> Transfer:
    """Register atlases to a patient and fuse their labels.

    Args:
        model: the networks.
        atlases: one or more, whose labels mean the same.
        patient: the image to be labelled.
        method: of fusion, see :func:`.fusion.fuse`; of no account for a single atlas.
        progress: called with the atlas and what is being done to it, and the fraction of all work done before that.
        cancelled: asked again and again; True ends the work, and the atlases that are done are fused.
        done: called with each atlas that is done.
        settings: arguments of :meth:`Model.register`.

    Raises:
        UsageError: no atlas, labels that mean different things, an unknown method. ImageError: the patient's image
        cannot be registered. SynthMorphError: cancelled before the first atlas was done, or every atlas failed.
    """
    structures = common_structures(atlases)
    if method not in fusion.METHODS:
        raise UsageError(f"Fusion '{method}' is unknown: choose one of {', '.join(fusion.METHODS)}.")
    images.check_image(patient, "patient's image")
    found: list[Propagated] = []
    faults: list[Fault] = []
    stopped = False
    for number, atlas in enumerate(atlases):
        def inner(stage: str, part: float, number: int = number, atlas: Atlas = atlas) -> None:
            if cancelled and cancelled():
                raise Cancelled
            if progress:
                progress(f"{atlas.name}: {stage}", 0.95 * (number + part) / len(atlases))

        try:
            inner("starting", 0.0)
            found.append(propagate(model, atlas, patient, inner, **settings))
        except Cancelled:
            stopped = True
            break
        except UsageError:
            raise
        except SynthMorphError as error:
            faults.append(Fault(atlas.image_path.parent, f"{atlas.name}: {error}"))
            continue
        if done:
            done(found[-1])
    if not found:
        reason = "cancelled before the first atlas was done" if stopped else faults[0].sentence
        raise SynthMorphError(f"No atlas was carried over: {reason}")
    if progress:
        progress("fusing", 0.95)
    return Transfer(patient, *combine(found, patient, method, structures), faults, stopped)


def propagate(model: Model, atlas: Atlas, patient: sitk.Image, progress: Progress | None = None, **settings: Any
              ) -> Propagated:
    """Register one atlas and bring its labels and volume onto the patient's grid."""
    result = model.register(atlas.image, patient, progress=progress, **settings)
    one = carried(atlas, patient, result.fixed_to_moving, result.moving_to_fixed, result.provenance())
    one.doubtful = is_doubtful(Case(one.forward, one.backward, atlas.image, patient))
    return one


def carried(atlas: Atlas, patient: sitk.Image, forward: sitk.Transform, backward: sitk.Transform | None = None,
            provenance: dict[str, Any] | None = None) -> Propagated:
    """Bring an atlas onto the patient's grid by a transform that is known already (patient to atlas points)."""
    low = float(sitk.GetArrayViewFromImage(atlas.image).min())
    # not settled: several atlases settle each other's boundaries, and lose detail if each did so by itself
    return Propagated(atlas, warp_labels(forward, atlas.labels, patient, "linear"),
                      transforms.apply(forward, atlas.image, patient, fill=low), forward, backward, provenance or {})


def combine(found: Sequence[Propagated], patient: sitk.Image, method: str, structures: dict[int, Structure]
            ) -> tuple[fusion.Fused, list[Propagated], dict[int, Structure], list[volumes.Volume]]:
    """Fuse what atlases say and measure it: fused labels, the atlases, their structures, the table of volumes."""
    opinions = [one.labels for one in found]
    if len(found) == 1:
        only = settled(opinions[0], uncertainty(found[0].forward))
        fused = fusion.Fused(only, sitk.Cast(only * 0, sitk.sitkFloat32) + 1, "single")
    else:
        fused = fusion.fuse(opinions, method, patient, [one.moved for one in found])
    names = {label: structure.name for label, structure in structures.items()}
    sizes = [volumes.volumes_mm3(one.atlas.labels) for one in found]
    return fused, list(found), structures, volumes.volumes(fused.labels, names, sizes)


def common_structures(atlases: Sequence[Atlas]) -> dict[int, Structure]:
    """The names and colours of all atlases together.

    Raises:
        UsageError: no atlas, or one number that means different things.
    """
    if not atlases:
        raise UsageError("There is no atlas: give at least one folder with a volume and its label map.")
    structures: dict[int, Structure] = {}
    for atlas in atlases:
        for label, structure in atlas.structures.items():
            known = structures.get(label)
            plain = f"Label {label}"
            if known is None or known.name == plain:
                structures[label] = structure
            elif structure.name != plain and _key(structure.name) != _key(known.name):
                raise UsageError(f"Label {label} is '{known.name}' in one atlas and '{structure.name}' in "
                                 f"'{atlas.name}': use atlases with the same labels.")
    return dict(sorted(structures.items()))


def _key(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "", name.lower())


# The folder that a transfer leaves behind


def check_transfer_folder(folder: str | Path, overwrite: bool = False) -> Path:
    """Make sure, before anything is computed, that a transfer can be written here.

    Raises:
        SynthMorphError: the folder holds something that must not be lost, or cannot be written.
    """
    from .outputs import check_folder

    folder = Path(folder)
    check_folder(folder.resolve().parent)
    check_folder(folder)
    if folder.is_dir() and any(folder.iterdir()):
        if not (folder / INDEX).exists():
            raise SynthMorphError(f"'{folder}' holds other files: give the name of a new folder.")
        if not overwrite:
            raise SynthMorphError(f"'{folder}' holds an earlier transfer, whose labels may have been corrected by "
                                  "hand: give another name, or replace it with --overwrite.")
    return folder


def write_transfer(result: Transfer, folder: str | Path, overwrite: bool = False) -> list[Path]:
    """Write labels, agreement, volumes, names, and per atlas its transforms and labels; whole or not at all.

    Returns:
        The files of the first level.
    """
    folder = check_transfer_folder(folder, overwrite)
    with replacing_folder(folder) as staging:
        names = _fill(result, staging)
    return [folder / name for name in names]


def _fill(result: Transfer, folder: Path) -> list[str]:
    images.write_image(result.fused.labels, folder / LABELS)
    images.write_image(result.fused.agreement, folder / AGREEMENT)
    volumes.write_volumes(result.volumes, folder / VOLUMES)
    write_ctbl(result.structures, folder / TABLE)
    entries = []
    for number, one in enumerate(result.propagated):
        name = f"{number + 1}_{re.sub(r'[^A-Za-z0-9._-]+', '_', one.atlas.name)}"
        place = folder / name
        place.mkdir()
        transforms.write_transform(one.forward, place / FORWARD)
        if one.backward is not None:
            transforms.write_transform(one.backward, place / BACKWARD)
        images.write_image(one.labels, place / LABELS)
        grid = Space.of(one.atlas.labels)
        entries.append({"name": one.atlas.name, "folder": name, "shape": list(grid.shape),
                        "matrix": grid.matrix.tolist(), "provenance": one.provenance, "doubtful": one.doubtful})
    faults = [fault.sentence for fault in result.faults]
    text = json.dumps(json_ready({"format": FORMAT, "fusion": result.fused.method, "cancelled": result.cancelled,
                                  "made": time.strftime("%Y-%m-%dT%H:%M:%S%z"), "atlases": entries,
                                  "faults": faults}), indent=2)
    write_text(folder / INDEX, text + "\n")
    return [LABELS, AGREEMENT, VOLUMES, TABLE, INDEX]


def carry_back(corrected: sitk.Image, backward: sitk.Transform, grid: transforms.Grid) -> sitk.Image:
    """Labels of the patient on the grid of an atlas, or of another time point.

    Args:
        corrected: integer label map in the world of the patient.
        backward: maps points of the other image to points of the patient (``atlas_to_patient``).
        grid: where to put them: the atlas' image, label map or grid.
    """
    return warp_labels(backward, corrected, grid)


def carry_back_all(folder: str | Path, corrected: sitk.Image, overwrite: bool = False) -> list[Path]:
    """Carry corrected labels back to every atlas of a transfer, as ``corrected_labels.nii.gz`` in its folder.

    Args:
        folder: what :func:`write_transfer` wrote.
        corrected: integer label map in the world of the patient.
        overwrite: replace the files of an earlier time.

    Raises:
        SynthMorphError: it is no such folder, a transform is missing, or a file is there already.
    """
    folder = Path(folder)
    try:
        told = json.loads((folder / INDEX).read_text(encoding="utf-8"))
        if told["format"] != FORMAT:
            raise KeyError("format")
        entries = [(folder / e["folder"], Space(tuple(e["shape"]), np.array(e["matrix"], dtype=np.float64)))
                   for e in told["atlases"]]
    except (OSError, ValueError, KeyError, TypeError):
        raise SynthMorphError(f"'{folder}' is no folder of a transfer, or its {INDEX} is damaged: give one that "
                              "'synthmorph transfer' wrote.") from None
    for place, _ in entries:
        if (place / CORRECTED).exists() and not overwrite:
            raise SynthMorphError(f"'{place / CORRECTED}' exists: move it away, or replace it with --overwrite.")
    if not sitk.GetArrayViewFromImage(corrected).any():
        raise ImageError("The corrected label map contains no label: save the segmentation again.")
    moved = [(place / CORRECTED, carry_back(corrected, transforms.read_transform(place / BACKWARD), grid))
             for place, grid in entries]
    for path, image in moved:
        images.write_image(image, path)
    return [path for path, _ in moved]
