"""Instance optimisation: improve a velocity field for the two images at hand.

The velocity field of the network is warm-started, not replaced: the transform stays ``exp(v)`` in the mid-space, so
it remains a diffeomorphism with the exact opposite ``exp(-v)``, and swapping the images changes its sign. Each
iteration warps both images half-way, takes the gradient of local similarity there and adds it, smoothed, to ``v``
(log-domain update to first order; Vercauteren et al., MICCAI 2008; smoothing as in Avants et al., MedIA 2008).
"""
from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from . import spatial
from .halfway import Sample, Scene, edges_on
from .networks import MidSpace
from .similarity import fading, gaussian
from .spatial import border_window

BORDER = 12.0  # millimetres at the border of the grid over which velocity and updates fade out
RIM = 3.0  # millimetres, about the width of what is looked at around the brain
FINEST = 2.0  # voxel size of the refined velocity, millimetres


@dataclass(frozen=True)
class Level:
    """One resolution of the optimisation: voxel sizes of the images and of the field in mm, share of all iterations.

    The better the images are aligned, the better they tell how their tones are related: ``looks`` is how often they are
    asked.
    """

    images: float
    field: float
    share: float
    looks: int = 1


LEVELS = Level(4.0, 4.0, 0.435, 2), Level(2.0, 4.0, 0.348, 2), Level(1.0, 2.0, 0.217)
# Two scans of one head differ by a rigid motion and little else: a smooth field is all that is left to find. Coarse
# images would only bend it where the contrasts differ.
ONE_HEAD_LEVELS = (Level(2.0, 4.0, 0.4),)
ONE_HEAD_STIFFNESS = 3.0
COARSE = 2.0  # voxel size of the images that a preview looks at, and larger
STEP, MOMENTUM = 1.0, 0.85  # largest change of the velocity, image voxels; how much of the last change is added to it
# Smoothing at lambda 0.5, image voxels: of the updates, and of the two parts of the field, that which keeps volumes and
# that which changes them. At the same overlap of labels, one sigma for both would leave more swelling and shrinking.
UPDATE_SIGMA, SOLENOIDAL_SIGMA, IRROTATIONAL_SIGMA = 1.5, 1.0, 1.4
# Where the tones of one image tell little of the other's, a stiffer field serves better: on synthesized heads in random
# contrasts, Dice 0.68 instead of 0.58. Their similarity before refinement was 0.07 to 0.19, that of two T1 scans 0.4 to
# 0.6, and between unlike contrasts of real scans 0.19 to 0.49.
UNLIKE, ALIKE, WARINESS = 0.2, 0.3, 2.0
THIN = 2.0  # millimetres between slices, up to which they show what lies between them
PATIENCE, GAIN = 6, 2e-4  # stop when the similarity has risen by less than GAIN in PATIENCE iterations


class Refinement:
    """Instance optimisation of the velocity field of one mid-space, one resolution after the other."""

    def __init__(self, moving: Tensor, fixed: Tensor, mid: MidSpace, spacing: float, iterations: int,
                 regularization: float, sample: Sample | None = None, one_head: bool = False,
                 voxels: Sequence[Tensor] = ()) -> None:
        """
        Args:
            moving, fixed: network images (1, 1, N, N, N) in [0, 1].
            mid: the mid-space with the velocity to start from.
            spacing: voxel size of the mid-space grid in millimetres.
            iterations: in total; a level ends earlier when the similarity no longer rises.
            regularization: lambda in (0, 1); smooths the field.
            sample: for levels finer than the network images; without it they are interpolated.
            one_head: the images show one person's head, so the field should be smooth.
            voxels: edges of the images' own voxels, see :class:`halfway.Scene`.
        """
        self._images, self._sample, self._voxels = (moving, fixed), sample, voxels
        self.mid, self._spacing, self._brain = working_grid(mid, spacing)
        self._iterations, self._done, self._share = iterations, 0, 0.0
        self._one_head = one_head
        # neither lambda nor thick slices touch the updates: rough ones are dominated by their largest, and get nowhere
        levels, self._update, field = (
            (ONE_HEAD_LEVELS, ONE_HEAD_STIFFNESS * UPDATE_SIGMA, ONE_HEAD_STIFFNESS) if one_head else
            (LEVELS, UPDATE_SIGMA, coarseness(voxels, self.mid, self._spacing)))
        self._field = field * stiffness(regularization)
        self._levels = list(levels)

    def run(self, progress: Callable[[float], None] | None = None, preview: bool = False) -> MidSpace:
        """Improve the velocity field; what has been done before is not done again.

        Args:
            progress: called with the fraction done; what it raises ends the run, and another run goes on.
            preview: leave out the finest level, which takes most of the time, until the next run.

        Returns:
            A mid-space around the brain, its velocity changed where that has raised the similarity.
        """
        while self._levels and not (preview and self._levels[0].images < COARSE):
            self._look(self._levels[0], progress)
            del self._levels[0]
        return self.mid

    def _look(self, level: Level, progress: Callable[[float], None] | None) -> None:
        mid, done, share, field = self.mid, self._done, self._share, self._field
        scene = None
        for _ in range(level.looks):
            share += level.share / level.looks
            count = round(share * self._iterations) - done
            if not count or level.field > 2 * self._spacing:  # coarser than what there is: its detail would be lost
                continue
            assert mid.velocity is not None
            if scene is None:
                scene = Scene(*self._images, mid, self._spacing, level.images, level.field, self._sample, self._brain,
                              self._voxels)
            else:
                scene.compare(mid.velocity)
            if not done and not self._one_head:
                field *= wariness(scene.similarity(mid.velocity))

            def tell(k: int, done: int = done) -> None:
                if progress:
                    progress((done + k) / self._iterations)

            mid = _ascend(scene, mid, count, self._update, field, tell)
            done += count
        self.mid, self._done, self._share, self._field = mid, done, share, field


