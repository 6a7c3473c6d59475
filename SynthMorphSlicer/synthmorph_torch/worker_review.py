"""What the worker does for the review workbench: examine, report, correct by landmarks, move again, sweep lambda.

The registration may be of this process, of an earlier one, or of a scene that was opened: the other side sends images
and transform as files (see :mod:`.protocol`), and whatever was found out is kept for the report that usually follows.
"""
from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from .protocol import Message

if TYPE_CHECKING:
    import SimpleITK as sitk

    from .geometry import Matrix, Space
    from .registration import Registration
    from .review import Case, Landmarks, Review

    Report = Callable[..., None]


class Reviewer:
    """Examines cases; keeps the last finding under the key it was asked with."""

    def __init__(self) -> None:
        self.found: Review | None = None
        self.key = ""

    def review(self, request: Message, registration: Registration | None, report: Report) -> Message:
        """The table, the verdict and the hot spots of a case, ready for JSON."""
        return {"review": self.examine(request, registration, report).as_dict()}

    def report(self, request: Message, registration: Registration | None, report: Report) -> Message:
        """Write the page and its CSV; a case that was just examined is not examined again."""
        from .review import Signature, SweepPoint, write_report
        from .review.pictures import Picture
        found = self.examine(request, registration, report, share=0.7)
        signatures = [Signature(**one) for one in request.get("signatures") or ()]
        points = [SweepPoint(**one) for one in request.get("sweep") or ()]
        found = dataclasses.replace(found, signatures=signatures, sweep=points)
        seen = [Picture(one["caption"], Path(one["path"]).read_bytes()) for one in request.get("seen") or ()]
        report("writing the report", 0.7)
        written = write_report(found, request["path"], request.get("title") or "Registration review", seen)
        return {"files": [str(path) for path in written]}

    def examine(self, request: Message, registration: Registration | None, report: Report, share: float = 1.0
                ) -> Review:
        """The finding on a request's case."""
        from . import images, review
        if self.found is not None and self.key and self.key == request.get("key"):
            return self.found
        self.found, self.key = None, ""
        report("reading the images", 0.0)
        case = read_case(request["case"], registration)
        mask = images.read_labels(request["mask"]) if request.get("mask") else None
        disagreement, start = None, 0.1
        if request.get("disagreement") and registration is not None and registration.mid is not None:
            disagreement = _disagreement(registration, case, lambda stage, done: report(stage, 0.1 + 0.4 * done))
            start = 0.5
        self.found = review.examine(
            case, mask, request.get("region") or "", int(request.get("spots") or 1), disagreement,
            progress=lambda stage, done: report(stage, share * (start + (1 - start) * done)))
        self.key = request.get("key") or ""
        return self.found


def _disagreement(registration: Registration, case: Case, progress: Callable[[str, float], None]) -> float:
    """How far apart lambda 0.3 and 0.7 take the fixed foreground, mm."""
    from .review import disagreement_mm

    def transform(number: int, value: float) -> sitk.Transform:
        return registration.with_regularization(value, lambda stage, done: progress(
            f"lambda {value:g}: {stage}", (number + done) / 2)).fixed_to_moving

    return disagreement_mm(transform(0, 0.3), transform(1, 0.7), case)


def read_case(told: Message, registration: Registration | None) -> Case:
    """The case that a message tells of.

    Args:
        told: ``fixed``, ``moving`` and ``forward`` are files; ``last`` says that ``forward`` is what the last
            registration gave, whose opposite is then known, too; ``moving_labels`` and ``fixed_labels`` are files with
            the same numbers for the same structures, ``names`` their names; ``landmarks`` and ``provenance``.
        registration: the last one.
    """
    from . import images, transforms
    from .review import Case
    labels = {key: images.read_labels(told[key]) for key in ("moving_labels", "fixed_labels") if told.get(key)}
    moving, fixed = (images.read_image(told[key]) for key in ("moving", "fixed"))
    forward = transforms.read_transform(told["forward"])
    backward = registration.moving_to_fixed if told.get("last") and registration is not None else None
    return Case(forward, backward, moving, fixed, **labels, landmarks=read_pairs(told.get("landmarks")),
                names={int(label): name for label, name in (told.get("names") or {}).items()},
                provenance=told.get("provenance") or {})


