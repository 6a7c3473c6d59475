"""The review workbench without its screen: measures, places to go to, a verdict, landmarks, a signature, a report.

    from synthmorph_torch import review
    case = review.Case.of(registration, moving_labels=labels, fixed_labels=truth)
    found = review.examine(case)
    found.verdict.word, found.table, found.spots
    review.write_report(found, "report.html")

Everything works on SimpleITK images and transforms in LPS millimetres and needs PyTorch, numpy and SimpleITK only.
"""
from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import SimpleITK as sitk

from ..quality import json_ready
from .case import Case
from .folder import read_result, write_case, write_result
from .hotspots import HotSpot, hot_spots
from .landmarks import Correction, Landmarks, correct, errors, read_points
from .measures import Measure, compare, table
from .report import write_report
from .signature import Signature, add_signature, read_signatures
from .sweep import SweepPoint, sweep
from .verdict import Verdict, disagreement_mm, is_doubtful, judge

__all__ = ["Case", "Correction", "HotSpot", "Landmarks", "Measure", "Review", "Signature", "SweepPoint", "Verdict",
           "add_signature", "compare", "correct", "disagreement_mm", "errors", "examine", "hot_spots", "is_doubtful",
           "judge", "read_points", "read_result", "read_signatures", "sweep", "table", "write_case", "write_report",
           "write_result"]


@dataclass(frozen=True)
class Review:
    """What was found out about a case, ready for a table, a list and a page."""

    case: Case
    table: list[Measure]
    spots: list[HotSpot]
    verdict: Verdict
    region: str = "the fixed image's foreground"
    signatures: list[Signature] = field(default_factory=list)
    sweep: list[SweepPoint] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """Everything but the images, ready for JSON."""
        return json_ready({**self.verdict.as_dict(), "region": self.region,
                           "measures": [row.as_dict() for row in self.table],
                           "hot_spots": [spot.as_dict() for spot in self.spots],
                           "signatures": [s.as_dict() for s in self.signatures],
                           "sweep": [p.as_dict() for p in self.sweep], "provenance": self.case.provenance})


def examine(case: Case, mask: sitk.Image | None = None, region: str = "", spots: int = 1,
            disagreement: float | None = None, signatures: list[Signature] | None = None,
            sweep: list[SweepPoint] | None = None, progress: Callable[[str, float], None] | None = None) -> Review:
    """Find out all there is about a registration.

    Args:
        case: the registration.
        mask: look only here (any mask in the world of the fixed image); by default in the fixed foreground. The
            verdict is always on the whole.
        region: what to call the mask.
        spots: how many hot spots of each kind.
        disagreement: 95th percentile in mm between lambda 0.3 and 0.7, from :func:`disagreement_mm`.
        signatures, sweep: to be shown with the rest.
        progress: called with what is being done and the fraction of all work done before it.

    Raises:
        ImageError: the mask is empty on the fixed image.
    """
    tell = progress or (lambda stage, done: None)
    tell("measuring", 0.0)
    rows = table(case, mask)
    tell("looking for hot spots", 0.5)
    places = hot_spots(case, mask, spots)
    tell("judging", 0.7)
    verdict = judge(case, rows if mask is None else table(case), disagreement)
    tell("done", 1.0)
    name = region or ("the fixed image's foreground" if mask is None else "the mask")
    return Review(case, rows, places, verdict, name, signatures or [], sweep or [])