def wariness(similarity: float) -> float:
    """Factor of the field's sigmas for two images that are this similar before they are refined."""
    return 1.0 + (WARINESS - 1.0) * fading(similarity, UNLIKE, ALIKE)


def coarseness(voxels: Sequence[Tensor], mid: MidSpace, spacing: float) -> float:
    """Factor of the field's sigmas for images with thick slices, between which nothing shows what a warp should do.

    On slices of 10 mm, Dice is 0.774 instead of 0.766 with it; on thinner ones it changes little.
    """
    edges = edges_on((mid.to_moving, mid.to_fixed), voxels) if voxels else []
    longest = max((float(edge.norm(dim=0).max()) * spacing for edge in edges), default=0.0)
    return max(1.0, longest / THIN) ** (1 / 3)


def stiffness(regularization: float) -> float:
    """Factor of the field's sigmas for a lambda in (0, 1): one at 0.5, and twice as much for every 0.4 more."""
    return 2 ** ((regularization - 0.5) / 0.4)


def working_grid(mid: MidSpace, spacing: float) -> tuple[MidSpace, float, Tensor | None]:
    """The mid-space grid at the density of the result, cut to the brain where feature maps show where that is.

    Returns:
        The mid-space, its voxel size in millimetres, and a mask (1, 1, x, y, z) of the brain and what is next to it.
    """
    assert mid.velocity is not None
    brain = None
    if mid.features is not None:
        mid = cropped(mid, *brain_box(mid.features, round(BORDER / spacing)))
        assert mid.velocity is not None
        window = border_window(mid.shape, mid.velocity.device, round(BORDER / spacing))
        assert mid.features is not None
        brain = brain_mask(mid.features, spacing)  # skull and scalp would pull at the brain
        mid = dataclasses.replace(mid, velocity=mid.velocity * window)
    return (denser(mid, spacing / FINEST), FINEST, brain) if spacing > FINEST else (mid, spacing, brain)


def brain_mask(features: tuple[Tensor, Tensor], spacing: float) -> Tensor:
    """One in the brain of either feature map and what is next to it, (1, 1, X, Y, Z); ``spacing`` in millimetres."""
    either = torch.maximum(*(f.sum(1, keepdim=True) for f in features))
    return (gaussian(either, RIM / spacing) > 0.1).float()


