"""Which weights a registration uses.

Search order: files named explicitly, the environment variable SYNTHMORPH_WEIGHTS, the models of a FreeSurfer
installation, the user's cache folder. Where these lack the official networks, the compact model of this project
serves instead.
"""
from __future__ import annotations

import hashlib
import importlib.util
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..errors import WeightsError
from .arrays import KERAS_FORMAT, file_kind, open_arrays, read_metadata
from .loading import split_roles
from .store import catalogue, checksum, entry_named, models_folder, resources, resources_folder

ROLES = {"joint": ("affine", "deform"), "affine": ("affine",), "rigid": ("rigid",), "deform": ("deform",)}


@dataclass(frozen=True)
class WeightChoice:
    """The weights for a registration, and one sentence on why these.

    ``paths`` maps roles (affine, rigid, deform) to official files, or "compact" to the compact model.
    """

    kind: str
    paths: dict[str, Path] = field(default_factory=dict)
    reason: str = ""
    licence: str = ""
    attribution: str = ""

    @property
    def checksum(self) -> str:
        """SHA-256 of the file, or of the checksums of several files one after the other."""
        sums = [checksum(path) for _, path in sorted(self.paths.items())]
        return sums[0] if len(sums) == 1 else hashlib.sha256("".join(sums).encode()).hexdigest()


@dataclass(frozen=True)
class _Place:
    where: str
    paths: tuple[Path, ...]
    strict: bool  # asked for by the user, so a missing or wrong file is an error


def find_weights(mode: str = "joint", explicit: Sequence[str | Path] | str | Path | None = None,
                 prefer: str = "auto") -> WeightChoice:
    """Find the weights for a registration.

    Args:
        mode: "joint", "affine", "rigid" or "deform".
        explicit: weight files or folders given by the user (-w).
        prefer: "auto", "official" (an error if incomplete) or "compact".

    Raises:
        WeightsError: what was asked for is not there or does not fit.
    """
    needed = ROLES[mode]
    if prefer == "compact":
        return _compact("it was asked for")
    found: dict[str, tuple[Path, str]] = {}
    places = list(_places(explicit))
    for place in places:
        for path in place.paths:
            for role, file in _roles_of(path, needed, place).items():
                if role == "compact":
                    return _compact(f"{place.where} names it", file)
                found.setdefault(role, (file, place.where))
    missing = [role for role in needed if role not in found]
    if missing:
        return _fall_back(missing, places, prefer)
    if prefer == "auto" and not explicit and not _readable([path for path, _ in found.values()]):
        return _compact("official weights are there but need the Python package h5py, which is not installed")
    paths = {role: found[role][0] for role in needed}
    sources = list(dict.fromkeys(found[role][1] for role in needed))
    names = " and ".join(path.name for path in dict.fromkeys(paths.values()))
    first = catalogue()[0]
    return WeightChoice("official", paths, f"Using {names} from {' and '.join(sources)}.",
                        first.licence, first.attribution)


def _places(explicit: Sequence[str | Path] | str | Path | None) -> Iterable[_Place]:
    if explicit:
        listed = [explicit] if isinstance(explicit, (str, Path)) else explicit
        yield _Place("the given path", tuple(Path(path).expanduser() for path in listed), True)
    if variable := os.environ.get("SYNTHMORPH_WEIGHTS"):
        listed = [part for part in variable.split(os.pathsep) if part]
        yield _Place("SYNTHMORPH_WEIGHTS", tuple(Path(part).expanduser() for part in listed), True)
    if home := os.environ.get("FREESURFER_HOME"):
        yield _Place("FREESURFER_HOME", (Path(home) / "models",), False)
    yield _Place("the cache folder", (models_folder(),), False)


def _roles_of(path: Path, needed: Sequence[str], place: _Place) -> dict[str, Path]:
    """Which networks a file or folder offers."""
    if path.is_dir():
        return {
            entry.role: file
            for entry in reversed(catalogue())
            for file in (path / Path(entry.name).with_suffix(".safetensors"), path / entry.name)
            if file.is_file() and _looks_like_weights(file)
        }
    if not place.strict:
        return {}
    if not path.exists():
        raise WeightsError(f"There are no weights at '{path}', named by {place.where}: check the path.")
    if file_kind(path) == "safetensors" and read_metadata(path).get("format") != KERAS_FORMAT:
        return {"compact": path}
    with open_arrays(path) as stored:
        detector, deformable = split_roles(stored.shapes())
    # affine and rigid detectors look alike; the mode says which one is meant
    roles = (["rigid" if "rigid" in needed else "affine"] if detector else []) + (["deform"] if deformable else [])
    if not roles:
        raise WeightsError(f"'{path}' holds no network weights: use one of the official SynthMorph files.")
    return dict.fromkeys(roles, path)


def _looks_like_weights(path: Path) -> bool:
    """False for what merely has the name, such as a git-annex pointer in a FreeSurfer source tree."""
    try:
        file_kind(path)
    except WeightsError:
        return False
    return True


def _readable(paths: Iterable[Path]) -> bool:
    return importlib.util.find_spec("h5py") is not None or all(file_kind(p) == "safetensors" for p in paths)


def _fall_back(missing: list[str], places: list[_Place], prefer: str) -> WeightChoice:
    names = " and ".join(entry_named(role).name for role in missing)
    ways = f"'synthmorph weights fetch {' '.join(missing)}', or the Setup section in Slicer"
    asked = [place.where for place in places if place.strict]
    if asked or prefer == "official":
        where = ", ".join(place.where for place in places)
        be = "was" if len(missing) == 1 else "were"
        raise WeightsError(f"{names} {be} not found in {where}: download the official weights ({ways}), or name "
                           "another folder.")
    be = "is" if len(missing) == 1 else "are"
    return _compact(f"{names} {be} not installed (to download {_megabytes(missing)} MB: {ways})")


def _megabytes(roles: Iterable[str]) -> int:
    return round(sum(entry_named(role).bytes for role in roles) / 1e6)


def _compact(reason: str, path: Path | None = None) -> WeightChoice:
    data = resources()["compact"]
    path = path or resources_folder() / data["file"]
    if not path.is_file():
        raise WeightsError(f"The compact model '{path}' is missing: install SynthMorphSlicer again, or download the "
                           "official weights ('synthmorph weights fetch', or the Setup section in Slicer).")
    return WeightChoice("compact", {"compact": path}, f"Using the compact model {path.name} because {reason}.",
                        data["licence"], data["attribution"])
