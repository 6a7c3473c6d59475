"""Fetching official weight files: resumed where they stopped, checked, and renamed only when they are right."""
from __future__ import annotations

import errno
import http.client
import os
import urllib.error
import urllib.request
from pathlib import Path
from typing import BinaryIO

from ..errors import WeightsError
from .store import PART, Bytes, Entry, entry_named, free_bytes, models_folder, sha256

TIMEOUT = 30  # seconds without a single byte
_BLOCK = 1 << 18


def fetch(name: str | Entry, progress: Bytes | None = None, folder: Path | None = None) -> Path:
    """Download an official weight file into the cache folder unless it is there already.

    An interrupted download continues where it stopped. SYNTHMORPH_WEIGHTS_URL names a mirror to use in place of
    the official folder.

    Args:
        name: file name or role (affine, rigid, deform) in the catalogue.
        progress: called with the bytes done and the bytes in all.
        folder: another folder to keep the file in.

    Returns:
        The path of the file, whose size and SHA-256 are those of the catalogue.

    Raises:
        WeightsError: the download failed; the sentence says whether running again continues it.
    """
    entry = name if isinstance(name, Entry) else entry_named(name)
    folder = folder or models_folder()
    target, part = folder / entry.name, folder / (entry.name + PART)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if target.is_file() and target.stat().st_size == entry.bytes and sha256(target) == entry.sha256:
            return target
        if part.is_file() and part.stat().st_size > entry.bytes:
            part.unlink()  # another version's, or not ours
        while (done := _size(part)) < entry.bytes:
            _download(entry, part, done, progress)
        _check(entry, part)
        os.replace(part, target)
    except WeightsError:
        raise
    except OSError as error:  # of the disk; those of the network were dealt with before
        if error.errno in (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)):
            raise _full(entry, part) from error
        raise WeightsError(
            f"'{folder}' cannot hold {entry.name} ({error.strerror}): check its permissions."
        ) from error
    return target


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _url(entry: Entry) -> str:
    mirror = os.environ.get("SYNTHMORPH_WEIGHTS_URL")
    return f"{mirror.rstrip('/')}/{entry.name}" if mirror else entry.url


def _download(entry: Entry, part: Path, done: int, progress: Bytes | None) -> None:
    """Append to a partial file until it is complete, or fail with a sentence. Starts over if the server must."""
    if free_bytes(part.parent) < entry.bytes - done:
        raise _full(entry, part)
    response = _open(entry, done)
    if response is None:
        part.unlink()
        return
    with response:
        start = _start(entry, response, done)
        with open(part, "r+b" if start else "wb") as file:
            file.seek(start)
            received = _copy(entry, response, file, start, progress)
    if received < entry.bytes:
        raise _stopped(entry, received, "the connection closed early")


def _open(entry: Entry, done: int) -> http.client.HTTPResponse | None:
    """Ask for the file from byte ``done`` on; None if the server cannot continue there."""
    url = _url(entry)
    request = urllib.request.Request(url, headers={"Range": f"bytes={done}-"} if done else {})
    try:
        response: http.client.HTTPResponse = urllib.request.urlopen(request, timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == 416 and done:
            return None
        raise WeightsError(
            f"The server refused {entry.name} (HTTP {error.code} {error.reason}): try later, or download {url} by "
            "hand and choose it (-w, or its folder in the Setup section in Slicer)."
        ) from error
    except (OSError, http.client.HTTPException) as error:
        raise _stopped(entry, done, _why(getattr(error, "reason", error))) from error
    return response


def _start(entry: Entry, response: http.client.HTTPResponse, done: int) -> int:
    """Where the response's first byte belongs. A server may ignore a range and send everything."""
    if response.status == 206:
        span, _, total = response.headers.get("Content-Range", "").removeprefix("bytes ").partition("/")
        start = int(span.partition("-")[0]) if span.partition("-")[0].isdigit() else -1
        size = int(total) if total.isdigit() else entry.bytes
        if not 0 <= start <= done:
            raise WeightsError(f"The server answered with a wrong part of {entry.name}: try again later.")
    else:
        length = response.headers.get("Content-Length", "")
        start, size = 0, int(length) if length.isdigit() else entry.bytes
    if size != entry.bytes:
        raise WeightsError(
            f"The server offers {size} bytes as {entry.name}, but the file has {entry.bytes}: check that no login page "
            "or proxy is in between, or try again later."
        )
    return start


def _copy(entry: Entry, response: http.client.HTTPResponse, file: BinaryIO, start: int, progress: Bytes | None) -> int:
    """Write the body to a file that is ``start`` bytes long so far; returns its new length."""
    done = start
    while done < entry.bytes:
        try:
            block = response.read(min(_BLOCK, entry.bytes - done))
        except (OSError, http.client.HTTPException) as error:
            raise _stopped(entry, done, _why(error)) from error
        if not block:
            break
        file.write(block)
        done += len(block)
        if progress:
            progress(done, entry.bytes)
    return done


def _why(error: object) -> str:
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def _stopped(entry: Entry, done: int, why: str) -> WeightsError:
    return WeightsError(
        f"The download of {entry.name} stopped after {_mb(done)} of {_mb(entry.bytes)} MB ({why}): start it again, and "
        "it continues there."
    )


def _full(entry: Entry, part: Path) -> WeightsError:
    needed = entry.bytes - _size(part)
    return WeightsError(
        f"The disk of '{part.parent}' is too full for {entry.name}: free {_mb(needed)} MB and start the "
        "download again, or choose another folder with SYNTHMORPH_CACHE."
    )


def _mb(size: int) -> str:
    return f"{size / 1e6:.0f}" if size >= 1e7 else f"{size / 1e6:.2f}"


def _check(entry: Entry, part: Path) -> None:
    if sha256(part) != entry.sha256:
        part.unlink()
        raise WeightsError(
            f"{entry.name} arrived with wrong content (its SHA-256 differs from the catalogue's) and was deleted: "
            "start the download again."
        )
