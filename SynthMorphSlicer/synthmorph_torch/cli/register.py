"""``synthmorph register``: two images in, one registration out."""
from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import UsageError
from ..outputs import Outputs
from .computing import (
    add_computing_options,
    add_registration_options,
    check_computing,
    prepare,
    registration_settings,
)
from .parser import Parser
from .progress import ProgressBar

if TYPE_CHECKING:
    import numpy as np

DESCRIPTION = """\
Register a moving to a fixed brain image. Their contrasts, resolutions, orientations and sizes may differ, and the
skull may be there or not. The letters are those of mri_synthmorph."""

EPILOG = """\
images     .nii.gz .nii .nrrd .mha .mgz; every format that ITK reads will do as input
matrices   .lta (FreeSurfer, moving to fixed RAS) or .tfm .txt .mat .h5 (ITK)
warps      .nii.gz .nii .nrrd .mha (ITK displacement field in LPS mm, for Slicer and ANTs),
           .mgz (FreeSurfer, RAS mm) or .h5 .tfm (ITK: affine and residual field apart)

examples
  synthmorph -o moved.nii.gz moving.nii.gz fixed.nii.gz
  synthmorph -m affine -t affine.lta moving.mgz fixed.mgz
  synthmorph -m rigid -Ho moved.nii.gz moving.nii.gz fixed.nii.gz
  synthmorph -m deform -i affine.lta -M -t warp.nii.gz moving.nii.gz fixed.nii.gz
  synthmorph --labels atlas_labels.nii.gz patient_labels.nii.gz --report report atlas.nii.gz patient.nii.gz

Weights are looked for in -w, SYNTHMORPH_WEIGHTS, FREESURFER_HOME/models and the cache of 'synthmorph weights'; the
compact model that comes with the program serves where the official ones are not found."""


def add_arguments(parser: Parser) -> None:
    parser.add_argument("moving", metavar="MOVING", type=Path, help="moving (source) image")
    parser.add_argument("fixed", metavar="FIXED", type=Path, help="fixed (target) image")
    images = parser.add_argument_group("images to write")
    images.add_argument("-o", dest="moved", metavar="IMAGE", type=Path,
                        help="moving image registered to the fixed image")
    images.add_argument("-O", dest="moved_fixed", metavar="IMAGE", type=Path,
                        help="fixed image registered to the moving image")
    images.add_argument("-H", dest="header_only", action="store_true",
                        help="with -o and -O, change the header instead of resampling; affine and rigid only")
    images.add_argument("--labels", metavar=("IN", "OUT"), nargs=2, type=Path, action="append", default=[],
                        help="carry a label map of the moving image to the fixed image; may be repeated")
    images.add_argument("--jacobian", metavar="IMAGE", type=Path,
                        help="Jacobian determinant at every fixed voxel; above 1 the moving image is larger there")
    images.add_argument("--log-jacobian", metavar="IMAGE", type=Path, help="its natural logarithm")
    images.add_argument("-d", dest="network_inputs", metavar="DIR", type=Path,
                        help="the images as the network saw them, inp_1.mgz and inp_2.mgz")
    transforms = parser.add_argument_group("transforms")
    transforms.add_argument("-t", dest="transform_out", metavar="TRANS", type=Path,
                            help="transform from the moving to the fixed image, with any initialization")
    transforms.add_argument("-T", dest="inverse", metavar="TRANS", type=Path,
                            help="transform from the fixed to the moving image")
    transforms.add_argument("-i", dest="initial", metavar="TRANS", type=Path,
                            help="matrix applied to the moving image before the registration")
    judging = parser.add_argument_group("measures")
    judging.add_argument("--measures", metavar="FILE.json", type=Path,
                         help="folding, Jacobian, displacement, inverse consistency, similarity, times, model")
    judging.add_argument("--fixed-labels", metavar="FILE", type=Path,
                         help="true labels of the fixed image: adds Dice and surface distance of the first --labels")
    judging.add_argument("--report", metavar="DIR", type=Path,
                         help="one HTML page with pictures and numbers, and its table")
    judging.add_argument("--result", metavar="DIR", type=Path,
                         help="everything that 'synthmorph review' needs: images, transforms, labels and settings")
    add_registration_options(parser)
    add_computing_options(parser)


def run(options: argparse.Namespace) -> int:
    """Check everything, then register, then write."""
    outputs = Outputs(
        moved=options.moved, moved_fixed=options.moved_fixed, header_only=options.header_only,
        transform=options.transform_out, inverse=options.inverse, labels=[tuple(pair) for pair in options.labels],
        fixed_labels=options.fixed_labels, jacobian=options.jacobian, log_jacobian=options.log_jacobian,
        measures=options.measures, report=options.report, result=options.result,
        network_inputs=options.network_inputs)
    if options.mid_space and not options.initial:
        raise UsageError("-M shares an initial transform between the images, but there is none: add -i.")
    check_computing(options)
    outputs.check(options.transform)
    started = time.perf_counter()
    with ProgressBar("registering") as bar:
        from .. import images

        bar("reading images", 0.0)
        moving, fixed = (images.check_image(images.read_image(path), f"'{path}'")
                         for path in (options.moving, options.fixed))
        labels = outputs.read_labels(moving)
        if options.fixed_labels:
            images.read_labels(options.fixed_labels, fixed)
        initial = None if options.initial is None else read_initial(options.initial)
        bar("loading the model", 0.02)
        model = prepare(options, options.transform)
        result = model.register(moving, fixed, **registration_settings(options), initial=initial,
                                mid_space=options.mid_space,
                                progress=lambda stage, done: bar(stage, 0.05 + 0.75 * done))
        written = outputs.write(result, labels, lambda stage, done: bar(stage, 0.8 + 0.2 * done))
    for line in (model.reason, *result.notes):
        print(line)
    for path in written:
        print(f"Wrote {path}")
    if not written:
        print("Registered, but nothing was written: ask for it with -o, -t, --report and others.")
    if options.verbose:
        for stage, seconds in result.seconds.items():
            print(f"  {stage}: {seconds:.1f} s")
    print(f"Done in {time.perf_counter() - started:.1f} s on {result.model.device}.")
    return 0


def read_initial(path: Path) -> np.ndarray:
    """Initial transform as (4, 4) matrix from fixed to moving world points, LPS millimetres."""
    from .. import transforms

    transform = transforms.read_transform(path)
    if not transform.IsLinear():
        raise UsageError(f"'{path}' is no matrix: the initial transform (-i) must be affine or rigid.")
    return transforms.matrix_of(transform)
