"""Images on the grids that networks and refinement want: smoothed, resampled and normalised."""
from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import SimpleITK as sitk
import torch
from numpy.typing import NDArray
from torch import Tensor

from . import images, resolution, spatial
from .errors import ImageError
from .geometry import Space, index_map
from .models import normalise


@dataclass
class Sampler:
    """Samples one image on several grids; what has been smoothed for one serves the next."""

    image: sitk.Image
    smooth: dict[tuple[float, ...], sitk.Image] = field(default_factory=dict, repr=False)

    @cached_property
    def resolved(self) -> NDArray[np.float64]:
        """Millimetres that the image resolves along its axes, see :func:`resolution.resolved`."""
        return resolution.resolved(self.image)

    def on(self, grid: Space, device: torch.device, mode: str = "linear") -> Tensor:
        """The image on a grid, (1, 1, X, Y, Z) in [0, 1] (SPEC 6).

        Finer images are smoothed first where the grid is coarser than 1 mm, so that no detail is aliased. ``mode`` is
        that of :func:`spatial.sample`.

        Raises:
            ImageError: there is nothing to be seen.
        """
        image = self._for(float(np.mean(grid.spacing)))
        volume = torch.as_tensor(images.to_array(image), device=device)[None, None]
        matrix = torch.as_tensor(index_map(grid, Space.of(image)), device=device)
        resampled = spatial.resample(volume, matrix, grid.shape, mode)
        if float(resampled.max() - resampled.min()) <= 0:
            raise ImageError("The image is empty where the network looks: check that its content lies near the middle "
                             "of its field of view, or choose extent 256.")
        return normalise(resampled)

    def _for(self, spacing: float) -> sitk.Image:
        """The image as smooth as voxels of ``spacing`` millimetres want it."""
        if spacing <= 1.5:
            return self.image
        # to a tenth of a millimetre, so that grids of almost the same spacing share an image
        sigma = tuple(round(0.4 * spacing, 1) if s < spacing / 1.5 else 0.0 for s in self.image.GetSpacing())
        if not max(sigma):
            return self.image
        if sigma not in self.smooth:
            self.smooth[sigma] = sitk.DiscreteGaussian(sitk.Cast(self.image, sitk.sitkFloat32), [s**2 for s in sigma])
        return self.smooth[sigma]
