"""``synthmorph train``: networks from label maps alone, on images synthesized from them; or from images alone."""
from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import ImageError, UsageError
from ..files import extension
from ..outputs import check_folder
from .parser import PROGRAM, Parser, add_threads, add_verbose, device, one_of, positive_number, whole_number

if TYPE_CHECKING:
    import torch

    from ..training.tasks import Task

DESCRIPTION = """\
Train networks, and put them into a file for -w.

  detector      the feature detector of a compact model, which finds the affine transform
  segmenter     a closer look at the head that the detector has found; needs a trained detector
  deformable    the network of a compact model that finds the warp; needs a trained segmenter
  voxelmorph    a network on images alone: scans of one contrast, skull-stripped and affinely aligned
  export        write a compact model (--data must be that of its training), or a VoxelMorph network

The networks of a compact model learn from images synthesized from whole-brain label maps with FreeSurfer's numbers.
Training keeps a log, curves and a checkpoint in OUT. Running the same command again goes on where it stopped."""

EPILOG = f"""\
examples
  {PROGRAM} train detector --data maps/ --out training/detector --minutes 120
  {PROGRAM} train segmenter --data maps/ --out training/segmenter --detector training/detector --minutes 120
  {PROGRAM} train deformable --data maps/ --out training/warp --segmenter training/segmenter --minutes 240
  {PROGRAM} train export --data maps/ --detector training/detector --segmenter training/segmenter \\
            --deformable training/warp --out model.safetensors
  {PROGRAM} -w model.safetensors -o moved.nii.gz moving.nii.gz fixed.nii.gz

  {PROGRAM} train voxelmorph --data scans/ --out training/voxelmorph --minutes 240
  {PROGRAM} train export --voxelmorph training/voxelmorph --out voxelmorph.safetensors
  {PROGRAM} -m deform -w voxelmorph.safetensors --labels atlas.nii.gz parcels.nii.gz moving.nii.gz fixed.nii.gz"""

# folders of earlier trainings that go with each kind
FOLDERS: dict[str, list[set[str]]] = {
    "detector": [set()], "segmenter": [{"detector"}], "deformable": [{"segmenter"}], "voxelmorph": [set()],
    "export": [{"detector", "segmenter", "deformable"}, {"voxelmorph"}]}
IMAGES = (".nii.gz", ".nii", ".mgz", ".nrrd", ".mha")


def add_arguments(parser: Parser) -> None:
    parser.add_argument("what", metavar="WHAT", type=one_of(*FOLDERS),
                        help="detector, segmenter, deformable, voxelmorph or export")
    parser.add_argument("--data", metavar="DIR", type=Path, help="folder of label maps; for voxelmorph, of scans")
    parser.add_argument("--out", metavar="OUT", type=Path, required=True,
                        help="folder of the training, or file to export to")
    training = parser.add_argument_group("training")
    training.add_argument("--minutes", metavar="N", type=positive_number, default=60.0,
                          help="time budget, over all runs together (default: 60)")
    training.add_argument("--validation", metavar="N", type=whole_number(1, 2), default=2,
                          help="keep the last N files for validation (default: 2)")
    training.add_argument("--validate-every", metavar="SECONDS", type=positive_number, default=120.0,
                          help="how often to validate, log and save (default: 120)")
    training.add_argument("--rate", metavar="RATE", type=positive_number, default=1e-3,
                          help="learning rate at the start (default: 0.001)")
    training.add_argument("--seed", metavar="N", type=whole_number(0, 1), default=0,
                          help="of random numbers (default: 0)")
    training.add_argument("--device", metavar="DEVICE", type=device, default="auto",
                          help="auto (the GPU if there is one, the default), cpu, cuda or cuda:N")
    add_threads(training)
    images = parser.add_argument_group("voxelmorph")
    images.add_argument("--images", metavar="SUFFIX", default="", help="ending of the scans (default: all images)")
    images.add_argument("--synthesize", action="store_true",
                        help="--data holds label maps: synthesize pairs of images from them that look alike")
    images.add_argument("--similarity", metavar="NAME", type=one_of("correlation", "mse"), default="correlation",
                        help="correlation (local, the default) or mse (mean squared difference)")
    images.add_argument("--smoothness", metavar="WEIGHT", type=positive_number,
                        help="weight of the roughness of warps (default: 1 for correlation, 0.02 for mse)")
    trained = parser.add_argument_group("trained networks")
    trained.add_argument("--detector", metavar="DIR", type=Path, help="folder of the detector's training")
    trained.add_argument("--segmenter", metavar="DIR", type=Path, help="folder of the segmenter's training")
    trained.add_argument("--deformable", metavar="DIR", type=Path, help="folder of the deformable network's training")
    trained.add_argument("--voxelmorph", metavar="DIR", type=Path, help="folder of a VoxelMorph training")
    add_verbose(parser)


