"""``synthmorph transfer``: the labels of atlases on a patient, and corrected labels back on the atlases."""
from __future__ import annotations

import argparse
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from ..errors import UsageError
from .computing import (
    add_computing_options,
    add_registration_options,
    check_computing,
    prepare,
    registration_settings,
)
from .parser import PROGRAM, Parser, one_of
from .progress import ProgressBar

if TYPE_CHECKING:
    from ..atlas import Atlas

METHODS = ("local", "majority", "staple")
DESCRIPTION = """\
Carry the labels of one atlas or many to a patient's image and fuse them. The folder OUT then holds the labels, a map of
how far the atlases agree, a table of volumes, names and colours, and the transforms of every atlas."""

EPILOG = f"""\
An atlas is a folder with a volume, its label map (seg, label, parc, mask or the like in its name) and, if there is one,
a table of names: .ctbl, a FreeSurfer look-up table, or a .csv with the columns label and name. DIR may also be a folder
of such folders; one that is broken is named, and the others are used. 'mni152' stands for the template of the Python
package nilearn with its grey and white matter.

Ctrl-C ends the work and keeps the atlases that are done; a second Ctrl-C keeps nothing.

examples
  {PROGRAM} transfer --atlas mni152 patient.nii.gz out
  {PROGRAM} transfer --atlas atlases/anna --atlas atlases/bert --fusion staple patient.nii.gz out
  {PROGRAM} transfer --back corrected.nii.gz patient.nii.gz out"""


def add_arguments(parser: Parser) -> None:
    parser.add_argument("patient", metavar="PATIENT", type=Path, help="image to be labelled")
    parser.add_argument("out", metavar="OUT", type=Path, help="folder to write")
    parser.add_argument("--atlas", metavar="DIR", action="append", default=[],
                        help="folder of an atlas or of several, or mni152; may be repeated")
    parser.add_argument("--fusion", metavar="METHOD", type=one_of(*METHODS), default="local",
                        help="local (weights by likeness, the default), majority or staple")
    parser.add_argument("--overwrite", action="store_true", help="replace an earlier transfer in OUT")
    parser.add_argument("--back", metavar="LABELS", type=Path,
                        help="carry this corrected label map of the patient back to the atlases of the transfer in OUT")
    add_registration_options(parser)
    add_computing_options(parser)


def run(options: argparse.Namespace) -> int:
    check_computing(options)
    if options.mid_space:
        raise UsageError("-M needs an initial transform, which a transfer does not have: leave it out.")
    if options.back:
        return _back(options)
    if not options.atlas:
        raise UsageError("There is no atlas: add --atlas DIR, or --atlas mni152.")
    from .. import images, transfer

    transfer.check_transfer_folder(options.out, options.overwrite)
    patient = images.check_image(images.read_image(options.patient), f"'{options.patient}'")
    atlases = load(options.atlas)
    transfer.common_structures(atlases)
    settings = registration_settings(options)
    with ProgressBar("transfer") as bar, stopping() as stopped:
        bar("loading the model", 0.0)
        model = prepare(options, options.transform)
        result = transfer.transfer(model, atlases, patient, options.fusion, bar, lambda: bool(stopped),
                                   lambda one: bar.write(f"{one.atlas.name}: done"), **settings)
    written = transfer.write_transfer(result, options.out, options.overwrite)
    print(model.reason)
    for fault in result.faults:
        print(f"Left out: {fault.sentence}")
    if result.doubtful:
        print("Look closely at these atlases, which do not look like the patient where the registration puts them: "
              f"{', '.join(result.doubtful)}.")
    if result.cancelled:
        print(f"Stopped: {len(result.propagated)} of {len(atlases)} atlases were done and are kept.")
    for path in written:
        print(f"Wrote {path}")
    return 0


def load(given: list[str]) -> list[Atlas]:
    """The atlases that are named; prints what is wrong with those that cannot be used.

    Raises:
        SynthMorphError: none can be used.
    """
    from .. import atlas
    from ..errors import SynthMorphError

    ready = [atlas.mni152()] if "mni152" in given and not Path("mni152").exists() else []
    found, faults = atlas.library([one for one in given if not (ready and one == "mni152")])
    for fault in faults:
        print(f"Left out: {fault.sentence}")
    if not ready + found:
        raise SynthMorphError(faults[0].sentence if len(faults) == 1 else
                              f"None of the {len(faults)} atlases can be used: correct what is said above.")
    return ready + found


def _back(options: argparse.Namespace) -> int:
    from .. import images, transfer

    if options.atlas:
        raise UsageError("--back uses the atlases of the transfer in OUT: leave out --atlas.")
    patient = images.read_image(options.patient)
    corrected = images.read_labels(options.back, patient)
    for path in transfer.carry_back_all(options.out, corrected, options.overwrite):
        print(f"Wrote {path}")
    return 0


@contextmanager
def stopping() -> Iterator[list[int]]:
    """A list that is empty until Ctrl-C is pressed; a second one interrupts as always."""
    pressed: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        pressed.append(number)
        signal.signal(signal.SIGINT, before)

    before = signal.getsignal(signal.SIGINT)
    try:
        signal.signal(signal.SIGINT, note)
    except ValueError:  # not the main thread: nobody presses keys here
        yield pressed
        return
    try:
        yield pressed
    finally:
        signal.signal(signal.SIGINT, before)
