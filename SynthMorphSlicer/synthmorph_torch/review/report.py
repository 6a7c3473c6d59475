"""The report: one HTML page that needs nothing from outside, and its table as CSV."""
from __future__ import annotations

import base64
import csv
import datetime
import html
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import files
from .chart import curve
from .measures import Measure
from .pictures import Picture, close_ups, pictures

if TYPE_CHECKING:
    from . import Review

NOT_CLINICAL = "This report is not for clinical use: it comes from research software that is no medical device."
MARKS = {"ok": "✓", "look": "!", "bad": "✗", "": ""}
WORDS = {"ok": "within tolerance", "look": "look", "bad": "out of tolerance", "": ""}
CELLS = ("name", "value", "unit", "status", "tolerance", "source", "note")
SETTINGS = {"transform": "Transform", "regularization": "Regularization (lambda)", "steps": "Integration steps",
            "extent": "Extent (mm)", "refine": "Refinement iterations", "one_head": "Two scans of one head",
            "model": "Model", "checksum": "SHA-256 of the weights", "device": "Device"}

STYLE = """
:root { color-scheme: light; --line: #d8dde3; --quiet: #5b6570; --ok: #1b7f4b; --look: #9a6200; --bad: #b3261e; }
* { box-sizing: border-box; }
body { background: #fff; color: #1a1f24; font: 14px/1.45 system-ui, "Segoe UI", "DejaVu Sans", sans-serif;
  margin: 0 auto; max-width: 1120px; padding: 24px; }
h1 { font-size: 24px; margin: 0 0 2px; } h2 { font-size: 17px; margin: 28px 0 8px; }
h3 { font-size: 14px; margin: 18px 0 4px; color: var(--quiet); font-weight: 600; }
p { margin: 4px 0; } .quiet { color: var(--quiet); }
.notice { border: 1px solid var(--bad); color: var(--bad); padding: 6px 12px; border-radius: 4px; margin: 12px 0;
  font-weight: 600; }
.verdict { border-left: 6px solid; padding: 10px 16px; background: #f5f7f9; border-radius: 4px; }
.verdict strong { font-size: 18px; text-transform: capitalize; } .verdict ul { margin: 6px 0 0; padding-left: 20px; }
.verdict.ok { border-color: var(--ok); } .verdict.look { border-color: var(--look); }
.verdict.bad { border-color: var(--bad); }
span.ok { color: var(--ok); } span.look { color: var(--look); } span.bad { color: var(--bad); }
span.mark { display: inline-block; width: 1.2em; font-weight: 700; }
table { border-collapse: collapse; width: 100%; } th { color: var(--quiet); font-weight: 600; }
td, th { padding: 3px 10px 3px 0; text-align: left; border-bottom: 1px solid var(--line); vertical-align: top; }
th.number { text-align: right; }
td.number { font-variant-numeric: tabular-nums; white-space: nowrap; text-align: right; }
td.note, td.small { color: var(--quiet); font-size: 12.5px; }
.panels { display: flex; flex-wrap: wrap; gap: 6px; margin-bottom: 8px; align-items: flex-end; }
figure { margin: 0; flex: 1 1 0; min-width: 110px; } .close figure { flex: 0 0 150px; }
.spots { display: flex; flex-wrap: wrap; gap: 4px 40px; } .spots section { flex: 0 0 310px; break-inside: avoid; }
.seen figure { flex: 1 1 320px; }
figcaption { font-size: 12px; color: var(--quiet); } img { width: 100%; display: block; border-radius: 3px; }
svg { max-width: 460px; width: 100%; }
@media print {
  body { max-width: none; padding: 0; font-size: 10.5pt; } h2 { break-after: avoid; }
  .verdict, figure, .panels, tr { break-inside: avoid; } * { print-color-adjust: exact; }
  .panels { flex-wrap: nowrap; } .close { flex-wrap: wrap; } figure { min-width: 0; }
  @page { size: A4; margin: 14mm; }
}
"""


