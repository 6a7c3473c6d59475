"""What the worker does for atlas label transfer: look into folders, and carry labels onto a patient."""
from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .protocol import Message

if TYPE_CHECKING:
    from .atlas import Atlas, Fault
    from .registration import Model

STOP = "stop"  # a file of this name in the folder of the results ends the work after what is done
BUILT_IN = "mni152"  # stands for the template of the nilearn package


def read_library(folders: list[str]) -> tuple[list[Atlas], list[Fault]]:
    """Atlases of some folders in their order, and the faults of the others."""
    from .atlas import Fault, library, mni152
    from .errors import SynthMorphError
    found, faults = library([folder for folder in folders if folder != BUILT_IN])
    if BUILT_IN in folders:
        try:
            found = [mni152(), *found]
        except SynthMorphError as error:
            faults = [Fault(Path(BUILT_IN), str(error)), *faults]
    return found, faults


def list_atlases(request: Message, report: Callable[..., None]) -> Message:
    """Name, folder and structures of each atlas; of a broken one its fault."""
    found, faults = [], []
    for number, folder in enumerate(request["folders"]):
        report("reading the atlases", number / len(request["folders"]), Path(folder).name)
        atlases, broken = read_library([folder])
        found += [{"name": one.name, "given": folder, "labels": len(one.structures),
                   "folder": BUILT_IN if folder == BUILT_IN else str(one.image_path.parent)} for one in atlases]
        faults += [{"folder": str(one.folder), "given": folder, "sentence": one.sentence} for one in broken]
    return {"atlases": found, "faults": faults}


def transfer(request: Message, model: Model, tell: Callable[..., None]) -> Message:
    """Register the atlases to the patient, fuse, and write the label map and the agreement.

    The answer names the files, the structures with colours and terminology, the table of volumes, and the faults.
    """
    import SimpleITK as sitk

    from . import images
    from .transfer import transfer as carry
    from .volumes import as_csv
    folder = Path(request["folder"])
    tell(stage="reading the atlases", fraction=0.0)
    atlases, faults = read_library(request["folders"])
    patient = images.read_image(request["patient"])
    names: list[str] = []

    def progress(stage: str, fraction: float) -> None:
        name = next((one.name for one in atlases if stage.startswith(f"{one.name}: ")), "")
        more = {"atlas": name, "state": stage[len(name) + 2:]} if name else {}
        tell(stage=stage, fraction=round(fraction, 3), **more)

    def done(one: Any) -> None:
        names.append(one.atlas.name)
        tell(stage=f"{one.atlas.name}: done", fraction=round(0.95 * len(names) / len(atlases), 3),
             atlas=one.atlas.name, state="done")

    result = carry(model, atlases, patient, request.get("method") or "local", progress, (folder / STOP).exists, done,
                   **request.get("options", {}))
    labels, agreement = folder / "labels.mha", folder / "agreement.mha"
    sitk.WriteImage(result.fused.labels, str(labels))
    sitk.WriteImage(result.fused.agreement, str(agreement))
    return {"labels": str(labels), "agreement": str(agreement), "method": result.fused.method, "done": names,
            "cancelled": result.cancelled, "volumes": [asdict(row) for row in result.volumes],
            "csv": as_csv(result.volumes),
            "structures": [{"label": label, "name": one.name, "colour": list(one.colour),
                            "terminology": dict(one.terminology)} for label, one in result.structures.items()],
            "faults": [{"folder": str(one.folder), "sentence": one.sentence} for one in [*faults, *result.faults]],
            "provenance": result.propagated[0].provenance}
