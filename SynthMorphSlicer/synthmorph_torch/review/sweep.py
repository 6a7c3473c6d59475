"""The same registration with several lambdas: how alike the images become, and how rough the warp gets for it."""
from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import SimpleITK as sitk

from .. import agreement, quality
from ..errors import UsageError
from .case import Case

if TYPE_CHECKING:
    from ..registration import Registration

LAMBDAS = (0.2, 0.35, 0.5, 0.65, 0.8)


@dataclass(frozen=True)
class SweepPoint:
    """One lambda: ``similarity`` is the normalised mutual information over the fixed foreground, ``dice`` the mean."""

    regularization: float
    similarity: float | None
    dice: float | None
    sd_log: float | None
    folding: int
    seconds: float
    registration: Registration | None = field(default=None, repr=False, compare=False)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {"regularization": self.regularization, "similarity": self.similarity, "dice": self.dice,
                "sd_log": self.sd_log, "folding": self.folding, "seconds": round(self.seconds, 2)}


def sweep(result: Registration, lambdas: Sequence[float] = LAMBDAS, moving_labels: sitk.Image | None = None,
          fixed_labels: sitk.Image | None = None, progress: Callable[[str, float], None] | None = None,
          cancelled: Callable[[], bool] | None = None) -> list[SweepPoint]:
    """Repeat a registration with other lambdas; its affine part and inputs are reused.

    Args:
        result: a joint or deformable registration.
        lambdas: what to try, in any order.
        moving_labels, fixed_labels: label maps in the worlds of the images, for the mean Dice.
        progress: called with what is being done and the fraction of all work done before it.
        cancelled: asked before each lambda; True ends the sweep, and what is done is returned.

    Returns:
        A point per lambda, the smallest first, each with its registration.

    Raises:
        UsageError: the registration has no warp, or a lambda is out of range.
    """
    if result.mid is None:
        raise UsageError("An affine registration has no lambda to choose: register with joint or deform.")
    if not lambdas:
        raise UsageError("There is no lambda to try: name some between 0 and 1.")
    region = Case.of(result).foreground  # the same for all, and that of the table of measures
    points: list[SweepPoint] = []
    for number, regularization in enumerate(sorted(set(lambdas))):
        if cancelled and cancelled():
            break
        def inner(stage: str, done: float, number: int = number, value: float = regularization) -> None:
            if progress:
                progress(f"lambda {value:g}: {stage}", (number + done) / len(set(lambdas)))

        start = time.perf_counter()
        again = result.with_regularization(regularization, inner)
        points.append(_point(again, region, moving_labels, fixed_labels, time.perf_counter() - start))
    return points


def _point(result: Registration, region: sitk.Image, moving_labels: sitk.Image | None,
           fixed_labels: sitk.Image | None, seconds: float) -> SweepPoint:
    case = Case.of(result, moving_labels=moving_labels, fixed_labels=fixed_labels)
    volume = quality.jacobian_statistics(case.jacobian, region)
    alike = quality.similarity(case.moved, case.fixed, region)
    overlap = None
    if case.moved_labels is not None:
        overlap = agreement.label_agreement(case.moved_labels, fixed_labels, distances=False)["mean_dice"]
    return SweepPoint(result.options.regularization, alike["nmi"], overlap, volume["sd_log"],
                      int(volume["folding_count"]), seconds, result)
