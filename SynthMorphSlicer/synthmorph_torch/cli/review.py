"""``synthmorph review``: judge a saved result, write its report, sign it."""
from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import UsageError
from .computing import add_computing_options, check_computing, prepare
from .parser import PROGRAM, Parser, open_interval, positive_number, whole_number
from .progress import ProgressBar

if TYPE_CHECKING:
    import SimpleITK as sitk

    from ..registration import Registration
    from ..review import Case, Review, SweepPoint

DESCRIPTION = """\
Judge a registration that was saved with 'register --result': measures with their tolerances (AAPM TG-132), a verdict
with reasons, the places to look at first, landmarks, and a report that can be printed."""

EPILOG = f"""\
The verdict is good, look closely, or failed. It never proves that a registration is right.

examples
  {PROGRAM} register --result result moving.nii.gz fixed.nii.gz
  {PROGRAM} review result --report report.html
  {PROGRAM} review result --landmarks fixed.mrk.json moving.mrk.json --correct corrected
  {PROGRAM} review result --sweep 0.2 --sweep 0.5 --sweep 0.8 --report report.html
  {PROGRAM} review result --accept AB --comment "ventricles checked"

A report consists of the page and, beside it, a table of the same name that ends in .csv."""


def add_arguments(parser: Parser) -> None:
    parser.add_argument("result", metavar="RESULT_DIR", type=Path, help="folder written by 'register --result'")
    parser.add_argument("--report", metavar="OUT.html", type=Path, help="write one page with everything, and a .csv")
    parser.add_argument("--json", metavar="OUT.json", type=Path, help="write measures, verdict and places as JSON")
    parser.add_argument("--mask", metavar="IMAGE", type=Path,
                        help="measure only where this image of the fixed space is not 0 (default: the head or brain)")
    parser.add_argument("--whole", action="store_true", help="measure in the whole field of view of the fixed image")
    parser.add_argument("--label", metavar="N", type=whole_number(1, 17),
                        help="measure only inside this label of --mask")
    parser.add_argument("--spots", metavar="N", type=whole_number(1, 3), default=1,
                        help="how many places of each kind to name (default: 1)")
    parser.add_argument("--landmarks", metavar=("FIXED", "MOVING"), nargs=2, type=Path,
                        help="corresponding points in the same order: .mrk.json, .fcsv or .csv")
    parser.add_argument("--correct", metavar="DIR", type=Path,
                        help="bend the result near the landmarks so that it meets them, and save it as a new result")
    parser.add_argument("--radius", metavar="MM", type=positive_number, default=40.0,
                        help="how far a landmark has influence with --correct (default: 40)")
    parser.add_argument("--sweep", metavar="LAMBDA", type=open_interval, action="append", default=[],
                        help="register again with this lambda and compare; may be repeated")
    parser.add_argument("--disagreement", action="store_true",
                        help="register again with lambda 0.3 and 0.7, and see whether the results agree")
    parser.add_argument("--accept", metavar="INITIALS", help="sign the result as accepted")
    parser.add_argument("--reject", metavar="INITIALS", help="sign the result as rejected")
    parser.add_argument("--comment", metavar="TEXT", default="", help="goes with the signature")
    add_computing_options(parser)


def run(options: argparse.Namespace) -> int:
    _check(options)
    from .. import files, review
    from ..review import folder, landmarks, report, signature

    case = review.read_result(options.result)
    if options.landmarks:
        case.landmarks = landmarks.read_pairs(*options.landmarks)
    if options.correct and not case.landmarks:
        raise UsageError("--correct needs landmarks: add --landmarks FIXED MOVING.")
    mask, name = region(options, case)
    kept, written = options.result / signature.FILE, []
    signatures = signature.read_signatures(kept)
    with ProgressBar("reviewing") as bar:
        points, disagreement = _again(options, case, bar)
        if options.accept or options.reject:
            decision = signature.ACCEPTED if options.accept else signature.REJECTED
            signatures = signature.add_signature(kept, signature.Signature.now(
                decision, options.accept or options.reject, options.comment,
                signature.digest(options.result / folder.FORWARD)))
            written.append(kept)
        found = review.examine(case, mask, name, options.spots, disagreement, signatures, points, progress=bar)
        if options.report:
            written += report.write_report(found, options.report, f"Registration report: {options.result.name}")
        if options.json:
            files.write_text(options.json, json.dumps(found.as_dict(), indent=2) + "\n")
            written.append(options.json)
    _tell(found)
    if options.correct:
        written.append(_correct(case, options.correct, options.radius))
    for path in written:
        print(f"Wrote {path}")
    return 0


