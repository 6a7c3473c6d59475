"""``synthmorph info``: what a bug report needs to say."""
from __future__ import annotations

import argparse
import os
import platform
from importlib.metadata import PackageNotFoundError, version

from .. import __version__
from ..errors import WeightsError
from .parser import PROGRAM, Parser, add_verbose

DESCRIPTION = "Show versions, computing devices and the weights that would be used."


def add_arguments(parser: Parser) -> None:
    add_verbose(parser)


def run(_: argparse.Namespace) -> int:
    import torch

    from .. import weights

    print(f"{PROGRAM:<12} {__version__}")
    print(f"{'Python':<12} {platform.python_version()} on {platform.system()} {platform.machine()}")
    for name in ("torch", "numpy", "SimpleITK", "nibabel", "h5py"):
        try:
            print(f"{name:<12} {version(name)}")
        except PackageNotFoundError:
            print(f"{name:<12} not installed")
    print(f"{'CPU':<12} {os.cpu_count()} cores, {torch.get_num_threads()} threads")
    for index in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(index)
        name = torch.cuda.get_device_name(index)
        print(f"{f'cuda:{index}':<12} {name}, {free / 2**30:.1f} of {total / 2**30:.1f} GiB free")
    if not torch.cuda.is_available():
        print(f"{'GPU':<12} none that PyTorch can use")
    for kind in ("joint", "rigid"):
        try:
            print(f"{kind:<12} {weights.find_weights(kind).reason}")
        except WeightsError as error:
            print(f"{kind:<12} {error}")
    return 0
