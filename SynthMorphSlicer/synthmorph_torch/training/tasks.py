"""What is trained: the detector, the deformable network, or a network on images alone (VoxelMorph).

A task owns a network and knows how to draw a batch, compute its loss and validate. :mod:`.train` runs any of them.
"""
from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .. import spatial
from ..networks import AffineDetector, HyperUNet, Widths, symmetric_velocity
from . import losses, synthesis
from .synthesis import NONE, Subject

DETECTOR_WIDTHS = Widths(1, (16, 32, 64, 128), (128, 96, 64), (48,), NONE + 1)
DEFORMABLE_WIDTHS = Widths(2, (16, 32, 32, 32), (32, 32, 32, 32), (16, 16, 16, 16), 3)
DEFORMABLE_UNITS = (32, 32, 32, 8)


@dataclass
class Task:
    """A network, the subjects it learns from and those it is validated on."""

    network: nn.Module
    training: Sequence[Subject]
    validation: Sequence[Subject]
    device: torch.device
    grid: int = 64
    spacing: float = 4.0
    batch: int = 4

    def autocast(self) -> torch.autocast:
        """bf16 convolutions: on current CPUs and GPUs three to six times faster, with the same learning curve."""
        return torch.autocast(self.device.type, dtype=torch.bfloat16)

    def draw_subject(self, subjects: Sequence[Subject]) -> Subject:
        return subjects[int(torch.randint(len(subjects), (1,)))]

    def loss(self) -> tuple[Tensor, dict[str, float]]:
        """Loss of a fresh random batch and figures to log."""
        raise TypeError("Task.loss is defined by the concrete tasks.")

    def validate(self) -> dict[str, float]:
        """Figures on synthesized images of the validation subjects; the same images every time."""
        with torch.random.fork_rng(devices=[self.device] if self.device.type == "cuda" else []), torch.no_grad():
            torch.manual_seed(1)
            figures = [self.validation_figures() for _ in range(4)]
        return {f"val_{k}": sum(f[k] for f in figures) / len(figures) for k in figures[0]}

    def validation_figures(self) -> dict[str, float]:
        raise TypeError("Task.validation_figures is defined by the concrete tasks.")


@dataclass
class DetectorTask(Task):
    """Feature maps of the affine detector, supervised directly by where the structures are.

    An overlap loss through the affine fit alone does not train from scratch in reasonable time; probabilities of
    named structures do, and their barycentres are what the fit needs.
    """

    def images(self, subjects: Sequence[Subject]) -> tuple[Tensor, Tensor]:
        pairs = [self._image(self.draw_subject(subjects)) for _ in range(self.batch)]
        return torch.cat([p[0] for p in pairs]), torch.stack([p[1] for p in pairs])

    def _image(self, subject: Subject) -> tuple[Tensor, Tensor]:
        # the field of view is centred somewhere in the head, not on the brain
        matrix = synthesis.random_affine(30, 45, 0.15, 0.1, self.device)
        return synthesis.render(subject, self.grid, self.spacing, matrix, warp_mm=1.5)

    def _forward(self, subjects: Sequence[Subject]) -> tuple[Tensor, Tensor]:
        images, structures = self.images(subjects)
        with self.autocast():
            logits = self.network.logits(images)  # type: ignore[operator]
        factor = self.grid // logits.shape[2]
        targets = losses.soft_targets(structures, NONE + 1, factor)
        return losses.feature_loss(logits, targets, factor * self.spacing)

    def loss(self) -> tuple[Tensor, dict[str, float]]:
        loss, error = self._forward(self.training)
        return loss, {"barycentre_mm": float(error)}

    def validation_figures(self) -> dict[str, float]:
        loss, error = self._forward(self.validation)
        return {"loss": float(loss), "barycentre_mm": float(error)}