def region(options: argparse.Namespace, case: Case) -> tuple[sitk.Image | None, str]:
    """The mask that --mask, --label or --whole asks for, and what to call it; None for the default."""
    from .. import images

    if options.whole:
        return images.foreground(case.fixed) * 0 + 1, "the whole fixed image"
    if options.mask is None:
        return None, ""
    if options.label:
        return images.read_labels(options.mask) == options.label, f"label {options.label} of {options.mask.name}"
    return images.read_image(options.mask), options.mask.name


def _check(options: argparse.Namespace) -> None:
    """Find out now what would go wrong later."""
    from .. import files
    from ..review.folder import check_result_folder

    check_computing(options)
    if options.accept and options.reject:
        raise UsageError("A result is accepted or rejected, not both: leave out --accept or --reject.")
    if options.comment and not (options.accept or options.reject):
        raise UsageError("--comment belongs to a signature: add --accept or --reject.")
    if options.label and not options.mask:
        raise UsageError("--label chooses a label of a mask: add --mask.")
    if options.whole and options.mask:
        raise UsageError("--whole and --mask name different regions: leave out one of them.")
    for path, kind in ((options.report, "html"), (options.json, "json")):
        if path:
            files.check_output_path(path, kind)
    if options.correct:
        check_result_folder(options.correct)


def _again(options: argparse.Namespace, case: Case, bar: ProgressBar) -> tuple[list[SweepPoint], float | None]:
    """Register again where other lambdas are asked for."""
    if not (options.sweep or options.disagreement):
        return [], None
    from .. import review

    bar("loading the model", 0.0)
    result = register_again(options, case, bar)
    points = review.sweep(result, options.sweep, case.moving_labels, case.fixed_labels, bar) if options.sweep else []
    disagreement = None
    if options.disagreement:
        first, second = (result.with_regularization(value).fixed_to_moving for value in (0.3, 0.7))
        disagreement = review.disagreement_mm(first, second, case)
    return points, disagreement


def register_again(options: argparse.Namespace, case: Case, bar: ProgressBar) -> Registration:
    """The registration of a saved result, with the settings that it was made with."""
    settings = {key: case.provenance[key] for key in ("transform", "regularization", "steps", "extent", "refine")
                if key in case.provenance}
    if settings.get("transform") not in ("joint", "deform"):
        raise UsageError("This result has no warp, hence no lambda to choose: leave out --sweep and --disagreement.")
    if settings["transform"] == "deform":
        from .. import transforms

        initial = transforms.linear_part(case.forward)
        return prepare(options, "deform").register(case.moving, case.fixed, initial=initial, progress=bar, **settings)
    return prepare(options, "joint").register(case.moving, case.fixed, progress=bar, **settings)


def _tell(found: Review) -> None:
    """The short answer, for a person at the terminal."""
    print(f"Verdict: {found.verdict.word}. {found.verdict.headline}")
    for reason in found.verdict.reasons:
        print(f"  {reason.status:<5} {reason.sentence}")
    for row in found.table:
        if row.status in ("look", "bad") and row.value is not None:
            print(f"  {row.status:<5} {row.name}: {row.value:.3g} {row.unit} (tolerance {row.tolerance})")
    for spot in found.spots:
        print(f"  {spot.name}: {spot.text} at RAS {', '.join(f'{round(v, 1) + 0.0:.1f}' for v in spot.ras)} mm")


def _correct(case: Case, target: Path, radius: float) -> Path:
    """Save a corrected copy of the result; the result itself stays as it is."""
    import dataclasses

    from ..errors import TransformError
    from ..review import folder, landmarks

    if case.backward is None or case.landmarks is None:
        raise TransformError("The result has no opposite transform, which a correction needs: register again with "
                             "--result.")
    fixed = landmarks.correct(case.forward, case.backward, case.landmarks, radius)
    print(f"Landmarks: {fixed.errors_before.mean():.2f} mm on average before, {fixed.errors_after.mean():.2f} mm after "
          f"the correction (smallest Jacobian {fixed.smallest_jacobian:.2f}).")
    made = {**case.provenance, "corrected": f"by {len(case.landmarks)} landmarks within {radius:g} mm"}
    return folder.write_case(dataclasses.replace(case, forward=fixed.forward, backward=fixed.backward,
                                                 provenance=made), target)
