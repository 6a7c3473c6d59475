"""The registration in front of one: two images, two transforms, and whatever else is known about them."""
from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import SimpleITK as sitk

from .. import images, labels, quality, transforms
from ..errors import ImageError, TransformError
from ..geometry import Matrix, Space
from .landmarks import Landmarks

if TYPE_CHECKING:
    from ..registration import Registration


@dataclass
class Case:
    """What is judged. Points are LPS millimetres, as everywhere in the engine.

    ``forward`` maps fixed to moving points, ``backward`` is its opposite (None: unknown). Label maps lie in the
    worlds of their images, on any grid. ``names`` gives the names of labels. ``before`` is the alignment to compare
    with, by default that of the headers. ``provenance`` says how the result was made.
    """

    forward: sitk.Transform
    backward: sitk.Transform | None
    moving: sitk.Image
    fixed: sitk.Image
    moving_labels: sitk.Image | None = None
    fixed_labels: sitk.Image | None = None
    names: Mapping[int, str] = field(default_factory=dict)
    landmarks: Landmarks | None = None
    before: sitk.Transform | None = None
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for transform in (self.forward, self.backward):
            if transform is not None and transform.GetDimension() != 3:
                raise TransformError("A registration of volumes needs 3-D transforms: give others.")

    @classmethod
    def of(cls, result: Registration, **extra: Any) -> Case:
        """The case of a :class:`Registration`; ``extra`` are further fields."""
        return cls(result.fixed_to_moving, result.moving_to_fixed, result.moving, result.fixed,
                   provenance=result.provenance(), **extra)

    @cached_property
    def foreground(self) -> sitk.Image:
        """uint8 mask of the fixed image's content, holes filled: the head or the brain."""
        return filled(self.fixed)

    @cached_property
    def jacobian(self) -> sitk.Image:
        """Jacobian determinant of ``forward`` on the fixed grid."""
        return quality.jacobian_map(self.forward, self.fixed)

    @cached_property
    def moved(self) -> sitk.Image:
        """The moving image on the fixed grid, float32; its darkest value where it has no voxels."""
        return transforms.apply(self.forward, self.moving, self.fixed, fill=darkest(self.moving))

    @cached_property
    def affine(self) -> Matrix:
        """(4, 4) affine part of ``forward``, or the affine closest to it."""
        return quality.affine_part(self.forward, self.fixed, self.foreground)

    @cached_property
    def moved_labels(self) -> sitk.Image | None:
        """The moving labels on the grid of the fixed labels; None unless both sides have labels."""
        if self.moving_labels is None or self.fixed_labels is None:
            return None
        return labels.warp_labels(self.forward, self.moving_labels, self.fixed_labels)

    def name(self, label: int) -> str:
        """What a structure is called."""
        return self.names.get(label) or f"Label {label}"

    def region(self, mask: sitk.Image | None) -> sitk.Image:
        """A mask brought to the fixed grid; the foreground if there is none.

        Raises:
            ImageError: the mask is empty there.
        """
        if mask is None:
            return self.foreground
        if not Space.of(mask).same_as(Space.of(self.fixed)):
            identity = sitk.Transform(3, sitk.sitkIdentity)
            mask = transforms.apply(identity, mask, self.fixed, "nearest")
        mask = sitk.NotEqual(mask, 0)
        if not sitk.GetArrayViewFromImage(mask).any():
            raise ImageError("The region contains no voxel of the fixed image: choose another segment or mask.")
        return mask


def darkest(image: sitk.Image) -> float:
    """The smallest value of an image."""
    return float(sitk.GetArrayViewFromImage(image).min())


def filled(image: sitk.Image) -> sitk.Image:
    """The largest piece of an image's foreground with its holes filled, so that dark ventricles belong to the brain.

    Worked on at 2 mm at the finest, which is fine enough for a mask of a head.
    """
    mask = images.foreground(image)
    factors = [max(1, int(2.0 / s)) for s in image.GetSpacing()]
    small = sitk.Shrink(mask, factors) if max(factors) > 1 else mask
    small = sitk.BinaryMorphologicalOpening(sitk.ConstantPad(small, [4] * 3, [4] * 3, 0), [1] * 3)
    parts = sitk.RelabelComponent(sitk.ConnectedComponent(small), sortByObjectSize=True)
    whole = sitk.BinaryFillhole(sitk.BinaryMorphologicalClosing(sitk.Equal(parts, 1), [3] * 3))
    result = sitk.Resample(whole, mask, sitk.Transform(3, sitk.sitkIdentity), sitk.sitkNearestNeighbor, 0,
                           sitk.sitkUInt8)
    return result if np.any(sitk.GetArrayViewFromImage(result)) else mask
