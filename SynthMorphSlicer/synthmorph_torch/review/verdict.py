"""Good, look closely, or failed: one word on a registration, with the reasons.

"Good" means that nothing was found, not that the registration is right. How often the word is wrong was measured on
real pairs, see ``benchmarks/verdict.md``.
"""
from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import SimpleITK as sitk

from ..transforms import apply, to_displacement_field
from . import checks
from .case import Case
from .measures import Measure, value_of
from .tolerances import BAD, LOOK, OK, TOLERANCES, Tolerance

GOOD, CLOSELY, FAILED = "good", "look closely", "failed"
HEADLINES = {GOOD: "Nothing suspicious was found. Look at the pictures before using it.",
             CLOSELY: "Look closely before using it.", FAILED: "This registration failed."}

# Limits of the checks that need no truth, tuned on the first list of pairs of benchmarks/verdict.py
SCALE_LOW, SCALE_HIGH = Tolerance(0.75, 0.55), Tolerance(1.35, 1.8)
STRETCH = Tolerance(1.45, 1.9)
SEEN = Tolerance(0.9, 0.7)
CONTAINED = Tolerance(0.9, 0.75)
EDGE_GAIN = Tolerance(0.28, 0.2)  # above chance
EDGE_LEAD = Tolerance(0.1, 0.04)  # above the likeness a centimetre beside
LESS_ALIKE = Tolerance(0.0, 0.2)  # share of the mutual information before that is lost
FLIP = Tolerance(0.0, 0.0)
LIMITS = {"affine_flip": FLIP, "affine_low": SCALE_LOW, "affine_high": SCALE_HIGH, "affine_stretch": STRETCH,
          "overlap_seen": SEEN, "overlap_contained": CONTAINED, "edges_gain": EDGE_GAIN, "edges_lead": EDGE_LEAD,
          "similarity": LESS_ALIKE, "disagreement": TOLERANCES["disagreement_p95"],
          "folding_percent": TOLERANCES["folding"]}


def limit_of(key: str) -> Tolerance:
    """The limits of a check by its key."""
    return LIMITS[key] if key in LIMITS else TOLERANCES[key.replace("mean_dice", "dice")]


@dataclass(frozen=True)
class Reason:
    """Why: ``status`` is "look" or "bad" (or "ok" for a check that was passed)."""

    status: str
    key: str
    sentence: str
    value: float | None = None


@dataclass(frozen=True)
class Verdict:
    """The word, the reasons for it (the gravest first), and all checks, those that were passed included."""

    word: str
    reasons: tuple[Reason, ...]
    checks: tuple[Reason, ...] = ()

    @property
    def headline(self) -> str:
        """One sentence."""
        return HEADLINES[self.word]

    @property
    def status(self) -> str:
        """The word as a status: "ok", "look" or "bad"."""
        return {GOOD: OK, CLOSELY: LOOK, FAILED: BAD}[self.word]

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {"verdict": self.word, "headline": self.headline, "reasons": [asdict(r) for r in self.reasons]}


def judge(case: Case, rows: Sequence[Measure], disagreement: float | None = None) -> Verdict:
    """Judge a registration.

    Args:
        case: the registration.
        rows: its table of measures over the foreground (see :func:`.measures.table`).
        disagreement: from :func:`disagreement_mm`, if it is known.
    """
    found = [*quick_checks(case), *measured_checks(list(rows)), *disagreement_checks(disagreement)]
    reasons = sorted((one for one in found if one.status in (LOOK, BAD)), key=lambda one: one.status != BAD)
    worst = {one.status for one in reasons}
    word = FAILED if BAD in worst else CLOSELY if LOOK in worst else GOOD
    return Verdict(word, tuple(reasons), tuple(found))


def quick_checks(case: Case) -> list[Reason]:
    """The checks that need neither a table of measures nor any truth; they take a second or two."""
    return [*affine_checks(case), *overlap_checks(case), *edge_checks(case)]


def is_doubtful(case: Case) -> bool:
    """True if at least two of the quick checks say that it failed, as where the images have nothing in common.

    One alone may be wrong: the edges of two people run little alike after an affine registration.
    """
    return sum(one.status == BAD for one in quick_checks(case)) > 1


