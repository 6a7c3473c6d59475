"""``synthmorph weights``: the official network weights and this program's cache of them."""
from __future__ import annotations

import argparse
from pathlib import Path

from ..errors import UsageError, WeightsError
from .parser import PROGRAM, Parser, add_verbose, one_of
from .progress import ProgressBar

DESCRIPTION = """\
Manage network weights. The program comes with a compact model and needs no others. The official SynthMorph weights
are used where they are found; they are distributed with FreeSurfer under CC BY 4.0.

  list                      official files and whether they are there (the default)
  fetch [NAME ...]          download them; an interrupted download continues where it stopped
  verify [NAME ...]         compare the files in the cache with their checksums
  convert SOURCE TARGET     write an .h5 file as .safetensors, which loads without the package h5py
  clear [WHAT]              delete from the cache: all (default), models, partial or baked

NAME is affine, rigid, deform or a file name; without it, all are meant."""

EPILOG = f"""\
examples
  {PROGRAM} weights
  {PROGRAM} weights fetch affine deform
  {PROGRAM} weights convert synthmorph.affine.2.h5 affine.safetensors"""

ACTIONS = ("list", "fetch", "verify", "convert", "clear")
LIMITS = {"list": (0, 0), "fetch": (0, None), "verify": (0, None), "convert": (2, 2), "clear": (0, 1)}


def add_arguments(parser: Parser) -> None:
    parser.add_argument("action", metavar="ACTION", nargs="?", type=one_of(*ACTIONS), default="list",
                        help="list, fetch, verify, convert or clear")
    parser.add_argument("names", metavar="NAME", nargs="*", help="what to act on")
    add_verbose(parser)


def run(options: argparse.Namespace) -> int:
    low, high = LIMITS[options.action]
    count = len(options.names)
    if count < low or (high is not None and count > high):
        takes = {0: "no names", 1: "at most one name", 2: "two file names"}[high or 0]
        raise UsageError(f"'weights {options.action}' takes {takes}, but {count or 'none'} "
                         f"{'is' if count < 2 else 'are'} given; '{PROGRAM} weights -h' explains it.")
    return {"list": _list, "fetch": _fetch, "verify": _verify, "convert": _convert, "clear": _clear}[options.action](
        options.names)


def _list(_: list[str]) -> int:
    from .. import weights

    for status in weights.list_weights():
        size = f"{status.entry.bytes / 1e6:,.0f} MB"
        print(f"{status.entry.role:<7} {status.entry.name:<24} {size:>9}  {status.state}")
    print(f"Cache: {weights.cache_folder()}")
    try:
        print(weights.find_weights().reason)
    except WeightsError as error:
        print(error)
    entry = weights.catalogue()[0]
    print(f"Official weights: {entry.licence}. {entry.attribution}")
    return 0


def _entries(names: list[str]) -> list[str]:
    from .. import weights

    known = weights.catalogue()
    for name in names:
        if not any(name in (entry.name, entry.role) for entry in known):
            choices = ", ".join(entry.role for entry in known)
            raise UsageError(f"'{name}' is not among the official weights: choose from {choices}.")
    return names or [entry.name for entry in known]


def _fetch(names: list[str]) -> int:
    from .. import weights

    for name in _entries(names):
        with ProgressBar(name) as bar:
            path = weights.fetch(name, progress=bar.bytes)
        print(f"{path} is complete and verified.")
    entry = weights.catalogue()[0]
    print(f"Licence: {entry.licence}. {entry.attribution}")
    return 0


def _verify(names: list[str]) -> int:
    from .. import weights

    corrupt = []
    for name in _entries(names):
        with ProgressBar(name) as bar:
            status = weights.verify(name, progress=bar.bytes)
        print(f"{status.entry.name}: {status.state}")
        if status.state == "corrupt":
            corrupt.append(status.entry.role)
    if corrupt:
        raise WeightsError(f"Damaged: {', '.join(corrupt)}; run '{PROGRAM} weights clear models' and "
                           f"'{PROGRAM} weights fetch {' '.join(corrupt)}'.")
    return 0


def _convert(names: list[str]) -> int:
    from .. import weights

    source, target = (Path(name) for name in names)
    if target.suffix != ".safetensors":
        raise UsageError(f"'{target}' should end in .safetensors, the format that is written.")
    if not target.resolve().parent.is_dir():
        raise WeightsError(f"The folder of '{target}' does not exist: create it or write elsewhere.")
    weights.convert(source, target)
    print(f"Wrote {target}")
    return 0


def _clear(names: list[str]) -> int:
    from .. import weights

    what = names[0] if names else "all"
    if what not in ("all", "models", "partial", "baked"):
        raise UsageError(f"'{what}' is not in the cache: choose all, models, partial or baked.")
    print(f"Freed {weights.clear(what) / 1e6:,.1f} MB in {weights.cache_folder()}")
    return 0
