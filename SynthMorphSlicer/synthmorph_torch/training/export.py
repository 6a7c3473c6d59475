"""Put trained networks into one file for ``-w``, such as the one that ships: ``compact.safetensors``."""
from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import torch
from torch import Tensor, nn

from ..errors import WeightsError
from ..loader import COMPACT_FORMAT, VOXELMORPH_FORMAT
from ..models import CompactNetworks
from ..networks import AffineDetector, HyperUNet, UNet
from ..weights import write_safetensors
from .tasks import DEFORMABLE_UNITS, DEFORMABLE_WIDTHS, DETECTOR_WIDTHS, SEGMENTER_WIDTHS
from .train import read_checkpoint
from .voxelmorph import WIDTHS, VoxelMorphTask

GEOMETRY = ("spacing", "detector_pool", "mid_spacing", "mid_shape", "passes")
MAPS = {"detector": DETECTOR_WIDTHS, "segmenter": SEGMENTER_WIDTHS}


def averaged_weights(folder: Path) -> dict[str, Tensor]:
    """Running average of the weights in a training's checkpoint."""
    return read_checkpoint(Path(folder))["average"]


def load_trained(folder: Path, name: str) -> AffineDetector:
    """The ``detector`` or ``segmenter`` of a training folder, with averaged weights.

    Raises:
        WeightsError: the folder is not that of such a training.
    """
    network = AffineDetector(MAPS[name], softmax=True)
    _fill(network, averaged_weights(folder), folder, name)
    return network


def _fill(network: nn.Module, weights: dict[str, Tensor], folder: Path, name: str) -> None:
    try:
        network.load_state_dict(weights)
    except RuntimeError:
        raise WeightsError(f"'{folder}' holds the training of another network than the {name}: check which folder "
                           "belongs to which.") from None


def export(folders: dict[str, Path], template: Tensor, output: Path) -> None:
    """Write the networks of three training folders in half precision, with all that is needed to build them.

    Half precision loses nothing that a registration can show and halves the download.

    Args:
        folders: training folders of "detector", "segmenter" and "deformable".
        template: (M, 3) mean barycentres of the structures, RAS millimetres (see :func:`.synthesis.mean_centroids`).
        output: the file to write.

    Raises:
        WeightsError: a folder holds no training, or that of another network.
    """
    tensors = {"template": torch.stack([-template[:, 0], -template[:, 2], template[:, 1]], 1).float()}  # LIA axes
    for name, folder in folders.items():
        network = AffineDetector(MAPS[name]) if name in MAPS else HyperUNet(DEFORMABLE_WIDTHS, DEFORMABLE_UNITS)
        weights = averaged_weights(folder)
        _fill(network, weights, folder, f"{name} network")
        tensors.update(_halved(weights, name))
    config = {**{name: dataclasses.asdict(widths) for name, widths in MAPS.items()},
              "deformable": dataclasses.asdict(DEFORMABLE_WIDTHS), "units": DEFORMABLE_UNITS,
              **{name: getattr(CompactNetworks, name) for name in GEOMETRY}}
    output.parent.mkdir(parents=True, exist_ok=True)
    metadata = {"format": COMPACT_FORMAT, "config": json.dumps(config), "licence": "Apache-2.0"}
    write_safetensors(output, tensors, metadata)


def export_voxelmorph(folder: Path, output: Path) -> None:
    """Write the network of a VoxelMorph training folder in half precision.

    Raises:
        WeightsError: the folder holds no training, or that of another network.
    """
    weights = averaged_weights(folder)
    _fill(UNet(WIDTHS), weights, folder, "VoxelMorph network")
    config = {"widths": dataclasses.asdict(WIDTHS), "spacing": VoxelMorphTask.spacing}
    output.parent.mkdir(parents=True, exist_ok=True)
    write_safetensors(output, _halved(weights, "voxelmorph"),
                      {"format": VOXELMORPH_FORMAT, "config": json.dumps(config)})


def _halved(weights: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {f"{prefix}.{name}": value.contiguous().half() for name, value in weights.items()}
