"""What is trained: the detector, the segmenter and the deformable network of the compact model.

A task owns a network and knows how to draw a batch, compute its loss and validate. :mod:`.train` runs any of them.
"""
from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .. import spatial
from ..errors import UsageError
from ..models import MID_SHAPE, MID_SPACING, PASSES, feature_velocity, translation, upsampled
from ..networks import AffineDetector, HyperUNet, Widths
from . import losses, synthesis
from .synthesis import NONE, Subject

DETECTOR_WIDTHS = Widths(1, (16, 32, 64, 128), (128, 96, 64), (48,), NONE + 1)
SEGMENTER_WIDTHS = Widths(1, (16, 32, 64, 128), (128, 96, 64, 48), (24,), NONE + 1)
DEFORMABLE_WIDTHS = Widths(2 * NONE, (32, 48, 64), (64, 48, 48), (32, 32), 3)
DEFORMABLE_UNITS = (2,)

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

    def slow_parameters(self) -> list[nn.Parameter]:
        """Parameters of the network that learn at a hundredth of the rate."""
        return []

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

    ``maps`` are the segmenter's probabilities at half the density of the grid, (1, M, X/2, Y/2, Z/2);
    ``structures`` the truth on the grid, (1, X, Y, Z) int64.
    """

    maps: Tensor
    structures: Tensor


@dataclass
class DeformableTask(Task[Subject]):
    """Velocity field between the segmenter's maps of two people, aligned but for a small residual affine.

    Lambda is drawn at random and fed to the hypernetwork; loss = (1 - lambda) overlap + lambda smoothness. Scans are
    kept in a pool, so that each step synthesizes one and pairs it with others.

    The network works on the feature maps of the frozen segmenter and not on images: maps of named structures look
    alike in any contrast. Two attempts to learn from images on a CPU did not leave zero displacement: overlap alone
    (330 steps), and overlap with known warps and an auxiliary segmentation head (515 steps).
    """

    network: HyperUNet
    segmenter: AffineDetector | None = None
    shape: tuple[int, int, int] = MID_SHAPE
    spacing: float = MID_SPACING
    batch: int = 2
    steps: int = 5
    passes: int = PASSES
    pool_size: int = 24

    def __post_init__(self) -> None:
        self.template = synthesis.mean_centroids(self.training)
        self.pool: list[Scan] = []

    def slow_parameters(self) -> list[nn.Parameter]:
        """The layers that see lambda, which must not fall silent before the rest has learnt anything."""
        return list(self.network.dense.parameters())

    @torch.no_grad()
    def scan(self, subjects: Sequence[Subject]) -> Scan:
        """A new scan of a random subject in about the upright pose of the template."""
        assert self.segmenter is not None
        subject = self.draw(subjects)
        residual = synthesis.random_affine(3, 4, 0.04, 0.04, self.device)
        to_subject = synthesis.aligned(subject, self.template) @ translation(self.template.mean(0)) @ residual
        points = synthesis.place(subject, self.shape, self.spacing, to_subject, warp_mm=3.0)
        image, structures = synthesis.render(subject, points, self.spacing)
        with self.autocast():
            maps = self.segmenter(image)
        return Scan(F.avg_pool3d(maps.float(), 2), structures)

    def pairs(self) -> tuple[list[Scan], list[Scan]]:
        """A new scan with several of the pool, in either order."""
        while len(self.pool) < min(self.pool_size, 8):
            self.pool.append(self.scan(self.training))
        new = self.scan(self.training)
        others = [self.pool[int(k)] for k in torch.randperm(len(self.pool))[:self.batch]]
        if len(self.pool) < self.pool_size:
            self.pool.append(new)
        else:
            self.pool[int(torch.randint(len(self.pool), (1,)))] = new
        sides = [(new, other) if torch.rand(1) < 0.5 else (other, new) for other in others]
        return [a for a, _ in sides], [b for _, b in sides]

    def _terms(self, moving: list[Scan], fixed: list[Scan], regularization: float, passes: int
               ) -> tuple[Tensor, Tensor, Tensor]:
        """Dissimilarity, roughness and velocity (N, 3, X/2, Y/2, Z/2)."""
        maps = [torch.cat([scan.maps for scan in side]) for side in (moving, fixed)]
        a, b = (torch.cat([scan.structures for scan in side]) for side in (moving, fixed))
        kernels = self.network.bake(regularization)
        with self.autocast():
            velocity = feature_velocity(maps[0], maps[1], self.network.widths, kernels, passes)
        # integrating on the coarse grid of the maps costs an eighth, and the field is smooth
        forward, backward, rough = flow(velocity, self.steps)
        unlike = (losses.overlap_loss(a, b, upsampled(forward), NONE)
                  + losses.overlap_loss(b, a, upsampled(backward), NONE))
        return unlike / 2, rough, velocity

    def loss(self) -> tuple[Tensor, dict[str, float]]:
        regularization = float(torch.rand(1))
        # each pass learns by itself, from where those before it have left off
        passes = int(torch.randint(1, self.passes + 1, (1,)))
        unlike, rough, _ = self._terms(*self.pairs(), regularization, passes)
        return (1 - regularization) * unlike + regularization * rough, {"dice": 1 - float(unlike.detach())}

    def validation_figures(self) -> dict[str, float]:
        pair = [self.scan(self.validation)], [self.scan(self.validation)]
        unlike, _, velocity = self._terms(*pair, 0.5, self.passes)
        before = losses.overlap_loss(pair[0][0].structures, pair[1][0].structures,
                                     torch.zeros_like(upsampled(velocity)), NONE)
        figures = {"dice_before": 1 - float(before), "dice": 1 - float(unlike)}
        for regularization in (0.1, 0.9):
            unlike, _, velocity = self._terms(*pair, regularization, self.passes)
            spread = regularity(velocity)["sd_log_jacobian"]
            figures |= {f"dice_{regularization}": 1 - float(unlike), f"sd_log_jacobian_{regularization}": spread}
        return figures


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
              trained: AffineDetector | None = None) -> Task[Subject]:
    """Task ``detector``, ``segmenter`` or ``deformable`` with the widths of the compact model.

    The segmenter starts from a ``trained`` detector, the deformable network works on the maps of a trained segmenter.
    """
    if name == "detector":
        return DetectorTask(AffineDetector(DETECTOR_WIDTHS, softmax=True).to(device), training, validation, device)
    if trained is None:
        earlier = {"segmenter": "detector", "deformable": "segmenter"}[name]
        raise UsageError(f"Training the {name} needs a trained {earlier}: train that first.")
    if name == "segmenter":
        network = AffineDetector(SEGMENTER_WIDTHS, softmax=True)
        adopt(network, trained)
        return SegmenterTask(network.to(device), training, validation, device)
    segmenter = trained.to(device).requires_grad_(False).eval()
    return DeformableTask(HyperUNet(DEFORMABLE_WIDTHS, DEFORMABLE_UNITS).to(device), training, validation, device,
                          segmenter=segmenter)


@torch.no_grad()
def adopt(segmenter: AffineDetector, detector: AffineDetector) -> None:
    """Start the segmenter from the layers that it shares with the detector: all but the detector's last."""
    for mine, theirs in zip(segmenter.kernels(), detector.kernels()[:-1], strict=False):
        for parameter, value in zip(mine, theirs, strict=True):
            parameter.copy_(value)


def cosine(fraction: float) -> float:
    """Learning-rate factor over the course of a training: short warm-up, then half a cosine down to 1 %."""
    warm_up = min(1.0, fraction / 0.01 + 0.05)
    return warm_up * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(fraction, 1.0))))