def read_pairs(told: Message | None) -> Landmarks | None:
    """Pairs of points (LPS mm) from a message; None if there are none."""
    from .review import Landmarks
    if not told or not told["fixed"]:
        return None
    return Landmarks.pair(told["fixed"], told["moving"], tuple(told.get("names") or ()))


def correct(request: Message, report: Report) -> tuple[sitk.Transform, Message]:
    """A transform bent to meet landmarks, as one displacement field and an affine part, and what it does to them.

    ``forward`` and ``backward`` are files; ``landmarks`` the pairs; ``radius`` how far each has influence, mm.
    """
    from . import transforms
    from .errors import UsageError
    from .review import correct as bend
    from .review import errors
    report("correcting", 0.1)
    forward, backward = (transforms.read_transform(request[key]) for key in ("forward", "backward"))
    pairs = read_pairs(request["landmarks"])
    if pairs is None:
        raise UsageError("There are no landmarks to correct by: place at least one pair.")
    bent = bend(forward, backward, pairs, float(request.get("radius") or 40.0))
    report("joining the correction", 0.5)
    joined = _joined(bent.forward, forward)
    return joined, {"errors_before": bent.errors_before.tolist(), "errors_after": errors(joined, pairs).tolist(),
                    "smallest_jacobian": bent.smallest_jacobian}


def _joined(bent: sitk.Transform, forward: sitk.Transform) -> sitk.Transform:
    """A corrected transform as ``A (p + r(p))`` with the affine part of the old one.

    Files and viewers know two parts; a third would not come back from every reader as it was.
    """
    import numpy as np
    import SimpleITK as sitk

    from . import transforms
    grid, affine = _grid_and_affine(bent, forward)
    index = np.stack(np.meshgrid(*map(np.arange, grid.shape), indexing="ij"), -1)
    points = grid.to_world(index)
    there = points + sitk.GetArrayFromImage(transforms.to_displacement_field(bent, grid)).transpose(2, 1, 0, 3)
    inverse = np.linalg.inv(affine)
    residual = there @ inverse[:3, :3].T + inverse[:3, 3] - points
    return transforms.residual_transform(np.moveaxis(residual, -1, 0), grid, affine)


def _grid_and_affine(bent: sitk.Transform, forward: sitk.Transform) -> tuple[Space, Matrix]:
    """The grid of the old residual field, or of the correction if there was none, and the affine part."""
    import numpy as np
    import SimpleITK as sitk

    from . import transforms
    from .geometry import Space
    linear = transforms.linear_part(forward)
    parts = _parts(bent if forward.IsLinear() else forward)
    field = next(part for part in parts if not part.IsLinear())
    return (Space.of(sitk.DisplacementFieldTransform(field).GetDisplacementField()),
            np.eye(4) if linear is None else linear)


def _parts(transform: sitk.Transform) -> list[sitk.Transform]:
    import SimpleITK as sitk
    if transform.GetName() != "CompositeTransform":
        return [transform]
    composite = sitk.CompositeTransform(transform)
    return [composite.GetNthTransform(n).Downcast() for n in range(composite.GetNumberOfTransforms())]


def sweep(request: Message, registration: Registration, report: Report) -> Message:
    """Other lambdas of the last registration: a point each, without the images."""
    from . import images
    from .review import sweep as try_all
    labels = {key: images.read_labels(request[key]) for key in ("moving_labels", "fixed_labels") if request.get(key)}
    points = try_all(registration, request["lambdas"], progress=lambda stage, done: report(stage, done), **labels)
    return {"points": [point.as_dict() for point in points]}
