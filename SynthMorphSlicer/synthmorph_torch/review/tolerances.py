"""How large a measure may be before one has to look, or to refuse: data, with where each number comes from.

TG-132 is the report of the American Association of Physicists in Medicine on the use of image registration in
radiotherapy (Brock et al., Medical Physics 44(7), e43-e76, 2017, doi:10.1002/mp.12256). It asks for a target
registration error of 2 mm on average and 5 mm at most (as restated by Latifi et al., Journal of Applied Clinical
Medical Physics 19(4), 125-133, 2018, doi:10.1002/acm2.12348), for distances to agreement and a consistency within the
uncertainty of contouring or the largest voxel dimension, about 2 to 3 mm, for a Dice coefficient of about 0.8 to 0.9,
and for a Jacobian determinant without negative values. Where it gives none, the number is ours and says so.
"""
from __future__ import annotations

import math
from dataclasses import dataclass

OK, LOOK, BAD, NONE = "ok", "look", "bad", ""
TG132, OURS = "AAPM TG-132", "SynthMorphSlicer"


@dataclass(frozen=True)
class Tolerance:
    """Up to ``good`` a value is ok; beyond ``bad`` it is bad; between them one has to look.

    If ``good`` is above ``bad``, higher is better.
    """

    good: float
    bad: float
    unit: str = ""
    source: str = OURS

    def status(self, value: float | None) -> str:
        """"ok", "look" or "bad"; "" for a value that is not known."""
        if value is None or not math.isfinite(value):
            return NONE
        sign = -1 if self.good > self.bad else 1
        return OK if sign * value <= sign * self.good else LOOK if sign * value <= sign * self.bad else BAD

    @property
    def text(self) -> str:
        """For the table: "≤ 2 mm, bad above 3 mm"."""
        unit = f" {self.unit}" if self.unit else ""
        good, bad, word = ("≥", "below", "") if self.good > self.bad else ("≤", "above", "")
        if self.good == self.bad:
            return f"{good} {self.good:g}{unit}{word}"
        return f"{good} {self.good:g}{unit}, bad {bad} {self.bad:g}{unit}"


TOLERANCES = {
    "dice": Tolerance(0.8, 0.5, source=f"{TG132} (0.8 to 0.9); bad: {OURS}"),
    "mean_distance": Tolerance(2.0, 3.0, "mm", TG132),
    "hd95": Tolerance(5.0, 10.0, "mm"),
    "tre_mean": Tolerance(2.0, 3.0, "mm", TG132),
    "tre_max": Tolerance(5.0, 10.0, "mm", f"{TG132} (5 mm); bad: {OURS}"),
    "folding": Tolerance(0.0, 0.1, "%", f"{TG132} (none); bad: {OURS}"),
    "jacobian_min": Tolerance(0.05, 0.0, source=f"{TG132} (not negative)"),
    "jacobian_max": Tolerance(10.0, 50.0),
    "sd_log": Tolerance(0.6, 1.0),
    "consistency_p95": Tolerance(2.0, 3.0, "mm", TG132),
    "disagreement_p95": Tolerance(4.0, 15.0, "mm"),
}
