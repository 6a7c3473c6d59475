"""Atlases: a folder with a volume, its label map, and a table of names and colours.

A folder is read by these rules, unless it holds an ``atlas.json`` with the keys ``image``, ``labels``, ``table`` and
``name`` (file names within the folder; all but the first two may be left out):

* the label map is the image whose name contains seg, label, parc, mask, aseg, atlas or a similar word; a Slicer
  segmentation (``.seg.nrrd``) brings its names and colours along;
* the volume is the other image;
* the table is a ``.ctbl`` or ``.txt`` as Slicer and FreeSurfer write it (number, name, red, green, blue, opacity), or a
  ``.csv`` with the columns label and name, or LabelValue and Name.

A library is a folder of such folders. One that is broken is named with its fault, and the others still load.
"""
from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from . import images
from .errors import ImageError, SynthMorphError
from .files import ITK_IMAGES, MGH_IMAGES, extension, write_text
from .geometry import Space

LABEL_WORDS = ("seg", "label", "parc", "mask", "aseg", "atlas", "glm", "regions", "structures", "wmpm")
TABLES = (".ctbl", ".csv", ".txt", ".lut")
_PLAIN = ("labelvalue", "label", "name", *(f"{start}{c}" for start in ("color_", "") for c in "rgba"))
Colour = tuple[int, int, int]


@dataclass(frozen=True)
class Structure:
    """A label's name and colour (0 to 255); ``terminology`` holds further columns of Slicer's tables as they are."""

    name: str
    colour: Colour
    terminology: Mapping[str, str] = field(default_factory=dict)


@dataclass
class Atlas:
    """A volume with labels. Images are read when they are first asked for."""

    name: str
    image_path: Path
    labels_path: Path | None
    structures: dict[int, Structure] = field(default_factory=dict)
    parts: tuple[tuple[int, Path], ...] = ()  # masks that make up the labels where there is no label map

    @cached_property
    def image(self) -> sitk.Image:
        """The volume.

        Raises:
            ImageError: it cannot be read or registered.
        """
        return images.check_image(images.read_image(self.image_path), f"'{self.image_path}'")

    @cached_property
    def labels(self) -> sitk.Image:
        """The label map, on the grid of the volume or any other in its world.

        Raises:
            ImageError: it cannot be read, is no label map, or lies elsewhere.
        """
        if self.labels_path is None:
            return _from_masks(self.parts)
        labels = images.read_labels(self.labels_path)
        try:
            images.check_overlap(labels, self.image)
        except ImageError:
            raise ImageError(f"'{self.labels_path}' does not lie where its volume '{self.image_path.name}' lies: "
                             "correct one of the headers.") from None
        return labels

    def check(self) -> Atlas:
        """Read everything, so that a fault is found now."""
        known = {int(n) for n in np.unique(sitk.GetArrayViewFromImage(self.labels)) if n}
        for label in sorted(known - set(self.structures)):
            self.structures[label] = Structure(f"Label {label}", colour_of(label))
        self.structures = {label: self.structures[label] for label in sorted(known)}
        return self

    @property
    def names(self) -> dict[int, str]:
        """Names by label."""
        return {label: structure.name for label, structure in self.structures.items()}


@dataclass(frozen=True)
class Fault:
    """An atlas that could not be loaded, and why."""

    folder: Path
    sentence: str


def colour_of(label: int) -> Colour:
    """A colour for a label without one: far from those of its neighbours."""
    hue = (label * 0.618033988749895) % 1.0
    part = np.clip(np.abs((hue * 6 + np.array([0, 4, 2])) % 6 - 3) - 1, 0, 1)
    r, g, b = (int(v) for v in 60 + 180 * part)
    return r, g, b


