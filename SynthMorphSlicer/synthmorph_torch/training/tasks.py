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
DEFORMABLE_WIDTHS = Widths(2, (16, 32, 48, 48), (48, 48, 48, 48), (16, 16, 16, 16), 3)
DEFORMABLE_UNITS = (32, 32, 32, 4)


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

    @property
    def module(self) -> nn.ModuleDict:
        """All that is optimised."""
        return nn.ModuleDict({"network": self.network})

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
        return torch.cat([p[0] for p in pairs]), torch.cat([p[1] for p in pairs])

    def _image(self, subject: Subject) -> tuple[Tensor, Tensor]:
        # the field of view is centred somewhere in the head, not on the brain
        matrix = synthesis.random_affine(30, 45, 0.15, 0.1, self.device)
        points = synthesis.place(subject, self.grid, self.spacing, matrix, warp_mm=3.0)
        return synthesis.render(subject, points, self.spacing)

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

    Lambda is drawn at random and fed to the hypernetwork; loss = (1 - lambda) overlap + lambda smoothness. On a part
    of the batches (``known``) both images show one person under a known warp and the velocity itself is compared.
    An auxiliary head, which is not shipped, must tell the structures of both images from the decoder's features.
    From overlap alone the network takes very long to learn what corresponds; a plain run of 330 steps stayed at zero.
    """

    spacing: float = 3.0
    batch: int = 1
    steps: int = 5
    known: float = 0.5

    def __post_init__(self) -> None:
        self.template = torch.stack([s.centroids for s in self.training]).mean(0)
        self.head = nn.Conv3d(self.network.widths.decoder[-1], 2 * (NONE + 1), 1).to(self.device)  # type: ignore

    @property
    def module(self) -> nn.ModuleDict:
        return nn.ModuleDict({"network": self.network, "head": self.head})

    def _points(self, subject: Subject, pose: Tensor) -> Tensor:
        """Network grid in a subject that is aligned to the mean subject, but for a small random affine and warp."""
        ones = torch.ones(1, NONE, device=self.device)
        align = spatial.fit_affine(subject.centroids[None], self.template[None], ones)[0]
        residual = synthesis.random_affine(4, 4, 0.04, 0.04, self.device)
        return synthesis.place(subject, self.grid, self.spacing, align @ residual @ pose, warp_mm=3.0)

    def _pose(self) -> Tensor:
        # mid-space lies half-way between two arbitrary head poses
        return synthesis.random_affine(6, 25, 0.08, 0.06, self.device)

    def pair(self, subjects: Sequence[Subject]) -> list[Tensor]:
        """Two people: moving image, fixed image (1, 1, n, n, n), and their structures (1, n, n, n)."""
        pose = self._pose()
        drawn = [self.draw_subject(subjects) for _ in range(2)]
        (moving, a), (fixed, b) = (synthesis.render(s, self._points(s, pose), self.spacing) for s in drawn)
        return [moving, fixed, a, b]

    def known_pair(self, subjects: Sequence[Subject], alike: float = 0.3) -> tuple[list[Tensor], Tensor]:
        """One person twice, with a chance ``alike`` of one contrast: a pair as above, and the velocity in between."""
        subject, shape = self.draw_subject(subjects), (self.grid,) * 3
        points = self._points(subject, self._pose())
        velocity = torch.zeros(1, 3, *shape, device=self.device)
        for cells, std in ((3, 2.0), (6, 2.0), (11, 1.2)):
            velocity += synthesis.smooth_field(shape, cells, std / self.spacing, self.device)
        velocity *= float(synthesis.uniform(0.2, 1.5))
        shifted = spatial.warp(points, spatial.integrate(-velocity, self.steps))
        painted = synthesis.paint(subject) if torch.rand(1) < alike else None
        moving, a = synthesis.render(subject, shifted, self.spacing, painted)
        fixed, b = synthesis.render(subject, points, self.spacing, painted)
        return [moving, fixed, a, b], velocity

    def _forward(self, pair: Sequence[Tensor], regularization: float) -> tuple[Tensor, Tensor]:
        """Velocity, and the auxiliary loss of recognising both images' structures."""
        moving, fixed, a, b = pair
        kernels = self.network.bake(regularization)  # type: ignore[operator]
        decoded: list[Tensor] = []
        with self.autocast():
            velocity = symmetric_velocity(moving, fixed, self.network.widths, kernels, True, decoded)  # type: ignore
            logits = self.head(decoded[-1])
        factor = self.grid // logits.shape[2]
        targets = losses.soft_targets(torch.cat([a, b]), NONE + 1, factor)
        first, second = logits[:1].chunk(2, 1)  # order (moving, fixed), then (fixed, moving)
        opposite = logits[1:].chunk(2, 1)
        guesses = torch.cat([(first + opposite[1]) / 2, (second + opposite[0]) / 2])
        return velocity, losses.feature_loss(guesses, targets, factor * self.spacing)[0]

    def loss(self) -> tuple[Tensor, dict[str, float]]:
        regularization = float(torch.rand(1))
        nan = float("nan")
        if torch.rand(1) < self.known:
            pair, truth = self.known_pair(self.training)
            velocity, recognition = self._forward(pair, regularization)
            unlike = unexplained(velocity, truth, pair[3])
            rough = losses.smoothness_loss(velocity)
            figures = {"unexplained": float(unlike.detach()), "dice": nan}
        else:
            pair = self.pair(self.training)
            velocity, recognition = self._forward(pair, regularization)
            unlike, rough = self._terms(velocity, pair[2], pair[3])
            figures = {"unexplained": nan, "dice": 1 - float(unlike.detach())}
        loss = (1 - regularization) * unlike + regularization * rough
        return loss + 0.5 * recognition, {**figures, "recognition": float(recognition.detach())}

    def _terms(self, velocity: Tensor, moving: Tensor, fixed: Tensor) -> tuple[Tensor, Tensor]:
        forward, backward = (spatial.integrate(v, self.steps) for v in (velocity, -velocity))
        unlike = (losses.overlap_loss(moving, fixed, forward, NONE) + losses.overlap_loss(fixed, moving, backward, NONE)) / 2
        rough = (losses.smoothness_loss(forward) + losses.smoothness_loss(backward)) / 2
        return unlike, rough

    def validation_figures(self) -> dict[str, float]:
        pair = self.pair(self.validation)
        velocity, recognition = self._forward(pair, 0.5)
        before = losses.overlap_loss(pair[2], pair[3], torch.zeros_like(velocity), NONE)
        unlike, _ = self._terms(velocity, pair[2], pair[3])
        determinant = spatial.jacobian_determinant(spatial.integrate(velocity, 7))
        known, truth = self.known_pair(self.validation)
        return {"recognition": float(recognition),
                "unexplained": float(unexplained(self._forward(known, 0.1)[0], truth, known[3])),
                "dice_before": 1 - float(before), "dice": 1 - float(unlike),
                "folding_percent": 100 * float((determinant <= 0).float().mean()),
                "sd_log_jacobian": float(determinant.clamp(min=1e-3).log().std())}


def unexplained(velocity: Tensor, truth: Tensor, structures: Tensor) -> Tensor:
    """Squared error of a velocity inside the structures, as a fraction of the true field's own square."""
    inside = (structures < NONE).float()[:, None]
    return ((velocity - truth).square() * inside).sum() / (truth.square() * inside).sum().clamp(min=1)


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
