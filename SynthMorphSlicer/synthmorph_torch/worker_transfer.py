"""What the worker does for atlas label transfer: look into folders, carry labels over, move many images."""
from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .protocol import Message
from .worker_files import describe_transform, write_file

if TYPE_CHECKING:
    from .atlas import Atlas, Fault
    from .registration import Model

STOP = "stop"  # a file of this name in the folder of the results ends the work after what is done
BUILT_IN = "mni152"  # stands for the template of the nilearn package
NO_BUILT_IN = ("The MNI152 template comes with the Python package nilearn, which is not there: install it with 'python "
               "-m pip install nilearn' in the Python that runs SynthMorph.")


def read_library(folders: list[str]) -> tuple[list[Atlas], list[Fault]]:
    """Atlases of some folders in their order, and the faults of the others."""
    from .atlas import Fault, library, mni152
    from .errors import SynthMorphError
    found, faults = library([folder for folder in folders if folder != BUILT_IN])
    if BUILT_IN in folders:
        try:
            found = [mni152(), *found]
        except SynthMorphError:
            faults = [Fault(Path(BUILT_IN), NO_BUILT_IN), *faults]
    return found, faults


def list_atlases(request: Message, report: Callable[..., None]) -> Message:
    """Name, folder and structures of each atlas; of a broken one its fault."""
    found, faults = [], []
    for number, folder in enumerate(request["folders"]):
        report("reading the atlases", number / len(request["folders"]), Path(folder).name)
        atlases, broken = read_library([folder])
        found += [{"name": one.name, "given": folder, "labels": len(one.structures),
                   "folder": _folder_of(one)} for one in atlases]
        faults += [{"folder": str(one.folder), "given": folder, "sentence": one.sentence} for one in broken]
    return {"atlases": found, "faults": faults}


def transfer(request: Message, model: Model, tell: Callable[..., None]) -> Message:
    """Register the atlases to the patient, fuse, and write the label map and the agreement.

    The answer names the files, the structures with colours and terminology, the table of volumes, the transform of each
    atlas (patient to atlas points), the atlases that do not look like the patient where they were put, and the faults.
    """
    from . import images
    from .errors import SynthMorphError
    from .transfer import transfer as carry
    from .volumes import as_csv
    folder = Path(request["folder"])
    tell(stage="reading the atlases", fraction=0.0)
    atlases, faults = read_library(request["folders"])
    if faults and not atlases:
        raise SynthMorphError(faults[0].sentence)
    patient = images.read_image(request["patient"])
    names: list[str] = []

    def progress(stage: str, fraction: float) -> None:
        one = next((one for one in atlases if stage.startswith(f"{one.name}: ")), None)
        more = {} if one is None else {"atlas": one.name, "folder": _folder_of(one), "state": stage[len(one.name) + 2:]}
        tell(stage=stage, fraction=round(fraction, 3), **more)

    def done(one: Any) -> None:
        names.append(one.atlas.name)
        tell(stage=f"{one.atlas.name}: done", fraction=round(0.95 * len(names) / len(atlases), 3),
             atlas=one.atlas.name, folder=_folder_of(one.atlas), state="done")

    result = carry(model, atlases, patient, request.get("method") or "local", progress, (folder / STOP).exists, done,
                   **request.get("options", {}))
    fused = result.fused
    return {"labels": write_file(fused.labels, folder / "labels.mha"),
            "agreement": write_file(fused.agreement, folder / "agreement.mha"),
            "method": fused.method, "done": names, "cancelled": result.cancelled,
            "doubtful": result.doubtful,
            "volumes": [asdict(row) for row in result.volumes], "csv": as_csv(result.volumes),
            "structures": [{"label": label, "name": one.name, "colour": list(one.colour),
                            "terminology": dict(one.terminology)} for label, one in result.structures.items()],
            "transforms": [{"name": one.atlas.name, "folder": _folder_of(one.atlas),
                            "patient_to_atlas": describe_transform(one.forward, folder / f"forward{number}.npy")}
                           for number, one in enumerate(result.propagated)],
            "faults": [{"folder": str(one.folder), "sentence": one.sentence} for one in [*faults, *result.faults]],
            "provenance": result.propagated[0].provenance}


def read_one(request: Message, report: Callable[..., None]) -> Message:
    """The image of one atlas as a file."""
    from .errors import SynthMorphError
    report("reading the atlases", 0.0)
    found, faults = read_library([request["atlas"]])
    if not found:
        raise SynthMorphError(faults[0].sentence)
    return {"name": found[0].name, "image": write_file(found[0].image, Path(request["folder"]) / "image.mha")}


def move(request: Message, report: Callable[..., None]) -> Message:
    """Many images by one transform onto one grid, each interpolated as it must be; needs no torch.

    The answer holds for each of ``images`` the file that was written and the interpolation that was chosen.
    """
    import SimpleITK as sitk

    from .images import read_image
    from .labels import are_labels, move_labels
    from .transforms import apply, read_transform
    transform, folder = read_transform(request["transform"]), Path(request["folder"])
    reference = sitk.ReadImage(request["reference"])
    answer = []
    for number, one in enumerate(request["images"]):
        report("moving", number / len(request["images"]), one.get("name", ""))
        image = read_image(one["path"])
        if one["labels"] or are_labels(image):
            moved, way = move_labels(transform, image, reference), "label"
        else:
            low = float(sitk.GetArrayViewFromImage(image).min())
            moved, way = apply(transform, image, reference, fill=low), "linear"
        answer.append({"path": write_file(moved, folder / f"moved{number}.mha"), "interpolation": way})
    return {"moved": answer}


def _folder_of(atlas: Atlas) -> str:
    """What a request names this atlas by."""
    return BUILT_IN if atlas.labels_path is None else str(atlas.image_path.parent)
