"""One HTML page on a registration: pictures, verdict, numbers, settings. It loads nothing from outside."""
from __future__ import annotations

import base64
import datetime
import html
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import files, montage

if TYPE_CHECKING:
    from .registration import Registration

Row = tuple[str, str, str]  # what, value, what it means

STYLE = """
:root { color-scheme: dark; }
body { background: #101418; color: #e8e8e8; font: 15px/1.5 system-ui, sans-serif; margin: 0 auto; max-width: 1180px;
       padding: 24px; }
h1 { font-size: 24px; margin: 0 0 4px; } h2 { font-size: 18px; margin: 32px 0 8px; color: #ffb347; }
p.quiet { color: #9aa4ae; margin: 0 0 16px; } img { width: 100%; border-radius: 6px; }
.verdict { border-left: 4px solid; padding: 8px 14px; background: #182028; border-radius: 4px; }
.good { border-color: #57c785; } .warn { border-color: #ffb347; } .bad { border-color: #ff6b6b; }
table { border-collapse: collapse; width: 100%; } td, th { padding: 4px 10px 4px 0; text-align: left;
       border-bottom: 1px solid #26303a; vertical-align: top; } td.number { font-variant-numeric: tabular-nums;
       white-space: nowrap; } td.note { color: #9aa4ae; }
"""


