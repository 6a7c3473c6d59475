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
PRECISIONS = ("full", "fast", "half")


def load_model(name: str = "auto", device: str | torch.device = "auto", transform: str = "joint",
               weights: Sequence[str | Path] | str | Path | None = None, precision: str = "full") -> Model:
    """Load the networks that a kind of registration needs.

    Args:
        name: "auto" (official weights if found, else the compact model), "official" or "compact".
        device: "auto" (a GPU if there is one), "cpu", "cuda" or "cuda:N".
        transform: "joint", "affine", "rigid" or "deform"; the official networks for other kinds are not loaded.
        weights: weight files or folders to use instead of searching.
        precision: of the networks' convolutions: "full" (float32), "fast" (TensorFloat-32 on NVIDIA GPUs, for all of
            this process) or "half" (bfloat16). All else is computed in float32 or better.

    Raises:
        WeightsError: weights are missing, damaged or of another network. DeviceError: there is no such device.
        UsageError: the name or the precision is unknown.
    """
    if name not in NAMES:
        raise UsageError(f"Model '{name}' is unknown: choose one of {', '.join(NAMES)}.")
    if precision not in PRECISIONS:
        raise UsageError(f"Precision '{precision}' is unknown: choose one of {', '.join(PRECISIONS)}.")
    choice = find_weights(transform, weights, name)
    return build_model(choice, find_device(device), transform, precision)


def build_model(choice: WeightChoice, device: torch.device, transform: str = "joint", precision: str = "full") -> Model:
    """Networks for a choice of weights on a device."""
    model = _build(choice, device, torch.bfloat16 if precision == "half" else torch.float32)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = precision == "fast"
    model.precision = precision
    model.elsewhere = lambda other: build_model(choice, other, transform, precision)
    return model


def _build(choice: WeightChoice, device: torch.device, dtype: torch.dtype) -> Model:
    if choice.kind == "compact" and read_metadata(choice.paths["compact"]).get("format") == VOXELMORPH_FORMAT:
        path = choice.paths["compact"]
        reason = f"Using the VoxelMorph network {path.name}, which deforms aligned images of the contrast it knows."
        return Model(load_voxelmorph(path, device, dtype), "voxelmorph", device, choice.checksum, 0, reason)
    if choice.kind == "compact":
        networks = load_compact(choice.paths["compact"], device, dtype)
        return Model(networks, "compact", device, choice.checksum, COMPACT_REFINEMENT, choice.reason, choice.licence)
    detectors = {role: load_detector(path).to(device, dtype) for role, path in choice.paths.items() if role != "deform"}
    deformable = Deformable.open(choice.paths["deform"]) if "deform" in choice.paths else None
    widths, bake = (deformable.widths, KeptKernels(deformable.bake, device, dtype)) if deformable else (None, None)
    official = OfficialNetworks(detectors.get("affine"), detectors.get("rigid"), widths, bake)
    return Model(official, "official", device, choice.checksum, 0, choice.reason, choice.licence)


class KeptKernels:
    """Bake kernels for a lambda, move them to the device and keep the last few."""

    def __init__(self, bake: Bake, device: torch.device, dtype: torch.dtype = torch.float32) -> None:
        self.bake, self.device, self.dtype = bake, device, dtype
        self.kept: OrderedDict[float, Kernels] = OrderedDict()

    def __call__(self, regularization: float) -> Kernels:
        if regularization not in self.kept:
            kernels = self.bake(regularization)
            self.kept[regularization] = [(kernel.to(self.device, self.dtype), bias.to(self.device, self.dtype))
                                         for kernel, bias in kernels]
            if len(self.kept) > KEPT_LAMBDAS:
                self.kept.popitem(last=False)
        self.kept.move_to_end(regularization)
        return self.kept[regularization]


def load_compact(path: Path, device: torch.device, dtype: torch.dtype = torch.float32) -> CompactNetworks:
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
        detector, segmenter = detector.to(dtype), segmenter.to(dtype)
    except (KeyError, ValueError, TypeError, RuntimeError) as error:
        raise WeightsError(f"'{path}' is not a compact SynthMorph model ({type(error).__name__}): give another file, "
                           "or install SynthMorphSlicer again.") from error
    return CompactNetworks(detector, segmenter, network.widths, KeptKernels(network.bake, device, dtype),
                           tensors["template"].float().to(device), **config)


def load_voxelmorph(path: Path, device: torch.device, dtype: torch.dtype = torch.float32) -> VoxelMorphNetworks:
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
    network.to(device, dtype).requires_grad_(False).eval()
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
