"""Put trained networks into the one file that ships: ``compact.safetensors``."""
from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import torch
from torch import Tensor

from ..models import CompactNetworks
from .tasks import DEFORMABLE_UNITS, DEFORMABLE_WIDTHS, DETECTOR_WIDTHS

FORMAT = "synthmorph-compact-1"


def averaged_weights(folder: Path) -> dict[str, Tensor]:
    """Running average of the weights in a training's checkpoint."""
    state = torch.load(Path(folder) / "checkpoint.pt", map_location="cpu", weights_only=True)
    prefix = "network."  # auxiliary heads stay behind
    return {name.removeprefix(prefix): value for name, value in state["average"].items() if name.startswith(prefix)}


def export(detector: Path, deformable: Path, output: Path) -> None:
    """Write both networks of two training folders in half precision, with all that is needed to build them.

    Half precision loses nothing that a registration can show and halves the download.
    """
    from safetensors.torch import save_file

    tensors = {}
    for prefix, folder in (("detector", detector), ("deformable", deformable)):
        for name, value in averaged_weights(folder).items():
            tensors[f"{prefix}.{name}"] = value.contiguous().half()
    geometry = {f.name: f.default for f in dataclasses.fields(CompactNetworks) if isinstance(f.default, (int, float))}
    config = {"detector": dataclasses.asdict(DETECTOR_WIDTHS), "deformable": dataclasses.asdict(DEFORMABLE_WIDTHS),
              "units": DEFORMABLE_UNITS, **{k: geometry[k] for k in ("spacing", "detector_pool", "mid_spacing", "mid_size")}}
    output.parent.mkdir(parents=True, exist_ok=True)
    temporary = output.with_suffix(".part")
    save_file(tensors, temporary, {"format": FORMAT, "config": json.dumps(config), "licence": "Apache-2.0"})
    temporary.replace(output)
