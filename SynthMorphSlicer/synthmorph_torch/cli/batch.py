"""``synthmorph batch``: many registrations from a table."""
from __future__ import annotations

import argparse
from collections import Counter
from pathlib import Path

from ..errors import UsageError
from ..outputs import check_folder
from .computing import (
    add_computing_options,
    add_registration_options,
    check_computing,
    prepare,
    registration_settings,
)
from .parser import PROGRAM, Parser
from .progress import ProgressBar

DESCRIPTION = """\
Register the pairs listed in a table, with the model loaded once. The first line of the CSV names its columns:

  moving, fixed                            images (needed)
  init, labels_in, fixed_labels            further inputs
  moved, moved_fixed, transform, inverse,  outputs, at least one of them
  labels_out, jacobian, log_jacobian, measures, report

File names are relative to the folder of the table. A row that fails is reported and the others go on. Rows whose
outputs exist are skipped, so an interrupted batch continues when it is started again."""

EPILOG = f"""\
example
  moving,fixed,moved,transform
  s01_flair.nii.gz,s01_t1.nii.gz,out/s01_moved.nii.gz,out/s01_warp.nii.gz
  s02_flair.nii.gz,s02_t1.nii.gz,out/s02_moved.nii.gz,out/s02_warp.nii.gz

  {PROGRAM} batch pairs.csv -r 0.3 --summary done.csv"""


def add_arguments(parser: Parser) -> None:
    parser.add_argument("table", metavar="TABLE.csv", type=Path, help="what to register, one pair per row")
    parser.add_argument("--overwrite", action="store_true", help="run rows whose outputs exist already, too")
    parser.add_argument("--summary", metavar="FILE.csv", type=Path, help="write what became of every row")
    parser.add_argument("-H", dest="header_only", action="store_true",
                        help="change the header of moved images instead of resampling; affine and rigid only")
    add_registration_options(parser)
    add_computing_options(parser)


def run(options: argparse.Namespace) -> int:
    from .. import batch

    check_computing(options)
    if options.summary:
        if options.summary.suffix != ".csv":
            raise UsageError(f"'{options.summary}' should end in .csv, the format that is written.")
        check_folder(options.summary.parent)
    jobs = batch.read_table(options.table, options.header_only)
    batch.check_extensions(jobs, options.transform)
    if options.mid_space and not all(job.init for job in jobs):
        raise UsageError("-M shares an initial transform between the images: fill in the column init of every row.")
    settings = {**registration_settings(options), "mid_space": options.mid_space}
    with ProgressBar("batch") as bar:
        def report(finished: batch.Finished) -> None:
            seconds = f" in {finished.seconds:.1f} s" if finished.status != "skipped" else ""
            message = f": {finished.message}" if finished.message else ""
            bar.write(f"Row {finished.job.row}: {finished.status}{seconds}{message}")

        finished = batch.run(jobs, lambda: prepare(options, options.transform), settings, options.overwrite, report,
                             bar)
    count = Counter(f.status for f in finished)
    print(f"{count['done']} done, {count['skipped']} skipped, {count['failed']} failed.")
    if options.summary:
        batch.write_summary(options.summary, finished)
        print(f"Wrote {options.summary}")
    return 1 if count["failed"] else 0
