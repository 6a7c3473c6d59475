"""Many registrations from a table, with one model kept loaded; a failing row does not stop the others."""
from __future__ import annotations

import csv
import io
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import SynthMorphError, UsageError
from .files import write_text
from .outputs import Outputs

if TYPE_CHECKING:
    from .registration import Model

INPUTS = ("moving", "fixed", "init", "labels_in", "fixed_labels")
OUTPUTS = ("moved", "moved_fixed", "transform", "inverse", "labels_out", "jacobian", "log_jacobian", "measures",
           "report")
COLUMNS = INPUTS + OUTPUTS


@dataclass(frozen=True)
class Job:
    """One row of a table."""

    row: int  # line of the table, counted from 1 after the header
    moving: Path
    fixed: Path
    outputs: Outputs
    init: Path | None = None


@dataclass(frozen=True)
class Finished:
    """What became of a job: done, skipped or failed; ``message`` says why it failed or what was done otherwise."""

    job: Job
    status: str
    seconds: float = 0.0
    message: str = ""


def read_table(path: Path, header_only: bool = False) -> list[Job]:
    """Read a CSV whose first line names columns out of :data:`COLUMNS`; ``moving`` and ``fixed`` are needed.

    Relative file names are taken from the folder of the table. Empty cells mean nothing, and lines whose first cell
    starts with # are comments.

    Raises:
        UsageError: an unknown or missing column, a row without images or without anything to write, a file that
        two rows would write. SynthMorphError: the table cannot be read.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8"
        raise SynthMorphError(f"The table '{path}' cannot be read ({reason}): check the file name, or save it as CSV "
                              "in UTF-8.") from error
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    if not lines:
        raise UsageError(f"The table '{path}' is empty: its first line must name the columns, such as "
                         "moving,fixed,moved.")
    delimiter = max(",;\t", key=lines[0].count)
    rows = csv.DictReader(lines, delimiter=delimiter, skipinitialspace=True, restkey="", restval="")
    names = [name.strip() for name in rows.fieldnames or ()]
    rows.fieldnames = names
    for name in names:
        if name not in COLUMNS:
            raise UsageError(f"The table '{path}' has an unknown column '{name}': the columns are "
                             f"{', '.join(COLUMNS)}.")
    for name in ("moving", "fixed"):
        if name not in names:
            raise UsageError(f"The table '{path}' has no column '{name}': its first line must name the columns, such "
                             "as moving,fixed,moved.")
    jobs = [_job(number, row, path, header_only) for number, row in enumerate(rows, 1)]
    if not jobs:
        raise UsageError(f"The table '{path}' has no rows: write one line per registration below the first.")
    _check_clashes(jobs)
    return jobs


def _job(number: int, row: dict[str, Any], table: Path, header_only: bool) -> Job:
    if row.get(""):
        raise UsageError(f"Row {number} of '{table}' has more cells than the table has columns: quote names with "
                         "commas.")
    files = {name: table.parent / value.strip() for name, value in row.items() if value and value.strip()}
    for name in ("moving", "fixed"):
        if name not in files:
            raise UsageError(f"Row {number} of '{table}' names no {name} image: fill in the cell.")
    if ("labels_in" in files) != ("labels_out" in files):
        raise UsageError(f"Row {number} of '{table}' needs both labels_in and labels_out, or neither.")
    labels = [(files["labels_in"], files["labels_out"])] if "labels_in" in files else []
    simple = {name: files.get(name) for name in OUTPUTS if name != "labels_out"}
    outputs = Outputs(labels=labels, fixed_labels=files.get("fixed_labels"), header_only=header_only, **simple)  # type: ignore[arg-type]
    if not outputs.paths() and not outputs.folders():
        raise UsageError(f"Row {number} of '{table}' asks for no output: fill in a column such as moved or transform.")
    return Job(number, files["moving"], files["fixed"], outputs, files.get("init"))


def _check_clashes(jobs: Sequence[Job]) -> None:
    """No two rows may write the same file."""
    owners: dict[Path, int] = {}
    for job in jobs:
        for path in [path for path, _ in job.outputs.paths()] + job.outputs.folders():
            if (other := owners.setdefault(path.resolve(), job.row)) != job.row:
                raise UsageError(f"Rows {other} and {job.row} would both write '{path}': give every output its own "
                                 "name.")


def run(jobs: Sequence[Job], load: Callable[[], Model], settings: dict[str, Any], overwrite: bool = False,
        report: Callable[[Finished], None] | None = None, progress: Callable[[str, float], None] | None = None
        ) -> list[Finished]:
    """Run jobs one after the other.

    Args:
        jobs: rows of a table.
        load: makes the model; called once, when the first job needs it.
        settings: arguments of :meth:`Model.register` for all jobs.
        overwrite: run jobs whose outputs exist already, too.
        report: called after every job.
        progress: called with the name of a stage and the fraction of all work done before it.
    """
    finished: list[Finished] = []
    model: Model | None = None
    for number, job in enumerate(jobs):
        def inner(stage: str, done: float, number: int = number) -> None:
            if progress:
                progress(f"row {number + 1} of {len(jobs)}: {stage}", (number + done) / len(jobs))

        if not overwrite and job.outputs.exist():
            outcome = Finished(job, "skipped", message="all outputs exist")
        else:
            model = model or load()  # whatever is wrong here is wrong for every row
            outcome = _run_job(job, model, settings, inner)
        finished.append(outcome)
        if report:
            report(outcome)
    return finished


def _run_job(job: Job, model: Model, settings: dict[str, Any], progress: Callable[[str, float], None]) -> Finished:
    from . import images, transforms

    started = time.perf_counter()
    try:
        for folder in {path.parent for path, _ in job.outputs.paths()}:
            folder.mkdir(parents=True, exist_ok=True)
        job.outputs.check(settings.get("transform", "joint"))
        moving, fixed = (images.check_image(images.read_image(path), f"'{path}'") for path in (job.moving, job.fixed))
        labels = job.outputs.read_labels(moving)
        initial = None if job.init is None else transforms.matrix_of(transforms.read_transform(job.init))
        result = model.register(moving, fixed, initial=initial, **settings,
                                progress=lambda stage, done: progress(stage, 0.8 * done))
        job.outputs.write(result, labels, lambda stage, done: progress(stage, 0.8 + 0.2 * done))
    except (SynthMorphError, OSError, MemoryError, RuntimeError, ValueError) as error:
        text = " ".join(str(error).split()) or type(error).__name__
        return Finished(job, "failed", time.perf_counter() - started, text[:500])
    return Finished(job, "done", time.perf_counter() - started, " ".join(result.notes))


def check_extensions(jobs: Sequence[Job], transform: str) -> None:
    """Refuse a table with an output that no row could ever write.

    Raises:
        UsageError: an unsuitable extension or combination of options; places are looked at when their row's turn comes.
    """
    for job in jobs:
        try:
            job.outputs.check(transform)
        except UsageError as error:
            raise UsageError(f"Row {job.row}: {error}") from None
        except SynthMorphError:
            continue  # a missing folder is made later


def write_summary(path: Path, finished: Sequence[Finished]) -> None:
    """Write a CSV with the fate of every row."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["row", "moving", "fixed", "status", "seconds", "message"])
    for f in finished:
        writer.writerow([f.job.row, f.job.moving, f.job.fixed, f.status, f"{f.seconds:.1f}", f.message])
    write_text(path, buffer.getvalue())
