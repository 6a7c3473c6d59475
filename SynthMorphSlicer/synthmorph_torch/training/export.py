"""Put trained networks into the one file that ships: ``compact.safetensors``."""
from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from ..loader import COMPACT_FORMAT
from ..models import CompactNetworks
from ..weights import write_safetensors
from .synthesis import Subject
from .tasks import DEFORMABLE_UNITS, DEFORMABLE_WIDTHS, DETECTOR_WIDTHS

GEOMETRY = ("spacing", "detector_pool", "mid_spacing", "mid_size")

def averaged_weights(folder: Path) -> dict[str, Tensor]:
    """Running average of the weights in a training's checkpoint."""
    state = torch.load(Path(folder) / "checkpoint.pt", map_location="cpu", weights_only=True)
    return state["average"]


def mean_centroids(subjects: Sequence[Subject]) -> Tensor:
    """Mean barycentre of every structure, (M, 3) RAS millimetres from the centre of the brain."""
    return torch.stack([s.centroids for s in subjects]).mean(0)


def export(detector: Path, deformable: Path, template: Tensor, output: Path) -> None:
    """Write both networks of two training folders in half precision, with all that is needed to build them.

    Half precision loses nothing that a registration can show and halves the download.

    Args:
        detector, deformable: training folders.
        template: (M, 3) mean barycentres of the structures, RAS millimetres (see :func:`mean_centroids`).
        output: the file to write.
    """
    tensors = {"template": torch.stack([-template[:, 0], -template[:, 2], template[:, 1]], 1).float()}  # LIA axes
    for prefix, folder in (("detector", detector), ("deformable", deformable)):
        for name, value in averaged_weights(folder).items():
            tensors[f"{prefix}.{name}"] = value.contiguous().half()
    config = {"detector": dataclasses.asdict(DETECTOR_WIDTHS), "deformable": dataclasses.asdict(DEFORMABLE_WIDTHS),
              "units": DEFORMABLE_UNITS, **{name: getattr(CompactNetworks, name) for name in GEOMETRY}}
    output.parent.mkdir(parents=True, exist_ok=True)
    metadata = {"format": COMPACT_FORMAT, "config": json.dumps(config), "licence": "Apache-2.0"}
    write_safetensors(output, tensors, metadata)