def library(folders: Iterable[str | Path]) -> tuple[list[Atlas], list[Fault]]:
    """All atlases of some folders, each an atlas or a folder of atlases.

    Returns:
        Those that can be used, fully read and with unique names, and the faults of the others.
    """
    atlases: list[Atlas] = []
    faults: list[Fault] = []
    for folder in [one for given in folders for one in _candidates(Path(given))]:
        try:
            atlas = read_atlas(folder)
        except (SynthMorphError, OSError, ValueError, RuntimeError) as error:
            faults.append(Fault(folder, " ".join(str(error).split())))
            continue
        taken = {other.name for other in atlases}
        number = 2
        while atlas.name in taken:
            atlas.name = f"{folder.name} ({number})"
            number += 1
        atlases.append(atlas)
    return atlases, faults


def _candidates(folder: Path) -> list[Path]:
    """The folder itself if it looks like an atlas, else the folders in it."""
    if not folder.is_dir() or (folder / "atlas.json").exists() or _images_in(folder):
        return [folder]
    inside = sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))
    return inside or [folder]


def _images_in(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if p.is_file() and not p.name.startswith(".")
                  and extension(p) in (*ITK_IMAGES, *MGH_IMAGES))


def read_atlas(folder: str | Path) -> Atlas:
    """Read one atlas folder.

    Raises:
        ImageError: something is missing or broken; the sentence says what.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ImageError(f"There is no folder '{folder}': give one with a volume and its label map.")
    if (folder / "atlas.json").exists():
        return _described(folder).check()
    found = _images_in(folder)
    maps = [p for p in found if any(word in p.name.lower() for word in LABEL_WORDS)]
    volumes = [p for p in found if p not in maps]
    for kind, paths in (("label map", maps), ("volume", volumes)):
        if not paths:
            raise ImageError(f"The atlas '{folder}' has no {kind}: add one, or name the files in an atlas.json.")
        if len(paths) > 1:
            raise ImageError(f"The atlas '{folder}' has several files that may be its {kind}, "
                             f"'{paths[0].name}' and '{paths[1].name}': name the right one in an atlas.json.")
    tables = sorted(p for p in folder.iterdir() if p.suffix.lower() in TABLES)
    tables = [p for p in tables if not p.name.lower().startswith(("readme", "licen"))]
    if len(tables) > 1:
        raise ImageError(f"The atlas '{folder}' has several tables of names, '{tables[0].name}' and "
                         f"'{tables[1].name}': name the right one in an atlas.json.")
    return _atlas(folder.name, volumes[0], maps[0], tables[0] if tables else None).check()


def _described(folder: Path) -> Atlas:
    """An atlas with an ``atlas.json``."""
    path = folder / "atlas.json"
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
        image, labels = folder / told["image"], folder / told["labels"]
        table = folder / told["table"] if told.get("table") else None
        return _atlas(str(told.get("name") or folder.name), image, labels, table)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise ImageError(f"'{path}' is damaged or incomplete: it needs at least the keys image and labels.") from None


def _atlas(name: str, image: Path, labels: Path, table: Path | None) -> Atlas:
    structures = read_table(table) if table is not None else segment_names(labels)
    return Atlas(name, image, labels, structures)


def read_table(path: str | Path) -> dict[int, Structure]:
    """Names and colours from a .ctbl, a FreeSurfer look-up table, or a CSV.

    Raises:
        ImageError: the table cannot be read.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
        table = _from_csv(text) if path.suffix.lower() == ".csv" else _from_columns(text)
    except (OSError, UnicodeDecodeError, ValueError, KeyError, IndexError, TypeError):
        table = {}
    if not table:
        raise ImageError(f"'{path}' is no table of names: it needs lines of number, name, red, green, blue and "
                         "opacity, or a CSV with the columns label and name.")
    return table


def _from_columns(text: str) -> dict[int, Structure]:
    table = {}
    for line in text.splitlines():
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        if len(words) < 2:
            raise ValueError(line)
        colour = _colour(words[2:5]) if len(words) >= 5 else colour_of(int(words[0]))
        table[int(words[0])] = Structure(words[1].strip('"').replace("_", " "), colour)
    return {label: structure for label, structure in table.items() if label}


