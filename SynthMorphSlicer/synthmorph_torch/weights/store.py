"""Which official weight files exist, and the user's cache folder that holds what was fetched and prepared."""
from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from ..errors import SynthMorphError, WeightsError
from ..files import write_text

PART = ".part"  # ending of a download that is not complete
Bytes = Callable[[int, int], None]  # progress: bytes done, bytes in all


@dataclass(frozen=True)
class Entry:
    """An official weight file: ``role`` is the network it holds, affine, rigid or deform."""

    name: str
    role: str
    url: str
    bytes: int
    sha256: str
    licence: str = ""
    attribution: str = ""


@dataclass(frozen=True)
class Status:
    """State of a file in the cache folder: absent, incomplete, present, verified or corrupt."""

    entry: Entry
    state: str
    path: Path
    bytes: int = 0


# Folders and catalogue ---------------------------------------------------------------------------------------

def cache_folder() -> Path:
    """The user's cache folder for weights, or SYNTHMORPH_CACHE; it may not exist yet."""
    if chosen := os.environ.get("SYNTHMORPH_CACHE"):
        return Path(chosen)
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local") / "synthmorph" / "Cache"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "synthmorph"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "synthmorph"


def models_folder() -> Path:
    """Where fetched files are kept."""
    return cache_folder() / "models"


@cache
def resources_folder() -> Path:
    """The folder with models.json and the compact model: beside this package, or inside it when pip-installed.

    Raises:
        WeightsError: the installation is incomplete.
    """
    package = Path(__file__).resolve().parents[1]
    for folder in (package.parent / "Resources", package / "Resources"):
        if (folder / "models.json").is_file():
            return folder
    raise WeightsError("The file models.json is missing from the installation: install SynthMorphSlicer again.")


@cache
def catalogue() -> tuple[Entry, ...]:
    """The official weight files."""
    data = resources()
    shared = {"licence": data["official_licence"], "attribution": data["official_attribution"]}
    return tuple(Entry(**entry, **shared) for entry in data["official"])


@cache
def resources() -> dict[str, Any]:
    """The contents of models.json."""
    return json.loads((resources_folder() / "models.json").read_text(encoding="utf-8"))


def entry_named(name: str) -> Entry:
    """An official file by its name or role.

    Raises:
        WeightsError: there is none.
    """
    for entry in catalogue():
        if name in (entry.name, entry.role):
            return entry
    known = ", ".join(f"{e.role} ({e.name})" for e in catalogue())
    raise WeightsError(f"'{name}' is not in the catalogue of weights: choose among {known}.")


# State of the cache folder -----------------------------------------------------------------------------------

def list_weights() -> list[Status]:
    """Every official file with its state, judged by size alone."""
    return [_status(entry) for entry in catalogue()]


def _status(entry: Entry) -> Status:
    path = models_folder() / entry.name
    part = path.with_name(path.name + PART)
    if path.is_file():
        size = path.stat().st_size
        return Status(entry, "present" if size == entry.bytes else "corrupt", path, size)
    if part.is_file():
        return Status(entry, "incomplete", part, part.stat().st_size)
    return Status(entry, "absent", path)


def verify(name: str, progress: Bytes | None = None) -> Status:
    """Compare a fetched file with the catalogue, byte by byte; the state becomes "verified" or "corrupt"."""
    status = _status(entry_named(name))
    if status.state != "present":
        return status
    good = sha256(status.path, progress) == status.entry.sha256
    return Status(status.entry, "verified" if good else "corrupt", status.path, status.bytes)


def clear(what: str = "all") -> int:
    """Delete what this program put in the cache folder, and nothing else.

    Args:
        what: "all", "models" (fetched files), "partial" (incomplete downloads) or "baked" (kernels for a lambda).

    Returns:
        Bytes freed.
    """
    models, baked = models_folder(), cache_folder() / "baked"
    whole = [models / entry.name for entry in catalogue()]
    groups: dict[str, list[Path]] = {
        "models": whole + [path.with_suffix(".safetensors") for path in whole],
        "partial": [path.with_name(path.name + PART) for path in whole],
        "baked": list(baked.glob("*-lambda-*.safetensors")),
    }
    groups["all"] = [*groups["models"], *groups["partial"], *groups["baked"], _checksum_file()]
    if what not in groups:
        raise WeightsError(f"'{what}' cannot be cleared: choose among {', '.join(sorted(groups))}.")
    freed = 0
    for path in groups[what]:
        if path.is_file():
            size = path.stat().st_size
            try:
                path.unlink()
            except OSError as error:
                raise WeightsError(f"'{path}' cannot be deleted ({error.strerror}): check its permissions.") from error
            freed += size
    for folder in (models, baked, cache_folder()):
        with contextlib.suppress(OSError):  # not empty, or never made
            folder.rmdir()
    return freed


def free_bytes(folder: Path) -> int:
    """Free space on the disk that holds a folder, which must exist."""
    return shutil.disk_usage(folder).free


# Checksums ---------------------------------------------------------------------------------------------------

def sha256(path: Path, progress: Bytes | None = None) -> str:
    """SHA-256 of a file as hexadecimal digits, always computed."""
    total, done, digest = path.stat().st_size, 0, hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 22):
            digest.update(block)
            done += len(block)
            if progress:
                progress(done, total)
    return digest.hexdigest()


def checksum(path: str | Path) -> str:
    """SHA-256 of a file, remembered in the cache folder as long as its size and time do not change.

    Raises:
        WeightsError: the file cannot be read.
    """
    path = Path(path).resolve()
    try:
        state = path.stat()
        key = f"{path}|{state.st_size}|{state.st_mtime_ns}"
        known = _known_checksums()
        if key not in known:
            known = {k: v for k, v in known.items() if not k.startswith(f"{path}|")}
            known[key] = sha256(path)
            _remember(known)
    except OSError as error:
        raise WeightsError(f"'{path}' cannot be read ({error.strerror}): check the path.") from error
    return known[key]


def _checksum_file() -> Path:
    return cache_folder() / "checksums.json"


def _known_checksums() -> dict[str, str]:
    try:
        known = json.loads(_checksum_file().read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return known if isinstance(known, dict) else {}


def _remember(known: dict[str, str]) -> None:
    with contextlib.suppress(OSError, SynthMorphError):  # an unwritable cache only costs time
        cache_folder().mkdir(parents=True, exist_ok=True)
        write_text(_checksum_file(), json.dumps(known, indent=1))
