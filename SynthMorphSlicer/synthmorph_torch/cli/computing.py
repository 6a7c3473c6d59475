"""Options on devices and weights, shared by the commands that run a network."""
from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import UsageError
from .parser import Parser, add_threads, add_verbose, device, extent, one_of, open_interval, whole_number

if TYPE_CHECKING:
    from ..registration import Model

KINDS = ("joint", "affine", "rigid", "deform")


def add_registration_options(parser: Parser) -> None:
    """-m -r -n -e --refine: what kind of registration."""
    group = parser.add_argument_group("registration")
    group.add_argument("-m", "--transform", dest="transform", metavar="KIND", type=one_of(*KINDS), default="joint",
                       help="joint (affine and deformable, the default), affine, rigid, or deform (images already "
                            "aligned, or brought together by -i)")
    group.add_argument("-M", dest="mid_space", action="store_true",
                       help="apply half of the initial transform to each image, for symmetry; requires -i")
    group.add_argument("-r", dest="regularization", metavar="LAMBDA", type=open_interval, default=0.5,
                       help="regularization, above 0 and below 1; higher gives smoother warps (default: 0.5)")
    group.add_argument("-n", dest="steps", metavar="STEPS", default=7,
                       type=whole_number(5, 7, ", with fewer steps warps can fold"),
                       help="integration steps, at least 5 (default: 7)")
    group.add_argument("-e", dest="extent", metavar="EXTENT", type=extent, default=256,
                       help="edge of the registration space in mm, 192 or 256 (default); 192 is faster and takes less "
                            "memory but may crop the head")
    group.add_argument("--refine", metavar="N", type=whole_number(0, 50), default=None,
                       help="iterations of instance optimisation after the network; 0 switches it off (default: what "
                            "the model recommends)")


def registration_settings(options: argparse.Namespace) -> dict[str, Any]:
    """What these options say, as arguments of :meth:`Model.register`; ``mid_space`` depends on the command."""
    return {name: getattr(options, name) for name in ("transform", "regularization", "steps", "extent", "refine")}


def add_computing_options(parser: Parser) -> None:
    """-w --model -g --device --precision -j -v: with what and where to compute."""
    group = parser.add_argument_group("computing")
    group.add_argument("-w", dest="weights", metavar="WEIGHTS", action="append", type=Path,
                       help="use this weight file or folder; repeat it for affine and deformable weights")
    group.add_argument("--model", metavar="NAME", type=one_of("auto", "official", "compact"), default="auto",
                       help="auto (the official weights if they are found, else the compact model), official or "
                            "compact")
    group.add_argument("-g", dest="gpu", action="store_true", help="insist on the GPU")
    group.add_argument("--device", metavar="DEVICE", type=device, default=None,
                       help="auto (the GPU if there is one, the default), cpu, cuda or cuda:N")
    group.add_argument("--precision", metavar="P", type=one_of("full", "fast", "half"), default="full",
                       help="of the networks' arithmetic: full (float32, the default), fast (TensorFloat-32, on NVIDIA "
                            "GPUs) or half (bfloat16, which moves what the networks find by about 0.1 mm)")
    add_threads(group)
    add_verbose(group)


def check_computing(options: argparse.Namespace) -> str:
    """Refuse contradictory options; returns the device that -g and --device ask for together."""
    if options.weights and options.model == "compact":
        raise UsageError("-w names other weights than the compact model: leave out -w or --model compact.")
    if not options.gpu:
        return options.device or "auto"
    if options.device not in (None, "auto") and options.device.partition(":")[0] != "cuda":
        raise UsageError(f"-g asks for the GPU but --device for '{options.device}': leave out one of them.")
    return options.device if options.device not in (None, "auto") else "cuda"


def prepare(options: argparse.Namespace, transform: str = "joint") -> Model:
    """Load the model that the options ask for, on the device they ask for."""
    device_name = check_computing(options)
    import SimpleITK as sitk
    import torch

    if options.threads:
        torch.set_num_threads(options.threads)
        sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(options.threads)
    from ..loader import load_model
    return load_model(options.model, device=device_name, transform=transform, weights=options.weights,
                      precision=options.precision)