@dataclass
class DeformableTask(Task):
    """Velocity field between two people's images, already aligned up to a small residual affine.

    Lambda is drawn at random and fed to the hypernetwork; loss = (1 - lambda) overlap + lambda smoothness.
    """

    spacing: float = 3.0
    batch: int = 1
    steps: int = 5

    def __post_init__(self) -> None:
        self.template = torch.stack([s.centroids for s in self.training]).mean(0)

    def pair(self, subjects: Sequence[Subject]) -> list[Tensor]:
        """Moving image, fixed image (1, 1, n, n, n), and their structures (1, n, n, n)."""
        # mid-space lies half-way between two arbitrary head poses
        pose = synthesis.random_affine(6, 25, 0.08, 0.06, self.device)
        images, structures = [], []
        for _ in range(2):
            subject = self.draw_subject(subjects)
            align = spatial.fit_affine(subject.centroids[None], self.template[None],
                                       torch.ones(1, NONE, device=self.device))[0]
            residual = synthesis.random_affine(4, 4, 0.04, 0.04, self.device)
            image, labels = synthesis.render(subject, self.grid, self.spacing, align @ residual @ pose, warp_mm=1.5)
            images.append(image)
            structures.append(labels[None])
        return [*images, *structures]

    def velocity(self, moving: Tensor, fixed: Tensor, regularization: float) -> Tensor:
        kernels = self.network.bake(regularization)  # type: ignore[operator]
        with self.autocast():
            return symmetric_velocity(moving, fixed, self.network.widths, kernels, batch=True)  # type: ignore[arg-type]

    def loss(self) -> tuple[Tensor, dict[str, float]]:
        regularization = float(torch.rand(1))
        total, overlap = torch.zeros((), device=self.device), 0.0
        for _ in range(self.batch):
            moving, fixed, a, b = self.pair(self.training)
            velocity = self.velocity(moving, fixed, regularization)
            unlike, rough = self._terms(velocity, a, b)
            total = total + ((1 - regularization) * unlike + regularization * rough) / self.batch
            overlap += 1 - float(unlike.detach())
        return total, {"dice": overlap / self.batch}

    def _terms(self, velocity: Tensor, moving: Tensor, fixed: Tensor) -> tuple[Tensor, Tensor]:
        forward, backward = (spatial.integrate(v, self.steps) for v in (velocity, -velocity))
        unlike = (losses.overlap_loss(moving, fixed, forward, NONE) + losses.overlap_loss(fixed, moving, backward, NONE)) / 2
        rough = (losses.smoothness_loss(forward) + losses.smoothness_loss(backward)) / 2
        return unlike, rough

    def validation_figures(self) -> dict[str, float]:
        moving, fixed, a, b = self.pair(self.validation)
        velocity = self.velocity(moving, fixed, 0.5)
        before = losses.overlap_loss(a, b, torch.zeros_like(velocity), NONE)
        unlike, _ = self._terms(velocity, a, b)
        determinant = spatial.jacobian_determinant(spatial.integrate(velocity, 7))
        return {"dice_before": 1 - float(before), "dice": 1 - float(unlike),
                "folding_percent": 100 * float((determinant <= 0).float().mean()),
                "sd_log_jacobian": float(determinant.clamp(min=1e-3).log().std())}


def make_task(name: str, training: Sequence[Subject], validation: Sequence[Subject], device: torch.device) -> Task:
    """Task ``detector`` or ``deformable`` with the widths of the compact model."""
    if name == "detector":
        network: nn.Module = AffineDetector(DETECTOR_WIDTHS, softmax=True)
        kind = DetectorTask
    else:
        network = HyperUNet(DEFORMABLE_WIDTHS, DEFORMABLE_UNITS)
        kind = DeformableTask
    network = network.to(device, memory_format=torch.channels_last_3d)
    return kind(network, training, validation, device)


def cosine(fraction: float) -> float:
    """Learning-rate factor over the course of a training: short warm-up, then half a cosine down to 1 %."""
    warm_up = min(1.0, fraction / 0.01 + 0.05)
    return warm_up * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(fraction, 1.0))))