def _from_csv(text: str) -> dict[int, Structure]:
    table = {}
    for row in csv.DictReader(io.StringIO(text)):
        cells = {(key or "").strip().lower(): (value or "").strip() for key, value in row.items() if key}
        label = int(cells.get("labelvalue") or cells["label"])
        rgb = [cells.get(f"color_{c}") or cells.get(c) or "" for c in "rgb"]
        other = {key.strip(): value.strip() for key, value in row.items()
                 if key and value and key.strip().lower() not in _PLAIN}
        table[label] = Structure(cells.get("name") or f"Label {label}",
                                 _colour(rgb) if all(rgb) else colour_of(label), other)
    return {label: structure for label, structure in table.items() if label}


def _colour(words: Iterable[str]) -> Colour:
    values = [float(word) for word in words]
    if all(0 <= v <= 1 for v in values) and any(0 < v < 1 for v in values):
        values = [255 * v for v in values]
    r, g, b = (int(round(min(max(v, 0), 255))) for v in values)
    return r, g, b


def segment_names(path: Path) -> dict[int, Structure]:
    """Names and colours that a Slicer segmentation file carries in its header; none in other files.

    Raises:
        ImageError: segments overlap, so that one label map cannot hold them.
    """
    if not path.name.lower().endswith(".seg.nrrd") or not path.is_file():
        return {}
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
    except RuntimeError:
        raise ImageError(f"'{path}' is damaged: save the segmentation again.") from None
    if reader.GetNumberOfComponents() > 1 or len(reader.GetSize()) > 3:
        raise ImageError(f"'{path}' holds segments that overlap: export it from Slicer as a label map.")
    table = {}
    for key in reader.GetMetaDataKeys():
        if match := re.fullmatch(r"(Segment\d+)_LabelValue", key):
            label = int(reader.GetMetaData(key))
            one = {name: reader.GetMetaData(f"{match[1]}_{name}") for name in ("Name", "Color", "Tags")
                   if reader.HasMetaDataKey(f"{match[1]}_{name}")}
            colour = _colour(one["Color"].split()) if len(one.get("Color", "").split()) == 3 else colour_of(label)
            table[label] = Structure(one.get("Name") or f"Label {label}", colour,
                                     {"Tags": one["Tags"]} if one.get("Tags") else {})
    return table


def write_ctbl(structures: Mapping[int, Structure], path: str | Path) -> None:
    """Write names and colours as a colour table that Slicer reads."""
    lines = [f"# Color table file {Path(path).name}", f"# {len(structures) + 1} values", "0 Background 0 0 0 0"]
    for label, structure in sorted(structures.items()):
        lines.append(f"{label} {structure.name.replace(' ', '_')} {' '.join(map(str, structure.colour))} 255")
    write_text(path, "\n".join(lines) + "\n")


def mni152() -> Atlas:
    """The MNI152 template of the nilearn package with its grey and white matter, ready to use.

    Raises:
        SynthMorphError: nilearn is not installed.
    """
    from .demo import template_path

    image = template_path()
    masks = tuple((label, image.with_name(image.name.replace("_t1_", f"_{tissue}_")))
                  for label, tissue in ((1, "gm"), (2, "wm")))
    structures = {1: Structure("Grey matter", (200, 130, 110)), 2: Structure("White matter", (240, 240, 220))}
    return Atlas("MNI152", image, None, structures, masks).check()


def _from_masks(parts: tuple[tuple[int, Path], ...]) -> sitk.Image:
    """One label map from probability maps: the likeliest tissue where it is likelier than none."""
    volumes = [images.read_image(path) for _, path in parts]
    arrays = [sitk.GetArrayFromImage(volume).astype(np.float32) for volume in volumes]
    shares = np.stack([a / max(float(a.max()), 1e-9) for a in arrays])
    best = shares.argmax(0)
    numbers = np.array([label for label, _ in parts], np.uint8)
    return Space.of(volumes[0]).image(np.where(shares.max(0) > 0.5, numbers[best], 0).astype(np.uint8))
