"""From a name and a device to a :class:`Model`: which weights are there, and what do they build?"""
from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .errors import DeviceError, UsageError, WeightsError
from .models import Bake, CompactNetworks, OfficialNetworks
from .networks import AffineDetector, HyperUNet, Kernels, UNet, Widths
from .registration import Model
from .voxelmorph import VoxelMorphNetworks
from .weights import Deformable, WeightChoice, find_weights, load_detector, read_metadata, read_safetensors

COMPACT_FORMAT = "synthmorph-compact-2"
VOXELMORPH_FORMAT = "synthmorph-voxelmorph-1"
COMPACT_REFINEMENT = 46  # iterations that finish in seconds on a CPU
KEPT_LAMBDAS = 4  # baked kernels kept in memory: 106 MB each for the official network
NAMES = ("auto", "official", "compact")


def load_model(name: str = "auto", device: str | torch.device = "auto", transform: str = "joint",
               weights: Sequence[str | Path] | str | Path | None = None) -> Model:
    """Load the networks that a kind of registration needs.

    Args:
        name: "auto" (official weights if found, else the compact model), "official" or "compact".
        device: "auto" (a GPU if there is one), "cpu", "cuda" or "cuda:N".
        transform: "joint", "affine", "rigid" or "deform"; the official networks for other kinds are not loaded.
        weights: weight files or folders to use instead of searching.

    Raises:
        WeightsError: weights are missing, damaged or of another network. DeviceError: there is no such device.
        UsageError: the name is unknown.
    """
    if name not in NAMES:
        raise UsageError(f"Model '{name}' is unknown: choose one of {', '.join(NAMES)}.")
    choice = find_weights(transform, weights, name)
    return build_model(choice, find_device(device), transform)


def build_model(choice: WeightChoice, device: torch.device, transform: str = "joint") -> Model:
    """Networks for a choice of weights on a device."""
    def elsewhere(other: torch.device) -> Model:
        return build_model(choice, other, transform)

    if choice.kind == "compact" and read_metadata(choice.paths["compact"]).get("format") == VOXELMORPH_FORMAT:
        path = choice.paths["compact"]
        reason = f"Using the VoxelMorph network {path.name}, which deforms aligned images of the contrast it knows."
        return Model(load_voxelmorph(path, device), "voxelmorph", device, choice.checksum, 0, reason,
                     elsewhere=elsewhere)
    if choice.kind == "compact":
        networks = load_compact(choice.paths["compact"], device)
        return Model(networks, "compact", device, choice.checksum, COMPACT_REFINEMENT, choice.reason, choice.licence,
                     elsewhere=elsewhere)
    detectors = {role: load_detector(path).to(device) for role, path in choice.paths.items() if role != "deform"}
    deformable = Deformable.open(choice.paths["deform"]) if "deform" in choice.paths else None
    widths, bake = (deformable.widths, KeptKernels(deformable.bake, device)) if deformable else (None, None)
    official = OfficialNetworks(detectors.get("affine"), detectors.get("rigid"), widths, bake)
    return Model(official, "official", device, choice.checksum, 0, choice.reason, choice.licence, elsewhere=elsewhere)


class KeptKernels:
    """Bake kernels for a lambda, move them to the device and keep the last few."""

    def __init__(self, bake: Bake, device: torch.device) -> None:
        self.bake, self.device = bake, device
        self.kept: OrderedDict[float, Kernels] = OrderedDict()

    def __call__(self, regularization: float) -> Kernels:
        if regularization not in self.kept:
            kernels = self.bake(regularization)
            self.kept[regularization] = [(kernel.to(self.device), bias.to(self.device)) for kernel, bias in kernels]
            if len(self.kept) > KEPT_LAMBDAS:
                self.kept.popitem(last=False)
        self.kept.move_to_end(regularization)
        return self.kept[regularization]


def load_compact(path: Path, device: torch.device) -> CompactNetworks:
    """Build the compact model from its one file; its header says how wide the networks are."""
    tensors, metadata = read_safetensors(path)
    try:
        if metadata["format"] != COMPACT_FORMAT:
            raise KeyError("format")
        config = json.loads(metadata["config"])
        detector, segmenter = (AffineDetector(_widths(config.pop(name)), softmax=True)
                               for name in ("detector", "segmenter"))
        network = HyperUNet(_widths(config.pop("deformable")), config.pop("units"))
        config["mid_shape"] = tuple(config["mid_shape"])
        for module, prefix in ((detector, "detector."), (segmenter, "segmenter."), (network, "deformable.")):
            module.load_state_dict(_part(tensors, prefix))
            module.to(device).requires_grad_(False).eval()
    except (KeyError, ValueError, TypeError, RuntimeError) as error:
        raise WeightsError(f"'{path}' is not a compact SynthMorph model ({type(error).__name__}): give another file, "
                           "or install SynthMorphSlicer again.") from error
    return CompactNetworks(detector, segmenter, network.widths, KeptKernels(network.bake, device),
                           tensors["template"].float().to(device), **config)


def load_voxelmorph(path: Path, device: torch.device) -> VoxelMorphNetworks:
    """Build a network trained without labels from its file."""
    tensors, metadata = read_safetensors(path)
    try:
        config = json.loads(metadata["config"])
        network = UNet(_widths(config["widths"]))
        network.load_state_dict(_part(tensors, "voxelmorph."))
        spacing = float(config["spacing"])
    except (KeyError, ValueError, TypeError, RuntimeError) as error:
        raise WeightsError(f"'{path}' is not a VoxelMorph network of ours ({type(error).__name__}): give another file, "
                           "or export it again.") from error
    network.to(device).requires_grad_(False).eval()
    return VoxelMorphNetworks(network.widths, network.kernels(), spacing)


def _widths(values: dict[str, Any]) -> Widths:
    return Widths(values["inputs"], tuple(values["encoder"]), tuple(values["decoder"]), tuple(values["extra"]),
                  values["output"])


def _part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v.float() for k, v in tensors.items() if k.startswith(prefix)}


def find_device(name: str | torch.device = "auto") -> torch.device:
    """The device of a name, checked to exist.

    Raises:
        DeviceError: the device does not exist or cannot be used. UsageError: the name means nothing.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UsageError(f"Device '{name}' is unknown: choose auto, cpu, cuda or cuda:N.") from None
    if device.type == "cpu":
        return device
    if device.type != "cuda":
        raise UsageError(f"Device '{name}' is not supported: choose auto, cpu, cuda or cuda:N.")
    if not torch.cuda.is_available():
        raise DeviceError("This computer has no GPU that PyTorch can use: choose the device auto or cpu.")
    if (device.index or 0) >= torch.cuda.device_count():
        raise DeviceError(f"There is no GPU {device.index}: this computer has {torch.cuda.device_count()}, counted "
                          "from 0.")
    return device
