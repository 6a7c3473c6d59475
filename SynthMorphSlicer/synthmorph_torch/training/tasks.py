"""What is trained: the detector and the deformable network of the compact model.

A task owns a network and knows how to draw a batch, compute its loss and validate. :mod:`.train` runs any of them.
"""
from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn

from .. import spatial
from ..errors import UsageError
from ..models import MID_SHAPE, MID_SPACING, pooled, translation, upsampled
from ..networks import AffineDetector, HyperUNet, Widths, symmetric_velocity
from . import losses, synthesis
from .synthesis import NONE, Subject

DETECTOR_WIDTHS = Widths(1, (16, 32, 64, 128), (128, 96, 64), (48,), NONE + 1)
SEGMENTER_WIDTHS = Widths(1, (16, 32, 64, 128), (128, 96, 64, 48), (24,), NONE + 1)
DEFORMABLE_WIDTHS = Widths(2 * NONE, (32, 48, 48), (48, 48, 48), (32, 32), 3)
DEFORMABLE_UNITS = (32, 32, 32, 4)

Example = TypeVar("Example")


@dataclass
class Task(Generic[Example]):
    """A network, the examples it learns from - people's label maps or scans - and those it is validated on."""

    network: nn.Module
    training: Sequence[Example]
    validation: Sequence[Example]
    device: torch.device
    shape: tuple[int, int, int] = (64, 64, 64)
    spacing: float = 4.0
    batch: int = 4

    def autocast(self) -> torch.autocast:
        """bf16 convolutions: on current CPUs and GPUs three to six times faster, with the same learning curve."""
        return torch.autocast(self.device.type, dtype=torch.bfloat16)

    def draw(self, examples: Sequence[Example]) -> Example:
        return examples[int(torch.randint(len(examples), (1,)))]

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
class DetectorTask(Task[Subject]):
    """Feature maps of the affine detector, supervised directly by where the structures are.

    An overlap loss through the affine fit alone does not train from scratch in reasonable time; probabilities of
    named structures do, and their barycentres are what the fit needs.
    """

    network: AffineDetector

    def images(self, subjects: Sequence[Subject]) -> tuple[Tensor, Tensor]:
        pairs = [self._image(self.draw(subjects)) for _ in range(self.batch)]
        return torch.cat([p[0] for p in pairs]), torch.cat([p[1] for p in pairs])

    def _image(self, subject: Subject) -> tuple[Tensor, Tensor]:
        matrix = self._pose(subject)
        points = synthesis.place(subject, self.shape, self.spacing, matrix, warp_mm=3.0)
        return synthesis.render(subject, points, self.spacing)

    def _pose(self, subject: Subject) -> Tensor:
        """Matrix from the grid to the subject: the field of view is centred somewhere in the head, not on the brain."""
        return synthesis.random_affine(30, 45, 0.15, 0.1, self.device)

    def _forward(self, subjects: Sequence[Subject]) -> tuple[Tensor, dict[str, float]]:
        """Loss and figures of one batch."""
        images, structures = self.images(subjects)
        with self.autocast():
            logits = self.network.logits(images)
        factor = self.shape[0] // logits.shape[2]
        targets = losses.soft_targets(structures, NONE + 1, factor)
        loss, error = losses.feature_loss(logits, targets, factor * self.spacing)
        return loss, {"barycentre_mm": float(error)}

    def loss(self) -> tuple[Tensor, dict[str, float]]:
        return self._forward(self.training)

    def validation_figures(self) -> dict[str, float]:
        loss, figures = self._forward(self.validation)
        return {"loss": float(loss), **figures}


@dataclass
class SegmenterTask(DetectorTask):
    """Finer maps of a head that the detector has found and turned upright, on the grid of the mid-space."""

    shape: tuple[int, int, int] = MID_SHAPE
    spacing: float = MID_SPACING
    batch: int = 2

    def __post_init__(self) -> None:
        self.template = synthesis.mean_centroids(self.training)

    def _forward(self, subjects: Sequence[Subject]) -> tuple[Tensor, dict[str, float]]:
        images, structures = self.images(subjects)
        with self.autocast():
            logits = self.network.logits(images)
        loss, error, dice = losses.segmentation_loss(logits, structures, self.spacing)
        return loss, {"barycentre_mm": float(error), "dice": float(dice)}

    def _pose(self, subject: Subject) -> Tensor:
        residual = synthesis.random_affine(8, 10, 0.12, 0.05, self.device)
        return synthesis.aligned(subject, self.template) @ translation(self.template.mean(0)) @ residual


@dataclass
class Scan:
    """One synthesized scan as the deformable network meets it.

    ``features`` are the detector's maps (1, M, 32, 32, 32); ``points`` the positions of the detector's grid in the
    subject's label map (1, 3, 64, 64, 64), from which its structures can be read on any grid.
    """

    subject: Subject
    features: Tensor
    points: Tensor