def write_report(review: Review, path: str | Path, title: str = "Registration report",
                 seen: Sequence[Picture] = ()) -> list[Path]:
    """Write the page, and the table of measures as CSV beside it.

    Args:
        review: what was found out.
        path: file ending in .html; the table has the same name with .csv.
        title: heading of the page.
        seen: further pictures, such as the views as a person sees them in Slicer; they come first.

    Returns:
        Both files.

    Raises:
        UsageError: another extension. SynthMorphError: not writable.
    """
    path = files.check_output_path(path, "html")
    table = files.check_output_path(path.with_suffix(".csv"), "table")
    text = page(review, title, seen)
    files.write_text(table, as_csv(review))
    files.write_text(path, text)
    return [path, table]


def page(review: Review, title: str = "Registration report", seen: Sequence[Picture] = ()) -> str:
    """The page as text."""
    now = datetime.datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z")
    parts = ['<!DOCTYPE html>', '<html lang="en"><head><meta charset="utf-8">',
             '<meta name="viewport" content="width=device-width">', f"<title>{_text(title)}</title>",
             f"<style>{STYLE}</style></head><body>", f"<h1>{_text(title)}</h1>",
             f'<p class="quiet">SynthMorphSlicer, {now}</p>', f'<p class="notice">{NOT_CLINICAL}</p>',
             *_verdict(review), *_signature(review), *_pictures(review, seen), *_spots(review),
             *_tables(review), *_sweep(review), *_provenance(review.case.provenance),
             f'<p class="quiet">{NOT_CLINICAL}</p>', "</body></html>", ""]
    return "\n".join(parts)


