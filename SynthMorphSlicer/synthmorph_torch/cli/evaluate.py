"""``synthmorph evaluate``: how well does a model carry labels from person to person?"""
from __future__ import annotations

import argparse
import csv
import io
import json
from pathlib import Path
from typing import Any

from ..errors import UsageError
from ..files import write_text
from ..outputs import check_folder
from .computing import (
    add_computing_options,
    add_registration_options,
    check_computing,
    prepare,
    registration_settings,
)
from .parser import PROGRAM, Parser, number
from .progress import ProgressBar

DESCRIPTION = """\
Register every ordered pair of labelled people in a folder and compare the propagated labels with the true ones: Dice
per structure, folding, SD of the log Jacobian, seconds."""

EPILOG = f"""\
example
  {PROGRAM} evaluate --data people/ --images _t1.nii.gz --labels _labels.nii.gz --out scores.csv"""

FORMATS = (".csv", ".json", ".md")


def add_arguments(parser: Parser) -> None:
    parser.add_argument("--data", metavar="DIR", type=Path, required=True, help="folder of images and label maps")
    parser.add_argument("--images", metavar="SUFFIX", default="_t1.nii.gz",
                        help="ending of images (default: _t1.nii.gz)")
    parser.add_argument("--labels", metavar="SUFFIX", default="_glm.nii.gz",
                        help="ending of their label maps (default: _glm.nii.gz)")
    parser.add_argument("--label-table", metavar="TABLE.csv", type=Path,
                        help="which labels make a structure; columns scheme, label, common_id, common_name, core "
                             "(default: every label by itself)")
    parser.add_argument("--scheme", metavar="NAME", help="which rows of --label-table to use")
    parser.add_argument("--rotate", metavar="DEGREES", type=number, default=0.0, help="turn the moving images first")
    parser.add_argument("--shift", metavar="MM", type=number, default=0.0, help="shift the moving images first")
    parser.add_argument("--out", metavar="FILE", type=Path, help="write the scores to a .csv, .json or .md file")
    add_registration_options(parser)
    add_computing_options(parser)


def run(options: argparse.Namespace) -> int:
    check_computing(options)
    if options.mid_space:
        raise UsageError("-M needs an initial transform, which an evaluation does not have: leave it out.")
    if bool(options.label_table) != bool(options.scheme):
        raise UsageError("--label-table and --scheme belong together: give both or none.")
    if options.out:
        if options.out.suffix not in FORMATS:
            raise UsageError(f"'{options.out}' is no table: use a name ending in .csv, .json or .md.")
        check_folder(options.out.parent)
    from ..training import evaluate

    people = evaluate.find_people(options.data, options.images, options.labels)
    structures = evaluate.Structures.read(options.label_table, options.scheme) if options.label_table else None
    model = prepare(options, options.transform)
    print(model.reason)
    settings = registration_settings(options)
    total, done = len(people) * (len(people) - 1), 0
    with ProgressBar("evaluating") as bar:
        def report(line: str) -> None:
            nonlocal done
            done += 1
            bar.write(line)
            bar(f"{done} of {total}", done / total)

        rows = evaluate.evaluate(model, people, structures, options=settings, rotate=options.rotate,
                                 shift=options.shift, report=report)
    table = evaluate.to_markdown(rows)
    print(table, end="")
    if options.out:
        write_text(options.out, _as_text(rows, options.out.suffix, table))
        print(f"Wrote {options.out}")
    return 0


def _as_text(rows: list[dict[str, Any]], suffix: str, markdown: str) -> str:
    if suffix == ".md":
        return markdown
    if suffix == ".json":
        return json.dumps(rows, indent=2) + "\n"
    flat = [{**{k: v for k, v in row.items() if k != "dice"}, **row["dice"]} for row in rows]
    names = list(dict.fromkeys(name for row in flat for name in row))
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(flat)
    return buffer.getvalue()
