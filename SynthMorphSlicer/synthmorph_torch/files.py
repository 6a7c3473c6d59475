"""Files that appear whole or not at all, and the extensions that decide how they are written.

The kinds of output are "image", "matrix" (a linear transform), "warp" (a transform with a displacement field),
"transform" (either), "json", "html", "table" and "png".
"""
from __future__ import annotations

import os
import shutil
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .errors import SynthMorphError, UsageError

ITK_IMAGES = (".nii.gz", ".nii", ".nrrd", ".mha")
MGH_IMAGES = (".mgz", ".mgh")
ITK_MATRICES = (".tfm", ".txt", ".mat", ".h5")
EXTENSIONS: dict[str, tuple[str, ...]] = {
    "image": ITK_IMAGES + MGH_IMAGES,
    "matrix": (".lta", *ITK_MATRICES),
    "warp": (*ITK_IMAGES, *MGH_IMAGES, ".h5", ".tfm"),
    "json": (".json",),
    "html": (".html",),
    "table": (".csv",),
    "png": (".png",),
}
EXTENSIONS["transform"] = tuple(dict.fromkeys(EXTENSIONS["matrix"] + EXTENSIONS["warp"]))
_DOUBLE = (".nii.gz", ".mgh.gz")


def extension(path: str | Path) -> str:
    """Lower-case extension of a file name, with ``.nii.gz`` in one piece."""
    name = Path(path).name.lower()
    return next((e for e in _DOUBLE if name.endswith(e)), Path(name).suffix)


def check_output_path(path: str | Path, kind: str) -> Path:
    """Make sure, before any computation, that a file of this kind can be written here.

    Returns:
        The path.

    Raises:
        UsageError: the extension does not suit the kind of output. SynthMorphError: there is no such folder, or
        nothing may be written to it.
    """
    path = Path(path)
    allowed = EXTENSIONS[kind]
    if extension(path) not in allowed:
        what = {"matrix": "linear transform", "warp": "warp"}.get(kind, kind)
        raise UsageError(f"'{path}' is no file name for a {what}: use one ending in {_either(allowed)}.")
    if path.is_dir():
        raise SynthMorphError(f"'{path}' is a folder: give the name of a file.")
    folder = path.resolve().parent
    if not folder.is_dir():
        raise SynthMorphError(f"The folder '{folder}' does not exist: create it or write elsewhere.")
    if not os.access(folder, os.W_OK) or (path.exists() and not os.access(path, os.W_OK)):
        raise SynthMorphError(f"'{path}' may not be written: change its permissions or write elsewhere.")
    return path


def _either(words: tuple[str, ...]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} or {words[-1]}"


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """A temporary file beside ``path`` that takes its place when the block ends without an error.

    The temporary name keeps the extension, by which ITK chooses the format. Whatever goes wrong, no temporary file
    stays behind and an older file at ``path`` is left as it was.

    Raises:
        SynthMorphError: the file could not be written.
    """
    target = Path(path).resolve()
    try:
        folder = tempfile.mkdtemp(prefix=".synthmorph-", dir=target.parent)
    except OSError as error:
        raise _unwritable(path, error) from error
    temporary = Path(folder, f"part{extension(path)}")
    try:
        yield temporary
        os.replace(temporary, target)
    except (OSError, RuntimeError) as error:  # RuntimeError is what SimpleITK raises
        raise _unwritable(path, error) from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def replacing_folder(path: str | Path) -> Iterator[Path]:
    """A temporary folder beside ``path`` that takes its place, and that of a folder there, when the block ends well.

    Raises:
        SynthMorphError: the folder could not be written; nothing half-written stays behind.
    """
    folder = Path(path)
    try:
        staging = Path(tempfile.mkdtemp(prefix=".synthmorph-", dir=folder.resolve().parent))
    except OSError as error:
        raise SynthMorphError(f"'{folder}' could not be written ({error.strerror}): check the permissions of the "
                              "folder around it.") from error
    try:
        yield staging
        os.chmod(staging, 0o755)  # temporary folders are private
        if folder.is_dir():
            shutil.rmtree(folder)
        os.replace(staging, folder)
    except OSError as error:
        raise SynthMorphError(f"'{folder}' could not be written ({error.strerror}): check the free space and the "
                              "permissions.") from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _unwritable(path: str | Path, error: Exception) -> SynthMorphError:
    reason = getattr(error, "strerror", None) or "the disk may be full"
    return SynthMorphError(f"'{path}' could not be written ({reason.lower()}): check the free space and the "
                           "permissions of its folder, or write elsewhere.")


def write_text(path: str | Path, text: str) -> None:
    """Write a text file, whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def check_length(path: Path, expected: int) -> None:
    """Raise OSError if a file holds fewer than ``expected`` bytes once decompressed, or is damaged.

    ITK's NIfTI code notices neither a disk that fills up while it writes nor a truncated file that it reads.
    """
    length = path.stat().st_size
    if path.suffix.lower() == ".gz":
        length, inflate = 0, zlib.decompressobj(wbits=31)
        with open(path, "rb") as file:
            while chunk := file.read(1 << 20):
                try:
                    length += len(inflate.decompress(chunk))
                except zlib.error as error:
                    raise OSError("the file is damaged") from error
    if length < expected:
        raise OSError("the file is shorter than it should be; the disk may be full")