@dataclass
class DeformableTask(Task[Subject]):
    """Velocity field between the detector's maps of two people, aligned but for a small residual affine.

    Lambda is drawn at random and fed to the hypernetwork; loss = (1 - lambda) overlap + lambda smoothness. Scans are
    kept in a pool, so that each step synthesizes one and pairs it with others.

    The network works on the feature maps of the frozen detector and not on images: maps of named structures look
    alike in any contrast. Two attempts to learn from images on a CPU did not leave zero displacement: overlap alone
    (330 steps), and overlap with known warps and an auxiliary segmentation head (515 steps).
    """

    network: HyperUNet
    detector: AffineDetector | None = None
    mid_size: int = 64
    mid_spacing: float = 3.0
    steps: int = 5
    pool_size: int = 24

    def __post_init__(self) -> None:
        self.template = synthesis.mean_centroids(self.training)
        self.pool: list[Scan] = []

    @torch.no_grad()
    def scan(self, subjects: Sequence[Subject]) -> Scan:
        """A new scan of a random subject in about the upright pose of the template."""
        assert self.detector is not None
        subject = self.draw(subjects)
        residual = synthesis.random_affine(3, 4, 0.04, 0.04, self.device)
        to_subject = synthesis.aligned(subject, self.template) @ residual
        points = synthesis.place(subject, self.grid, self.spacing, to_subject, warp_mm=3.0)
        image, _ = synthesis.render(subject, points, self.spacing)
        with self.autocast():
            features = self.detector(image)
        return Scan(subject, features.float(), points)

    def pair(self) -> tuple[Scan, Scan]:
        """Two scans of the pool, one of them new."""
        while len(self.pool) < min(self.pool_size, 8):
            self.pool.append(self.scan(self.training))
        new, other = self.scan(self.training), self.pool[int(torch.randint(len(self.pool), (1,)))]
        if len(self.pool) < self.pool_size:
            self.pool.append(new)
        else:
            self.pool[int(torch.randint(len(self.pool), (1,)))] = new
        return (new, other) if torch.rand(1) < 0.5 else (other, new)

    def view(self, scan: Scan, pose: Tensor) -> tuple[Tensor, Tensor]:
        """Feature maps (1, M, n/2, n/2, n/2) and structures (1, n, n, n) of a scan on the mid-space grid."""
        axes = synthesis.network_axes
        to_grid = torch.linalg.inv(axes(self.grid, self.spacing, self.device)) @ pose
        mid = axes(self.mid_size, self.mid_spacing, self.device)
        factor = self.grid / scan.features.shape[2]
        half = torch.linalg.inv(pooled(2.0, self.device))
        maps = spatial.resample(scan.features, pooled(factor, self.device) @ to_grid @ mid @ half,
                                (self.mid_size // 2,) * 3)
        points = spatial.resample(scan.points, to_grid @ mid, (self.mid_size,) * 3, fill=None)
        return maps, synthesis.structures_at(scan.subject, points)

    def _terms(self, pair: tuple[Scan, Scan], regularization: float) -> tuple[Tensor, Tensor, Tensor, list[Tensor]]:
        """Dissimilarity, roughness, velocity, and both images' structures."""
        pose = synthesis.random_affine(4, 4, 0.1, 0.04, self.device)
        (maps_a, a), (maps_b, b) = (self.view(scan, pose) for scan in pair)
        kernels = self.network.bake(regularization)
        with self.autocast():
            velocity = symmetric_velocity(maps_a, maps_b, self.network.widths, kernels, batch=True)
        # integrating on the coarse grid of the maps costs an eighth, and the field is smooth
        forward, backward, rough = flow(velocity, self.steps)
        unlike = (losses.overlap_loss(a, b, upsampled(forward), NONE)
                  + losses.overlap_loss(b, a, upsampled(backward), NONE))
        return unlike / 2, rough, velocity, [a, b]

    def loss(self) -> tuple[Tensor, dict[str, float]]:
        regularization = float(torch.rand(1))
        unlike, rough, _, _ = self._terms(self.pair(), regularization)
        return (1 - regularization) * unlike + regularization * rough, {"dice": 1 - float(unlike.detach())}

    def validation_figures(self) -> dict[str, float]:
        unlike, _, velocity, (a, b) = self._terms((self.scan(self.validation), self.scan(self.validation)), 0.5)
        before = losses.overlap_loss(a, b, torch.zeros_like(upsampled(velocity)), NONE)
        return {"dice_before": 1 - float(before), "dice": 1 - float(unlike), **regularity(velocity)}


def flow(velocity: Tensor, steps: int) -> tuple[Tensor, Tensor, Tensor]:
    """Displacement of a velocity field (N, 3, X, Y, Z), its opposite, and how rough the two are on average."""
    forward, backward = (spatial.integrate(v, steps) for v in (velocity, -velocity))
    return forward, backward, (losses.smoothness_loss(forward) + losses.smoothness_loss(backward)) / 2


def regularity(velocity: Tensor) -> dict[str, float]:
    """How well-behaved the flow of a velocity field is: folding voxels and spread of the log-Jacobian."""
    determinant = spatial.jacobian_determinant(spatial.integrate(velocity, 7))
    return {"folding_percent": 100 * float((determinant <= 0).float().mean()),
            "sd_log_jacobian": float(determinant.clamp(min=1e-3).log().std())}


def make_task(name: str, training: Sequence[Subject], validation: Sequence[Subject], device: torch.device,
              detector: AffineDetector | None = None) -> Task[Subject]:
    """Task ``detector`` or ``deformable`` with the widths of the compact model; the latter needs a trained detector."""
    if name == "detector":
        network = AffineDetector(DETECTOR_WIDTHS, softmax=True).to(device)
        return DetectorTask(network, training, validation, device)
    if detector is None:
        raise UsageError("Training the deformable network needs a trained detector: train that first.")
    detector = detector.to(device).requires_grad_(False).eval()
    return DeformableTask(HyperUNet(DEFORMABLE_WIDTHS, DEFORMABLE_UNITS).to(device), training, validation, device,
                          detector=detector)


def cosine(fraction: float) -> float:
    """Learning-rate factor over the course of a training: short warm-up, then half a cosine down to 1 %."""
    warm_up = min(1.0, fraction / 0.01 + 0.05)
    return warm_up * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(fraction, 1.0))))
