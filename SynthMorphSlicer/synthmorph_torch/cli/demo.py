"""``synthmorph demo``: a registration whose truth is known."""
from __future__ import annotations

import argparse
import time
from pathlib import Path

from .computing import add_computing_options, check_computing, prepare
from .parser import Parser, positive_number, whole_number
from .progress import ProgressBar

DESCRIPTION = """\
Make a "patient" from the MNI152 template by a random affine transform, a smooth random warp and an inverted contrast,
register it back, and say how far the result is from the truth. Needs no data and no network: the template is part of
the Python package nilearn."""

EPILOG = """\
example
  synthmorph demo demo && open demo/montage.png"""


def add_arguments(parser: Parser) -> None:
    parser.add_argument("folder", metavar="DIR", nargs="?", type=Path, default=Path("demo"),
                        help="where to write images, transforms, pictures and measures (default: demo)")
    parser.add_argument("--template", metavar="IMAGE", type=Path, help="start from this image instead of MNI152")
    parser.add_argument("--spacing", metavar="MM", type=positive_number, default=1.0,
                        help="voxel size of both images (default: 1)")
    parser.add_argument("--seed", metavar="N", type=whole_number(0, 1), default=1,
                        help="which random patient (default: 1)")
    parser.add_argument("--refine", metavar="N", type=whole_number(0, 50), default=None,
                        help="iterations of instance optimisation (default: what the model recommends)")
    add_computing_options(parser)


def run(options: argparse.Namespace) -> int:
    from .. import demo, outputs

    check_computing(options)
    outputs.check_folder(options.folder)
    template = options.template or demo.template_path()
    started = time.perf_counter()
    with ProgressBar("demo") as bar:
        model = prepare(options)
        outcome = demo.run(model, options.folder, template, options.spacing, options.seed, options.refine, bar)
    for line in (model.reason, *outcome.registration.notes):
        print(line)
    for path in outcome.written:
        print(f"Wrote {path}")
    print("\nDistance to the true position, over the template's brain   mean    95 %")
    for name, (mean, high) in (("before", outcome.before), ("after, affine part alone", outcome.affine),
                               ("after", outcome.after)):
        print(f"  {name:<56}{mean:5.2f}  {high:5.2f} mm")
    result = outcome.registration
    print(f"\nRegistered in {sum(result.seconds.values()):.1f} s, done in {time.perf_counter() - started:.1f} s on "
          f"{result.model.device}. Look at {options.folder / 'montage.png'} or "
          f"{options.folder / 'report' / 'index.html'}.")
    return 0
