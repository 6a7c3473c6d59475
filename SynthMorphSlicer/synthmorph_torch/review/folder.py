"""A result folder: everything that one registration leaves behind, so that it can be judged later or elsewhere.

=======================  ==============================================================================
``result.json``          what made it: model, checksum, options, seconds, and the format's name
``fixed.nii.gz``         the fixed image, ``moving.nii.gz`` the moving one, ``moved.nii.gz`` the moved one
``fixed_to_moving.h5``   the transform that samples the moving image (ITK, LPS mm), and its opposite
``moving_to_fixed.h5``
``moving_labels.nii.gz`` and ``fixed_labels.nii.gz``, ``labels.csv``: label maps and their names, if there are any
``landmarks.csv``        pairs of landmarks, if there are any (see :mod:`.landmarks`)
``signature.json``       who accepted or rejected it (see :mod:`.signature`)
=======================  ==============================================================================
"""
from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import SimpleITK as sitk

from .. import files, images, transforms
from ..errors import ImageError, SynthMorphError
from ..quality import json_ready
from . import signature
from .case import Case
from .landmarks import read_landmarks, write_landmarks

if TYPE_CHECKING:
    from ..registration import Registration

FORMAT = "synthmorph-result-1"
INDEX, FORWARD, BACKWARD = "result.json", "fixed_to_moving.h5", "moving_to_fixed.h5"
LANDMARKS, NAMES = "landmarks.csv", "labels.csv"
BY_HAND = (LANDMARKS, signature.FILE)  # never replaced by a new result


def check_result_folder(folder: str | Path) -> Path:
    """Make sure, before anything is computed, that a result can be written here.

    Raises:
        SynthMorphError: nothing may be written, the folder holds other things, or a result that a person signed or
        marked.
    """
    from ..outputs import check_folder

    folder = Path(folder)
    check_folder(folder.resolve().parent)
    check_folder(folder)
    if not folder.is_dir() or not any(folder.iterdir()):
        return folder
    if not (folder / INDEX).is_file():
        raise SynthMorphError(f"'{folder}' holds other files: give the name of a new folder for the result.")
    for name in BY_HAND:
        if (folder / name).exists():
            raise SynthMorphError(f"'{folder}' holds a result with {name}, made by hand: give another name, or remove "
                                  "that file first.")
    return folder


def write_result(result: Registration, folder: str | Path, **extra: Any) -> Path:
    """Write a result folder, whole or not at all; an older unsigned result there is replaced.

    Args:
        result: the registration.
        folder: where to write; made if need be.
        extra: further fields of :class:`.case.Case`: labels, names, landmarks.

    Returns:
        The folder.

    Raises:
        SynthMorphError: see :func:`check_result_folder`; or the disk is full.
    """
    return write_case(Case.of(result, **extra), folder)


def write_case(case: Case, folder: str | Path) -> Path:
    """Write any case as a result folder; see :func:`write_result`."""
    folder = check_result_folder(folder)
    with files.replacing_folder(folder) as staging:
        _fill(case, staging)
    return folder


def _fill(case: Case, folder: Path) -> None:
    pictures = {"fixed": case.fixed, "moving": case.moving, "moved": case.moved,
                "moving_labels": case.moving_labels, "fixed_labels": case.fixed_labels}
    for name, image in pictures.items():
        if image is not None:
            images.write_image(image, folder / f"{name}.nii.gz")
    transforms.write_transform(case.forward, folder / FORWARD)
    if case.backward is not None:
        transforms.write_transform(case.backward, folder / BACKWARD)
    if case.landmarks:
        write_landmarks(case.landmarks, folder / LANDMARKS)
    if case.names:
        _write_names(case.names, folder / NAMES)
    text = json.dumps(json_ready({"format": FORMAT, "provenance": case.provenance}), indent=2)
    files.write_text(folder / INDEX, text + "\n")


def _write_names(names: Mapping[int, str], path: Path) -> None:
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerows([("label", "name"), *sorted(names.items())])
    files.write_text(path, buffer.getvalue())


def _read_names(path: Path) -> dict[int, str]:
    try:
        with open(path, newline="", encoding="utf-8") as file:
            return {int(row["label"]): row["name"] for row in csv.DictReader(file)}
    except (OSError, ValueError, KeyError, TypeError):
        raise ImageError(f"'{path}' is no table of names: it needs the columns label and name.") from None


def read_result(folder: str | Path) -> Case:
    """Read what :func:`write_result` wrote.

    Raises:
        SynthMorphError: it is no result folder, or something in it is missing or damaged.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise SynthMorphError(f"There is no folder '{folder}': give one that 'synthmorph register --result' wrote.")
    if not (folder / INDEX).is_file():
        raise SynthMorphError(f"'{folder}' is no result folder, it lacks {INDEX}: give one that 'synthmorph register "
                              "--result' wrote.")
    try:
        index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
        if index["format"] != FORMAT:
            raise KeyError("format")
        provenance = dict(index["provenance"])
    except (OSError, ValueError, KeyError, TypeError):
        raise SynthMorphError(f"'{folder / INDEX}' is damaged or of another version: register again with "
                              "--result.") from None
    fixed, moving = (images.check_image(images.read_image(p), f"'{p}'")
                     for p in (folder / "fixed.nii.gz", folder / "moving.nii.gz"))
    labels: dict[str, sitk.Image] = {
        side: images.read_labels(path) for side in ("moving_labels", "fixed_labels")
        if (path := folder / f"{side}.nii.gz").exists()}
    forward = transforms.read_transform(folder / FORWARD)
    backward = transforms.read_transform(folder / BACKWARD) if (folder / BACKWARD).exists() else None
    names = _read_names(folder / NAMES) if (folder / NAMES).exists() else {}
    landmarks = read_landmarks(folder / LANDMARKS) if (folder / LANDMARKS).exists() else None
    return Case(forward, backward, moving, fixed, labels.get("moving_labels"), labels.get("fixed_labels"), names,
                landmarks, None, provenance)
