"""``synthmorph train``: networks from label maps alone, on images synthesized from them."""
from __future__ import annotations

import argparse
from pathlib import Path

from ..errors import ImageError, SynthMorphError, UsageError
from ..files import extension
from ..outputs import check_folder
from .parser import PROGRAM, Parser, add_threads, add_verbose, device, one_of, positive_number, whole_number

DESCRIPTION = """\
Train the networks of a compact model on images synthesized from whole-head label maps with FreeSurfer's numbers.

  detector      the feature detector that finds the affine transform
  deformable    the network that finds the warp
  export        put both into one file for -w; MAPS must be those of the training

Training keeps a log, curves and a checkpoint in OUT. Running the same command again goes on where it stopped."""

EPILOG = f"""\
examples
  {PROGRAM} train detector maps/ training/detector --minutes 120
  {PROGRAM} train deformable maps/ training/deformable --minutes 240
  {PROGRAM} train export maps/ model.safetensors --detector training/detector --deformable training/deformable
  {PROGRAM} -w model.safetensors -o moved.nii.gz moving.nii.gz fixed.nii.gz"""


def add_arguments(parser: Parser) -> None:
    parser.add_argument("what", metavar="WHAT", type=one_of("detector", "deformable", "export"),
                        help="detector, deformable or export")
    parser.add_argument("maps", metavar="MAPS", type=Path, help="folder of label maps")
    parser.add_argument("output", metavar="OUT", type=Path, help="folder of the training, or file to export to")
    training = parser.add_argument_group("training")
    training.add_argument("--minutes", metavar="N", type=positive_number, default=60.0,
                          help="time budget, over all runs together (default: 60)")
    training.add_argument("--validation", metavar="N", type=whole_number(1, 2), default=2,
                          help="keep the last N label maps for validation (default: 2)")
    training.add_argument("--validate-every", metavar="MINUTES", type=positive_number, default=2.0,
                          help="how often to validate, log and save (default: 2)")
    training.add_argument("--rate", metavar="RATE", type=positive_number, default=1e-3,
                          help="learning rate at the start (default: 0.001)")
    training.add_argument("--seed", metavar="N", type=whole_number(0, 1), default=0,
                          help="of random numbers (default: 0)")
    training.add_argument("--device", metavar="DEVICE", type=device, default="auto",
                          help="auto (the GPU if there is one, the default), cpu, cuda or cuda:N")
    add_threads(training)
    export = parser.add_argument_group("export")
    export.add_argument("--detector", metavar="DIR", type=Path, help="folder of the detector's training")
    export.add_argument("--deformable", metavar="DIR", type=Path, help="folder of the deformable network's training")
    add_verbose(parser)


def label_maps(folder: Path, validation: int) -> tuple[list[Path], list[Path]]:
    """Label maps for training and for validation, in the order of their names."""
    if not folder.is_dir():
        raise ImageError(f"There is no folder '{folder}': give the folder that holds the label maps.")
    paths = sorted(path for path in folder.iterdir() if extension(path) in (".nii.gz", ".nii", ".mgz"))
    if len(paths) < validation + 2:
        raise ImageError(f"'{folder}' holds {len(paths)} label maps: at least {validation + 2} are needed, two to "
                         f"train on and {validation} to validate with.")
    return paths[:-validation], paths[-validation:]


def run(options: argparse.Namespace) -> int:
    training, validation = label_maps(options.maps, options.validation)
    if options.what == "export":
        return _export(options, training)
    if options.detector or options.deformable:
        raise UsageError("--detector and --deformable belong to 'train export': leave them out.")
    check_folder(options.output)
    import torch

    from ..loader import find_device
    from ..training.synthesis import load_subject
    from ..training.tasks import make_task
    from ..training.train import Trainer

    if options.threads:
        torch.set_num_threads(options.threads)
    place = find_device(options.device)
    print(f"Reading {len(training)} label maps to train on and {len(validation)} to validate with; training on "
          f"{place}.")
    subjects = [[load_subject(path, place, mirror) for path in paths for mirror in (False, True)]
                for paths in (training, validation)]
    task = make_task(options.what, subjects[0], subjects[1], place)
    trainer = Trainer(task, options.output, options.minutes, options.rate, options.seed)
    if trainer.elapsed:
        print(f"Going on after {trainer.elapsed / 60:.1f} of {options.minutes:g} minutes.")
    trainer.run(60 * options.validate_every, report=lambda line: print(line, flush=True))
    print(f"Trained for {trainer.elapsed / 60:.1f} minutes; log, curves and checkpoint are in {options.output}.")
    return 0


def _export(options: argparse.Namespace, training: list[Path]) -> int:
    if not (options.detector and options.deformable):
        raise UsageError("'train export' needs both trainings: give --detector DIR and --deformable DIR.")
    if options.output.suffix != ".safetensors":
        raise UsageError(f"'{options.output}' should end in .safetensors, the format that is written.")
    for folder in (options.detector, options.deformable):
        if not (folder / "checkpoint.pt").is_file():
            raise SynthMorphError(f"'{folder}' holds no checkpoint: give the folder of a training.")
    check_folder(options.output.parent)
    from ..training.export import export, mean_centroids
    from ..training.synthesis import load_subject

    subjects = [load_subject(path, mirror=mirror) for path in training for mirror in (False, True)]
    export(options.detector, options.deformable, mean_centroids(subjects), options.output)
    print(f"Wrote {options.output}")
    return 0