def write_report(result: Registration, folder: str | Path, measures: Mapping[str, Any] | None = None) -> Path:
    """Write ``index.html`` and ``montage.png`` into a folder, which is made if need be.

    Args:
        result: the registration.
        folder: where to write.
        measures: what ``result.measures()`` gave, if it has been computed already.

    Returns:
        The path of the page.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    figures = measures or result.measures()
    picture = montage.png(montage.draw(result.fixed, result.moving, result.fixed_to_moving))
    with files.replacing(folder / "montage.png") as temporary:
        temporary.write_bytes(picture)
    page = folder / "index.html"
    files.write_text(page, render(figures, picture))
    return page


def render(measures: Mapping[str, Any], picture: bytes) -> str:
    """The page as text."""
    image = base64.b64encode(picture).decode("ascii")
    kind, verdict = judge(measures)
    now = datetime.datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z")
    parts = [
        "<!DOCTYPE html>", '<html lang="en"><head><meta charset="utf-8"><title>SynthMorph registration</title>',
        f"<style>{STYLE}</style></head><body>", "<h1>Registration report</h1>",
        f'<p class="quiet">{_text(measures.get("transform"))} registration with the {_text(measures.get("model"))} '
        f"model, {now}. Not for clinical use.</p>",
        f'<div class="verdict {kind}">{_text(verdict)}</div>', "<h2>Pictures</h2>",
        f'<img alt="Fixed image, moving image before and after, difference, volume change, warped grid" '
        f'src="data:image/png;base64,{image}">',
        '<p class="quiet">The orange line is the outline of the fixed image. The difference is shown after the moved '
        "image was given the grey values of the fixed one. The grid shows the warp without its affine part. The "
        "patient's left is on the right.</p>",
        "<h2>Measures</h2>", _table(measure_rows(measures)),
    ]
    if labels := measures.get("labels"):
        parts += ["<h2>Labels</h2>", _table(label_rows(labels))]
    parts += ["<h2>How it was made</h2>", _table(setting_rows(measures)), "</body></html>", ""]
    return "\n".join(parts)


def judge(measures: Mapping[str, Any]) -> tuple[str, str]:
    """A colour (good, warn or bad) and one sentence: what to look at before the result is used.

    It never says that a registration is right, because no measure can.
    """
    folding = measures["folding"]
    similarity = measures["similarity"]
    before, after = (similarity[when]["nmi"] for when in ("before", "after"))
    if folding["count"]:
        worst = folding["worst"]["voxel"]
        return "bad", (f"The warp folds at {folding['count']:,} voxels, the worst of them {tuple(worst)}: raise the "
                       "regularization.")
    if before is not None and after is not None and after < before:
        return "bad", "The images are less alike than before the registration: look for a gross failure."
    spread = measures["jacobian"]["sd_log"]
    if spread is not None and spread > 0.6:
        return "warn", (f"The warp changes volumes strongly (SD of log J {spread:.2f}): check that the change is "
                        "anatomical, or raise the regularization.")
    return "good", "The warp does not fold and the images became more alike. Look at the pictures before using it."


def measure_rows(measures: Mapping[str, Any]) -> list[Row]:
    """Rows of the table of measures."""
    folding, jacobian = measures["folding"], measures["jacobian"]
    total, residual = (measures["displacement_mm"][kind] for kind in ("total", "residual"))
    similarity = measures["similarity"]
    rows = [
        ("Folding", f"{folding['count']:,} voxels ({_number(folding['percent'])} %)",
         "voxels of the fixed image where the Jacobian determinant is not positive; should be none"),
        ("Smallest Jacobian", _number((folding["worst"] or {}).get("jacobian")), "over the whole fixed image"),
        ("Jacobian, 1st to 99th percentile", _range(jacobian.get("percentiles")),
         "above 1, the moving image is larger there"),
        ("SD of log Jacobian", _number(jacobian.get("sd_log")), "roughness of the warp; 0 for a pure affine"),
        ("Displacement", f"{_number(total['mean'])} mm, at most {_number(total['max'])} mm",
         "mean over the fixed foreground"),
        ("Displacement beyond affine", f"{_number(residual['mean'])} mm, at most {_number(residual['max'])} mm", ""),
    ]
    if consistency := measures.get("inverse_consistency_mm"):
        rows.append(("Inverse consistency",
                     f"{_number(consistency['mean'])} mm, at most {_number(consistency['max'])} mm",
                     "by how much going there and back misses"))
    for key, name, note in (("nmi", "Mutual information (normalised)", "1 unrelated, 2 identical; for any contrast"),
                            ("ncc", "Correlation", "meaningful for like contrasts only")):
        rows.append((name, f"{_number(similarity['before'][key])} → {_number(similarity['after'][key])}",
                     f"before ({similarity['before_is']}) and after; {note}"))
    return rows


def label_rows(labels: Mapping[str, Any]) -> list[Row]:
    """Rows of the table of label agreement."""
    rows = [("Mean Dice", f"{_number(labels.get('mean_dice_before'))} → {_number(labels.get('mean_dice'))}",
             "before and after; 1 is perfect"),
            ("Mean 95 % surface distance", f"{_number(labels.get('mean_hd95_mm'))} mm", "")]
    for label, entry in labels["per_label"].items():
        distance = entry.get("hd95_mm")
        rows.append((f"Label {label}", _number(entry["dice"]), "" if distance is None else f"{distance:.1f} mm (95 %)"))
    return rows


def setting_rows(measures: Mapping[str, Any]) -> list[Row]:
    """Rows of the table of settings and times."""
    names = {"transform": "Transform", "regularization": "Regularization (lambda)", "steps": "Integration steps",
             "extent": "Extent (mm)", "refine": "Refinement iterations", "model": "Model",
             "checksum": "SHA-256 of the weights", "device": "Device"}
    rows = [(title, "default" if measures.get(key) is None else str(measures[key]), "") for key, title in names.items()
            if key in measures]
    rows += [("Note", str(note), "") for note in measures.get("notes") or ()]
    seconds = measures.get("seconds") or {}
    return rows + [(f"Time: {stage}", f"{spent:.1f} s", "") for stage, spent in seconds.items()]


def _table(rows: list[Row]) -> str:
    cells = "".join(f'<tr><td>{_text(name)}</td><td class="number">{_text(value)}</td>'
                    f'<td class="note">{_text(note)}</td></tr>' for name, value, note in rows)
    return f"<table>{cells}</table>"


def _text(value: object) -> str:
    return html.escape(str(value))


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3g}" if abs(value) < 100 else f"{value:,.0f}"


def _range(percentiles: Mapping[str, float] | None) -> str:
    return "–" if not percentiles else f"{_number(percentiles['1'])} to {_number(percentiles['99'])}"
