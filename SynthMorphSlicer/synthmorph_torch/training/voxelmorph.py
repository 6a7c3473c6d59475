"""Train a registration network on images alone, without any labels: the way of VoxelMorph.

Balakrishnan et al., IEEE TMI 2019, with the velocity fields of Dalca et al., MedIA 2019. The loss is the
dissimilarity of the warped images plus the roughness of the warp, so the images must look alike: scans of one
contrast, or pairs synthesized from label maps in the same random colours. They must be aligned affinely.
"""
from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from .. import images, spatial
from ..errors import ImageError
from ..geometry import Space, network_space
from ..models import normalise, upsampled
from ..networks import UNet, Widths, symmetric_velocity
from ..sampling import Sampler
from . import losses, synthesis
from .synthesis import NONE, Subject
from .tasks import Example, Task, flow, regularity

# the usual VoxelMorph network without its last upsampling: a velocity at half the density of the images will do
WIDTHS = Widths(2, (16, 32, 32, 32), (32, 32, 32), (32, 32, 16), 3)


@dataclass(frozen=True)
class Similarity:
    """How unlike two images are, and how much roughness of the warp is held against that by default."""

    loss: Callable[[Tensor, Tensor], Tensor]
    smoothness: float


SIMILARITIES = {"correlation": Similarity(losses.correlation_loss, 1.0),
                "mse": Similarity(losses.squared_difference_loss, 0.02)}


@dataclass(frozen=True)
class Pair:
    """Two images (1, 1, n, n, n) on one grid, with their structures (1, n, n, n) where these are known."""

    images: tuple[Tensor, Tensor]
    structures: tuple[Tensor, Tensor] | None = None


@dataclass
class VoxelMorphTask(Task[Example]):
    """Velocity field between two images; loss = dissimilarity + smoothness * roughness, both ways on average.

    The velocity is integrated at the half density at which the network gives it.
    """

    network: UNet
    grid: int = 96
    spacing: float = 2.0
    batch: int = 1
    similarity: str = "correlation"
    smoothness: float | None = None
    steps: int = 5

    def pair(self, examples: Sequence[Example]) -> Pair:
        """A random pair."""
        raise TypeError("VoxelMorphTask.pair is defined by the tasks for scans and for synthesized images.")

    def _terms(self, pair: Pair) -> tuple[Tensor, Tensor, Tensor]:
        """Dissimilarity, roughness, and the velocity at half density."""
        a, b = pair.images
        with self.autocast():
            velocity = symmetric_velocity(a, b, self.network.widths, self.network.kernels(), batch=True)
        forward, backward, rough = flow(velocity, self.steps)
        unlike = SIMILARITIES[self.similarity].loss
        both = unlike(spatial.warp(a, upsampled(forward)), b) + unlike(spatial.warp(b, upsampled(backward)), a)
        return both / 2, rough, velocity

    def loss(self) -> tuple[Tensor, dict[str, float]]:
        weight = SIMILARITIES[self.similarity].smoothness if self.smoothness is None else self.smoothness
        terms = [self._terms(self.pair(self.training)) for _ in range(self.batch)]
        unlike, rough = (torch.stack(t).mean() for t in list(zip(*terms, strict=True))[:2])
        return unlike + weight * rough, {"unlike": float(unlike.detach())}

    def validation_figures(self) -> dict[str, float]:
        pair = self.pair(self.validation)
        unlike, _, velocity = self._terms(pair)
        figures = {"unlike_before": float(SIMILARITIES[self.similarity].loss(*pair.images)), "unlike": float(unlike),
                   **regularity(velocity)}
        if pair.structures:
            a, b = pair.structures
            displacement = upsampled(spatial.integrate(velocity, self.steps))
            figures["dice_before"] = 1 - float(losses.overlap_loss(a, b, torch.zeros_like(displacement), NONE))
            figures["dice"] = 1 - float(losses.overlap_loss(a, b, displacement, NONE))
        return figures


@dataclass
class ScansTask(VoxelMorphTask[Tensor]):
    """Pairs of real scans, each (1, 1, n, n, n) on one grid; see :func:`load_scans`."""

    def pair(self, examples: Sequence[Tensor]) -> Pair:
        first, second = torch.randperm(len(examples))[:2].tolist()
        flip = [2] if torch.rand(1) < 0.5 else []  # the first axis of the network grid runs from right to left
        return Pair((examples[first].flip(flip), examples[second].flip(flip)))


@dataclass
class PaintedTask(VoxelMorphTask[Subject]):
    """Pairs of two people's label maps, painted in the same random colours and aligned by their centroids."""

    template: Tensor = field(init=False)

    def __post_init__(self) -> None:
        self.template = synthesis.mean_centroids(self.training)

    def pair(self, examples: Sequence[Subject]) -> Pair:
        first = self.draw(examples)
        second = self.draw([s for s in examples if s is not first])
        means = synthesis.random_palette(first)
        a, b = (self._view(first, means), self._view(second, synthesis.same_palette(means, first, second)))
        return Pair((a[0], b[0]), (a[1], b[1]))

    def _view(self, subject: Subject, means: Tensor) -> tuple[Tensor, Tensor]:
        residual = synthesis.random_affine(2, 2, 0.02, 0.02, self.device)
        to_subject = synthesis.aligned(subject, self.template) @ residual
        points = synthesis.place(subject, (self.grid,) * 3, self.spacing, to_subject, warp_mm=0.0)
        image = normalise(spatial.sample(synthesis.paint(subject, means), points, fill=0.0))
        return image, synthesis.structures_at(subject, points)


def load_scans(paths: Sequence[Path], grid: int, spacing: float, device: torch.device) -> list[Tensor]:
    """Read scans that are aligned in world space onto one LIA grid, (1, 1, grid, grid, grid) in [0, 1] each.

    Raises:
        ImageError: a scan cannot be read, or shows another place than the first.
    """
    scans = [images.check_image(images.read_image(path), f"'{path}'") for path in paths]
    centres = [Space.of(scan).center for scan in scans]
    for path, centre in zip(paths, centres, strict=True):
        if np.linalg.norm(centre - centres[0]) > grid * spacing / 2:
            raise ImageError(f"'{path}' lies elsewhere than '{paths[0]}': align all scans first, for example with "
                             "'synthmorph batch -m affine'.")
    net = network_space(np.mean(centres, axis=0), round(grid * spacing), spacing)
    return [Sampler(scan).on(net, device) for scan in scans]