def brain_box(features: Sequence[Tensor], margin: int) -> tuple[list[int], list[int]]:
    """First voxel and size of the box around what feature maps (1, M, X, Y, Z) call brain, and a margin.

    Sizes are multiples of four voxels where the grid allows, so that grids of all levels share their corners.
    """
    brain = torch.stack([f[0].sum(0) for f in features]).amax(0) > 0.5
    first, size = [], []
    for axis, n in enumerate(brain.shape):
        filled = brain.amax(dim=tuple(a for a in range(3) if a != axis)).nonzero().flatten()
        low, high = (int(filled[0]) - margin, int(filled[-1]) + 1 + margin) if len(filled) else (0, n)
        length = min(n, -(-(high - low) // 4) * 4)
        first.append(max(0, min((low + high - length) // 2, n - length)))
        size.append(length)
    return first, size


def cropped(mid: MidSpace, first: Sequence[int], size: Sequence[int]) -> MidSpace:
    """A box of a mid-space grid."""
    assert mid.features is not None
    shift = torch.eye(4, dtype=mid.to_fixed.dtype, device=mid.to_fixed.device)
    shift[:3, 3] = shift.new_tensor(list(first))
    i, j, k = (slice(a, a + n) for a, n in zip(first, size, strict=True))
    box = (slice(None), slice(None), i, j, k)
    x, y, z = size
    return MidSpace(mid.to_moving @ shift, mid.to_fixed @ shift, (x, y, z),
                    None if mid.velocity is None else mid.velocity[box],
                    (mid.features[0][box], mid.features[1][box]))


def denser(mid: MidSpace, factor: float) -> MidSpace:
    """The same box with ``factor`` times as many voxels along each axis; feature maps are left behind."""
    assert mid.velocity is not None
    x, y, z = (round(n * factor) for n in mid.shape)
    scale = spatial.pooled(x / mid.shape[0], mid.to_fixed.device)
    return MidSpace(mid.to_moving @ scale, mid.to_fixed @ scale, (x, y, z), spatial.regrid(mid.velocity, (x, y, z)))


def _ascend(scene: Scene, mid: MidSpace, iterations: int, update: float, field: float,
            progress: Callable[[int], None]) -> MidSpace:
    """Ascend the similarity on one level; return the best field seen, on the grid of the mid-space.

    ``update`` is the sigma of the updates in image voxels, ``field`` the factor of the sigmas of the field.
    """
    assert mid.velocity is not None
    sigma = scene.voxel * field
    start = velocity = best = spatial.regrid(mid.velocity, scene.field_shape)
    # a head that reaches the border of the grid must not be pulled there: beyond it the affine transform holds
    inner = border_window(scene.field_shape, velocity.device, round(BORDER / scene.field_voxel))
    values: list[float] = []
    change = torch.zeros_like(velocity)
    for k in range(iterations):
        value, ascent = scene.ascent(velocity)
        if values and value > max(values):
            best = velocity
        values.append(value)
        if k >= PATIENCE and max(values) - max(values[:-PATIENCE]) < GAIN:
            break
        ascent = gaussian(ascent, update * scene.voxel)
        longest = ascent.square().sum(1).amax().sqrt()  # norm() takes forty times as long
        step = STEP * scene.voxel / longest.clamp(min=1e-12)
        change = MOMENTUM * change + step * ascent
        smooth = smoothed(velocity + change, SOLENOIDAL_SIGMA * sigma, IRROTATIONAL_SIGMA * sigma)
        velocity = velocity + inner * (smooth - velocity)
        progress(k)
    if values[-1] == max(values) > values[0]:  # still rising: the last step is worth its place without another look
        best = velocity
    if max(values) == values[0]:
        return mid
    # only the change goes from grid to grid: else the border, where it is zero, would bit by bit take on what is inside
    return dataclasses.replace(mid, velocity=mid.velocity + spatial.regrid(best - start, mid.shape))


def smoothed(field: Tensor, solenoidal: float, irrotational: float) -> Tensor:
    """A vector field after Gaussian smoothing of both parts of its Helmholtz decomposition.

    Args:
        field: (1, 3, X, Y, Z), small at the border: opposite borders are taken for neighbours.
        solenoidal: sigma for the part without divergence, voxels.
        irrotational: sigma for the part without curl, voxels.
    """
    shape = field.shape[2:]
    wave = spatial.waves(shape, field.device)
    square = wave.square().sum(0)
    spectrum = torch.fft.rfftn(field[0], dim=(1, 2, 3))
    along = wave * ((wave * spectrum).sum(0) / square.clamp(min=1e-12))  # without curl: parallel to the wave vector
    across = spectrum - along
    result = torch.exp(-solenoidal**2 / 2 * square) * across + torch.exp(-irrotational**2 / 2 * square) * along
    return torch.fft.irfftn(result, s=shape, dim=(1, 2, 3))[None]


def smoothed_around(mid: MidSpace, places: Tensor, sigma: float) -> tuple[MidSpace, Tensor]:
    """The same mid-space with a smoother velocity near some places.

    In theory the flow of any continuous velocity is invertible; on the grid of a result a steep one can fold all the
    same. Smoothing more than what is next to such folds would leave a detailed warp with less detail than a smooth one.

    Args:
        mid: a mid-space with a velocity.
        places: (K, 3) voxel coordinates of the mid-space.
        sigma: of the Gaussian, voxels of the mid-space.

    Returns:
        The mid-space, and a mask (1, 1, X, Y, Z) of where its velocity has changed.
    """
    assert mid.velocity is not None
    marked = torch.zeros(1, 1, *mid.shape, device=mid.velocity.device)
    i, j, k = (places[:, axis].round().long().clamp(0, n - 1) for axis, n in enumerate(mid.shape))
    marked[0, 0, i, j, k] = 1.0
    around = gaussian(F.max_pool3d(marked, 5, 1, 2), 1.0)
    smoother = torch.lerp(mid.velocity, gaussian(mid.velocity, sigma), around)
    return dataclasses.replace(mid, velocity=smoother), around > 0
