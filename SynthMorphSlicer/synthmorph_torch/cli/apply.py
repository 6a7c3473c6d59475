"""``synthmorph apply``: a saved transform, and images or label maps to move with it."""
from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import UsageError
from .parser import Parser, add_threads, add_verbose, number, one_of
from .progress import ProgressBar

if TYPE_CHECKING:
    import SimpleITK as sitk

    from ..geometry import Space

DESCRIPTION = """\
Apply a transform saved by '-t' to further images of the moving space, or one saved by '-T' to images of the fixed
space. FreeSurfer and ITK transforms are understood. Label maps are told from scans by their voxels, and each is
interpolated as it must be."""

EPILOG = """\
A warp lies on a grid of its own, which the output takes. A matrix has none, except that an .lta knows its target:
name an image with --like for the others.

examples
  synthmorph apply warp.nii.gz other.nii.gz other_moved.nii.gz
  synthmorph apply warp.nii.gz t2.nii.gz t2_moved.nii.gz labels.nii.gz labels_moved.nii.gz
  synthmorph apply -m nearest warp.nii.gz labels.nii.gz labels_moved.nii.gz
  synthmorph apply -H affine.lta moving.nii.gz moved.nii.gz"""


def add_arguments(parser: Parser) -> None:
    parser.add_argument("transform", metavar="TRANS", type=Path, help="transform to apply")
    parser.add_argument("images", metavar="IN OUT", nargs="+", type=Path, help="pairs of an input and an output image")
    parser.add_argument("-H", dest="header_only", action="store_true",
                        help="change the header instead of resampling; matrices only")
    parser.add_argument("-m", dest="method", metavar="METHOD", type=one_of("auto", "linear", "nearest"),
                        default="auto", help="interpolation: auto (default; label maps with smooth borders, which are "
                                             "settled where a warp is between two people; other images linearly), "
                                             "linear or nearest")
    parser.add_argument("-t", dest="dtype", metavar="TYPE", default=None,
                        type=one_of("uint8", "int8", "uint16", "int16", "uint32", "int32", "float32", "float64"),
                        help="type of the output voxels, such as uint8 or float32 (default: that of the input for "
                             "label maps, float32 for linear)")
    parser.add_argument("-f", dest="fill", metavar="FILL", type=number, default=0.0,
                        help="value of voxels outside the input's field of view (default: 0)")
    parser.add_argument("--like", metavar="IMAGE", type=Path, help="take the output grid from this image")
    add_threads(parser)
    add_verbose(parser)


def target_grid(path: Path, transform: sitk.Transform) -> Space | None:
    """The grid that a transform file names for its result, or None if it names none."""
    import SimpleITK as sitk

    from .. import freesurfer
    from ..geometry import Space

    if path.suffix.lower() == ".lta":
        return freesurfer.lta_target(path)
    if transform.GetName() == "DisplacementFieldTransform":
        return Space.of(sitk.DisplacementFieldTransform(transform).GetDisplacementField())
    return None


def move(transform: sitk.Transform, image: sitk.Image, grid: Space, method: str, fill: float, dtype: str | None
         ) -> sitk.Image:
    """Resample one image; ``auto`` finds out what it is."""
    from .. import labels, transforms

    if method != "auto":
        return transforms.apply(transform, image, grid, method, fill, dtype)
    if not labels.are_labels(image):
        return transforms.apply(transform, image, grid, "linear", fill, dtype)
    moved = labels.move_labels(transform, image, grid, fill)
    return moved if dtype is None else transforms.convert(moved, dtype)


def run(options: argparse.Namespace) -> int:
    from .. import files, images, transforms
    from ..geometry import Space

    if len(options.images) % 2:
        raise UsageError(f"'{options.images[-1]}' has no partner: give pairs of an input and an output image.")
    pairs = list(zip(options.images[::2], options.images[1::2], strict=True))
    targets = [files.check_output_path(target, "image").resolve() for _, target in pairs]
    for target in targets:
        if targets.count(target) > 1:
            raise UsageError(f"'{target}' would be written twice: give every output a name of its own.")
    if options.threads:
        import SimpleITK as sitk

        sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(options.threads)
    transform = transforms.read_transform(options.transform)
    if options.header_only and not transform.IsLinear():
        raise UsageError(f"-H changes the header only, but '{options.transform}' is a warp: leave out -H.")
    grid = None
    if options.like:
        grid = Space.of(images.read_image(options.like))
    elif not options.header_only:
        grid = target_grid(options.transform, transform)
        if grid is None:
            raise UsageError(f"'{options.transform}' does not say on which grid the result should lie: name an image "
                             "with --like.")
    with ProgressBar("applying") as bar:
        for count, (source, target) in enumerate(pairs):
            bar(source.name, count / len(pairs))
            image = images.read_image(source)
            if options.header_only or grid is None:
                moved = transforms.header_only(image, transform)
            else:
                moved = move(transform, image, grid, options.method, options.fill, options.dtype)
            images.write_image(moved, target)
    for _, target in pairs:
        print(f"Wrote {target}")
    return 0
