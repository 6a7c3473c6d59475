"""How the intensities of two aligned images are related: the tones of one in those of the other."""
from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

STEPS = 64  # of a tone curve
FOREGROUND = 0.02  # intensity above which an image shows something
FALLING = 0.05  # share of a curve's changes that may go down: 0 to 0.04 between two T1 scans, 0.08 and more else


@dataclass(frozen=True)
class Relation:
    """What the intensities of two images in the same voxels tell of each other.

    Attributes:
        to_fixed, to_moving: curves (STEPS,) of the moving image in the tones of the fixed one, and the other way.
        rising: what is brighter in one image is so in the other, so that one contrast suits both.
        variance: of both images in their common tones, added up, where both show something.
        difference: mean square of what their common tones differ by, there.
    """

    to_fixed: Tensor
    to_moving: Tensor
    rising: bool
    variance: float
    difference: float

    @classmethod
    def of(cls, moving: Tensor, fixed: Tensor, weight: Tensor) -> Relation:
        """The relation of two images.

        Args:
            moving, fixed: intensities in [0, 1] of the same voxels, of any shape.
            weight: of each voxel.
        """
        both = weight * both_show(moving, fixed)
        to_fixed, to_moving = curve(moving, fixed, weight), curve(fixed, moving, weight)
        rising = max(_falling(moving, fixed, both), _falling(fixed, moving, both)) < FALLING
        m, f = common(moving, to_fixed), common(fixed, to_moving)
        share = both / both.sum().clamp(min=1e-12)
        variance = sum(float((share * (one - (share * one).sum()).square()).sum()) for one in (m, f))
        return cls(to_fixed, to_moving, rising, variance, float((share * (m - f).square()).sum()))


def both_show(moving: Tensor, fixed: Tensor) -> Tensor:
    """True where both images show something."""
    return (moving > FOREGROUND) & (fixed > FOREGROUND)


def curve(source: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """Curve of the mean intensity of one image over that of another, (STEPS,) at equal steps from 0 to 1.

    Args:
        source, target: intensities in [0, 1] of the same voxels, of any shape.
        weight: of each voxel.
    """
    low, share = _on_curve(source.flatten())
    weight, target = weight.flatten(), target.flatten()
    sums = source.new_zeros(2, STEPS)  # of the weights, and of the target's intensities
    for index, part in ((low, weight * (1 - share)), (low + 1, weight * share)):
        sums[0].index_add_(0, index, part)
        sums[1].index_add_(0, index, part * target)
    smooth = sums.new_tensor([1, 4, 6, 4, 1]).view(1, 1, 5) / 16
    count, total = F.conv1d(F.pad(sums[:, None], (2, 2), mode="replicate"), smooth)[:, 0]
    rare = 1e-3 * weight.sum() / STEPS + 1e-12  # intensities that are hardly there get the mean
    mean = (weight * target).sum() / weight.sum().clamp(min=1e-12)
    return (total + rare * mean) / (count + rare)


def toned(image: Tensor, curve: Tensor) -> Tensor:
    """An image with the tones of another; where it shows nothing, it shows nothing."""
    low, share = _on_curve(image)
    return torch.lerp(curve[low], curve[low + 1], share) * (image > 0)


def common(image: Tensor, curve: Tensor) -> Tensor:
    """An image in tones half-way between its own and those of another, where both images meet."""
    return (image + toned(image, curve)) / 2


def _falling(source: Tensor, target: Tensor, weight: Tensor) -> float:
    """Share of the changes of a curve that go down, each weighted by how many voxels lie there."""
    low, _ = _on_curve(source.flatten())
    count = source.new_zeros(STEPS).index_add_(0, low, weight.flatten())
    change = curve(source, target, weight).diff() * (count[1:] * count[:-1]).sqrt()
    return float(-change.clamp(max=0).sum() / change.abs().sum().clamp(min=1e-12))


def _on_curve(intensity: Tensor) -> tuple[Tensor, Tensor]:
    """The lower of the two steps of a tone curve that an intensity lies between, and the share of the upper one."""
    return between(intensity * (STEPS - 1), STEPS)


def between(position: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The lower of the two of ``count`` steps that a position lies between, and the share of the upper one."""
    position = position.clamp(0, count - 1.001)
    low = position.floor()
    return low.long(), position - low