def affine_checks(case: Case) -> Iterator[Reason]:
    """Scales, shear and flip of the affine part."""
    shape = checks.AffineShape.of(case.affine)
    yield Reason(FLIP.status(float(shape.flips)), "affine_flip", "The affine part mirrors the image, which no head "
                 "does: left and right may be exchanged.", float(shape.flips))
    low, high = shape.scales[0], shape.scales[2]
    for key, tolerance, value in (("affine_low", SCALE_LOW, low), ("affine_high", SCALE_HIGH, high)):
        yield Reason(tolerance.status(value), key, f"The affine part scales by {low:.2f} to {high:.2f}, more than "
                     "heads differ.", value)
    yield Reason(STRETCH.status(shape.stretch), "affine_stretch", f"The affine part stretches one direction "
                 f"{shape.stretch:.1f} times as much as another: shear, or unlike scales.", shape.stretch)


def overlap_checks(case: Case) -> Iterator[Reason]:
    """Whether the contents lie upon each other."""
    found = checks.overlap(case)
    yield Reason(SEEN.status(found.seen), "overlap_seen", f"Only {100 * found.seen:.0f} % of what the fixed image "
                 "shows lies in the moving image's field of view.", found.seen)
    yield Reason(CONTAINED.status(found.contained), "overlap_contained", f"Only {100 * found.contained:.0f} % of the "
                 "smaller of the two heads or brains lies within the other.", found.contained)


def edge_checks(case: Case) -> Iterator[Reason]:
    """Whether edges meet edges; nothing is said of images too thin to have edges in all directions."""
    if checks.is_thin(case.fixed) or checks.is_thin(case.moving):
        return
    found = checks.edges(case)
    yield Reason(EDGE_GAIN.status(found.gain), "edges_gain", "Edges inside the two images hardly run alike where the "
                 f"registration puts them ({found.here:.2f}, chance {found.chance:.2f}).", found.gain)
    lead = found.here - found.beside
    yield Reason(EDGE_LEAD.status(lead), "edges_lead", "Edges inside the two images run hardly more alike than they do "
                 f"1 cm beside ({found.here:.2f} and {found.beside:.2f}).", lead)


def measured_checks(rows: list[Measure]) -> Iterator[Reason]:
    """What the table says."""
    sentences = {
        "folding_percent": "The warp folds in {value:.2g} % of the region: raise the regularization.",
        "sd_log": "The warp changes volumes strongly (SD of log J {value:.2f}): check that the change is anatomical.",
        "jacobian_max": "The warp changes the volume {value:.0f}-fold somewhere: go to the largest expansion.",
        "consistency_p95": "Going there and back misses by {value:.1f} mm (95th percentile).",
        "mean_dice": "The structures overlap little (mean Dice {value:.2f}).",
        "tre_mean": "The landmarks are missed by {value:.1f} mm on average.",
        "tre_max": "One landmark is missed by {value:.1f} mm.",
    }
    by_key = {row.key: row for row in rows}
    for key, sentence in sentences.items():
        row = by_key.get(key)
        if row is not None and row.value is not None:
            status = OK if key == "mean_dice" and row.status == LOOK else row.status  # fine structures never reach 0.8
            yield Reason(status, key, sentence.format(value=row.value), row.value)
    before, after = value_of(rows, "nmi_before"), value_of(rows, "nmi_after")
    if before is not None and after is not None:
        lost = (before - after) / max(before - 1, 1e-9)
        yield Reason(LESS_ALIKE.status(lost), "similarity", "The images are less alike than before the registration "
                     f"(mutual information {before:.3f} before, {after:.3f} after).", lost)


def disagreement_checks(value: float | None) -> Iterator[Reason]:
    """Whether another lambda gives another result."""
    if value is not None:
        status = TOLERANCES["disagreement_p95"].status(value)
        yield Reason(status, "disagreement", f"Lambda 0.3 and lambda 0.7 lead to places {value:.1f} mm apart (95th "
                     "percentile): the images do not say where things belong.", value)


def disagreement_mm(first: sitk.Transform, second: sitk.Transform, case: Case) -> float:
    """95th percentile of the distance in mm between where two fixed-to-moving transforms take the fixed foreground.

    Meant for the results with lambda 0.3 and 0.7: ``result.with_regularization(0.3).fixed_to_moving`` and so on.
    """
    grid = checks.working_grid(case)
    inside = sitk.GetArrayFromImage(apply(sitk.Transform(3, sitk.sitkIdentity), case.foreground, grid, "nearest")) != 0
    fields = [sitk.GetArrayFromImage(to_displacement_field(t, grid))[inside] for t in (first, second)]
    return float(np.percentile(np.linalg.norm(fields[0] - fields[1], axis=-1), 95))