def training_files(folder: Path, validation: int, kind: str = "label maps", suffix: str = "", fewest: int = 2
                   ) -> tuple[list[Path], list[Path]]:
    """Files for training and for validation, in the order of their names."""
    if not folder.is_dir():
        raise ImageError(f"There is no folder '{folder}': give the folder that holds the {kind}.")
    paths = sorted(path for path in folder.iterdir() if extension(path) in IMAGES and path.name.endswith(suffix))
    if len(paths) < validation + fewest:
        raise ImageError(f"'{folder}' holds {len(paths)} {kind}: at least {validation + fewest} are needed, {fewest} "
                         f"to train on and {validation} to validate with.")
    return paths[:-validation], paths[-validation:]


def run(options: argparse.Namespace) -> int:
    _check(options)
    if options.what == "export":
        return _export(options)
    kind = "scans" if options.what == "voxelmorph" and not options.synthesize else "label maps"
    if kind == "scans" and options.validation < 2:
        raise UsageError("Validation on scans needs a pair of them: give --validation 2 or more.")
    paths = training_files(options.data, options.validation, kind, options.images)
    check_folder(options.out)
    import torch

    from ..loader import find_device
    from ..training.train import Trainer

    if options.threads:
        torch.set_num_threads(options.threads)
    place = find_device(options.device)
    torch.manual_seed(options.seed)  # the initial weights, too
    print(f"Reading {len(paths[0])} {kind} to train on and {len(paths[1])} to validate with; training on {place}.",
          flush=True)
    trainer = Trainer(_task(options, paths, place), options.out, options.minutes, options.rate, options.seed)
    if trainer.elapsed:
        print(f"Going on after {trainer.step} steps and {trainer.elapsed / 60:.1f} of {options.minutes:g} minutes.")
    trainer.run(options.validate_every, report=lambda line: print(line, flush=True))
    print(f"Trained for {trainer.step} steps and {trainer.elapsed / 60:.1f} minutes; log, curves and checkpoint are in "
          f"{options.out}.")
    return 0


def _check(options: argparse.Namespace) -> None:
    """Refuse options that do not fit what is to be done."""
    given = {name for name in ("detector", "segmenter", "deformable", "voxelmorph") if getattr(options, name)}
    if given not in FOLDERS[options.what]:
        hint = {"segmenter": "needs a trained detector: give --detector DIR and no other folder of a training",
                "deformable": "needs a trained segmenter: give --segmenter DIR and no other folder of a training",
                "export": "needs trainings: give --detector, --segmenter and --deformable DIR, or --voxelmorph DIR"
                }.get(options.what, "starts from nothing: leave out " + " and ".join(f"--{n}" for n in sorted(given)))
        raise UsageError(f"'train {options.what}' {hint}.")
    if not options.data and given != {"voxelmorph"}:
        raise UsageError(f"'train {options.what}' needs --data DIR, the folder to learn from.")
    if options.what != "voxelmorph" and (options.synthesize or options.smoothness):
        raise UsageError("--synthesize and --smoothness belong to 'train voxelmorph': leave them out.")


def _task(options: argparse.Namespace, paths: tuple[list[Path], list[Path]], place: torch.device) -> Task[Any]:
    """What to train, with its data read."""
    if options.what == "voxelmorph":
        return _voxelmorph(options, paths, place)
    from ..training.export import load_trained
    from ..training.synthesis import load_subjects
    from ..training.tasks import make_task

    earlier = next((load_trained(folder, name) for name in ("detector", "segmenter")
                    if (folder := getattr(options, name))), None)
    training, validation = (load_subjects(half, place) for half in paths)
    return make_task(options.what, training, validation, place, earlier)


def _voxelmorph(options: argparse.Namespace, paths: tuple[list[Path], list[Path]], place: torch.device) -> Task[Any]:
    from ..networks import UNet
    from ..training import voxelmorph as vm
    from ..training.synthesis import load_subjects

    network = UNet(vm.WIDTHS).to(place)
    settings = {"similarity": options.similarity, "smoothness": options.smoothness}
    if options.synthesize:
        training, validation = (load_subjects(half, place) for half in paths)
        return vm.PaintedTask(network, training, validation, place, **settings)
    scans = vm.load_scans([*paths[0], *paths[1]], vm.ScansTask.grid, vm.ScansTask.spacing, place)
    return vm.ScansTask(network, scans[:len(paths[0])], scans[len(paths[0]):], place, **settings)


def _export(options: argparse.Namespace) -> int:
    if options.out.suffix != ".safetensors":
        raise UsageError(f"'{options.out}' should end in .safetensors, the format that is written.")
    check_folder(options.out.parent)
    if options.voxelmorph:
        from ..training.export import export_voxelmorph

        export_voxelmorph(options.voxelmorph, options.out)
    else:
        from ..training.export import export
        from ..training.synthesis import load_subjects, mean_centroids

        training, _ = training_files(options.data, options.validation)
        folders = {name: getattr(options, name) for name in ("detector", "segmenter", "deformable")}
        export(folders, mean_centroids(load_subjects(training)), options.out)
    print(f"Wrote {options.out}")
    return 0