def as_csv(review: Review) -> str:
    """The verdict, the table of measures, the hot spots and the signatures as CSV."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["group", *CELLS])
    writer.writerow(["Verdict", "Verdict", review.verdict.word, "", review.verdict.status, "", "",
                     " ".join(r.sentence for r in review.verdict.reasons)])
    for row in review.table:
        value = "" if row.value is None else f"{row.value:.6g}"
        writer.writerow([row.group, row.name, value, *(getattr(row, cell) for cell in CELLS[2:])])
    for spot in review.spots:
        writer.writerow(["Hot spots", spot.name, f"{spot.value:.6g}", spot.unit, "", "", "",
                         "RAS mm " + " ".join(f"{v:.1f}" for v in spot.ras)])
    for signed in review.signatures:
        writer.writerow(["Signature", signed.decision, signed.initials, "", "", "", "",
                         f"{signed.time} {signed.comment}".strip()])
    writer.writerow(["Notice", NOT_CLINICAL, *[""] * 6])
    return buffer.getvalue()


def _verdict(review: Review) -> list[str]:
    verdict = review.verdict
    reasons = "".join(f'<li><span class="{r.status}">{_text(r.sentence)}</span></li>' for r in verdict.reasons)
    return [f'<div class="verdict {verdict.status}"><strong>{_text(verdict.word)}</strong>'
            f"<p>{_text(verdict.headline)}</p>{f'<ul>{reasons}</ul>' if reasons else ''}</div>"]


def _signature(review: Review) -> list[str]:
    if not review.signatures:
        return ['<p class="quiet">Not signed: nobody has accepted or rejected this result yet.</p>']
    *earlier, last = review.signatures
    status = "ok" if last.decision == "accepted" else "bad"
    lines = [f'<p>Signature: <span class="{status}"><b>{_text(last.text)}</b></span></p>']
    return lines + [f'<p class="quiet">Earlier: {_text(one.text)}</p>' for one in reversed(earlier)]


def _pictures(review: Review, seen: Sequence[Picture]) -> list[str]:
    parts = ["<h2>Pictures</h2>"]
    if seen:
        parts += ['<div class="panels seen">', *map(_figure, seen), "</div>"]
    drawn = pictures(review.case)
    for group in dict.fromkeys(picture.group for picture in drawn):
        parts += ['<div class="panels">', *(_figure(p) for p in drawn if p.group == group), "</div>"]
    return [*parts, '<p class="quiet">Axial, coronal and sagittal plane; the patient’s left is on the right. Orange: '
            "outline of the fixed image. Difference: after the moved image was given the grey values of the fixed one. "
            "Volume change: red where the moving image is larger (at most twice), blue where it is smaller (at most "
            "half). Grid: the warp without its affine part, 8 mm apart.</p>"]


def _spots(review: Review) -> list[str]:
    if not review.spots:
        return []
    drawn = close_ups(review.case, review.spots)
    parts = ["<h2>Where to look first</h2>", '<div class="spots">']
    for number, spot in enumerate(review.spots):
        place = ", ".join(f"{round(v, 1) + 0.0:.1f}" for v in spot.ras)
        parts += [f'<section><h3>{_text(spot.name)}</h3><p class="quiet">{_text(spot.text)} at RAS ({place}) mm</p>',
                  '<div class="panels close">', *(_figure(p) for p in drawn if p.group == str(number)),
                  "</div></section>"]
    return [*parts, "</div>"]


def _tables(review: Review) -> list[str]:
    parts = [f"<h2>Measures</h2><p class='quiet'>In {_text(review.region)}. Colours are tolerances of AAPM TG-132 "
             "where it gives one, see the last column.</p>"]
    for group in dict.fromkeys(row.group for row in review.table):
        parts += [f"<h3>{_text(group)}</h3>", _table([row for row in review.table if row.group == group])]
    return parts


def _table(rows: Iterable[Measure]) -> str:
    lines = ['<table class="measures"><tr><th>Measure</th><th></th><th class="number">Value</th><th></th>'
             "<th>Tolerance</th></tr>"]
    for row in rows:
        value = "–" if row.value is None else number(row.value)
        mark = f'<span class="mark {row.status}" title="{WORDS[row.status]}">{MARKS[row.status]}</span>'
        limit = f"{row.tolerance} ({row.source})" if row.tolerance else ""
        note = f'<br><span class="quiet">{_text(row.note)}</span>' if row.note else ""
        lines.append(f'<tr><td>{_text(row.name)}{note}</td><td>{mark}</td><td class="number">{value}</td>'
                     f'<td>{_text(row.unit)}</td><td class="small">{_text(limit)}</td></tr>')
    return "".join([*lines, "</table>"])


def _sweep(review: Review) -> list[str]:
    if not review.sweep:
        return []
    known = [p for p in review.sweep if p.sd_log is not None]
    by_dice = all(p.dice is not None for p in known)
    name = "Mean Dice" if by_dice else "Mutual information (normalised)"
    points = [(float(p.sd_log or 0), float((p.dice if by_dice else p.similarity) or 0), f"λ {p.regularization:g}")
              for p in known]
    rows = "".join(f'<tr><td class="number">{p.regularization:g}</td><td class="number">{_maybe(p.similarity)}</td>'
                   f'<td class="number">{_maybe(p.dice)}</td><td class="number">{_maybe(p.sd_log)}</td>'
                   f'<td class="number">{p.folding}</td></tr>' for p in review.sweep)
    titles = "".join(f'<th class="number">{title}</th>' for title in (
        "Lambda", "Mutual information", "Mean Dice", "SD of log J", "Folding voxels"))
    return ["<h2>Other values of lambda</h2>", curve(points, "SD of log J", name),
            f"<table><tr>{titles}</tr>{rows}</table>"]


def _provenance(provenance: Mapping[str, Any]) -> list[str]:
    if not provenance:
        return []
    rows = [(title, "default" if provenance[key] is None else provenance[key]) for key, title in SETTINGS.items()
            if key in provenance]
    rows += [("Note", note) for note in provenance.get("notes") or ()]
    rows += [(f"Time: {stage}", f"{spent:.1f} s") for stage, spent in (provenance.get("seconds") or {}).items()]
    known = {*SETTINGS, "notes", "seconds"}
    rows += [(key, value) for key, value in provenance.items() if key not in known]
    cells = "".join(f"<tr><td>{_text(name)}</td><td>{_text(value)}</td></tr>" for name, value in rows)
    return ["<h2>How it was made</h2>", f"<table>{cells}</table>"]


def _figure(picture: Picture) -> str:
    data = base64.b64encode(picture.png).decode("ascii")
    caption = _text(picture.caption)
    return (f'<figure><img alt="{caption}" src="data:image/png;base64,{data}"><figcaption>{caption}</figcaption>'
            "</figure>")


def number(value: float) -> str:
    """Three significant digits, whole numbers in full."""
    if value == round(value) and abs(value) < 1e9:
        return f"{value:,.0f}"
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"


def _maybe(value: float | None) -> str:
    return "–" if value is None else f"{value:.4g}"


def _text(value: object) -> str:
    return html.escape(str(value))
