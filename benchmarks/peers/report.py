"""Tables and plots of the results."""
from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from . import plots, rigid
from .methods import METHODS
from .results import Key, Row
from .variants import CUTS, VARIANTS

MANUAL = [name for name in VARIANTS if name != "plain"]


class Table:
    """The rows of results by method and variant, with numbers for numbers."""

    def __init__(self, rows: dict[Key, Row]) -> None:
        self.rows = {key: {name: number(value) for name, value in row.items()} for key, row in rows.items()}
        self.methods = [name for name in METHODS if any(key[0] == name for key in rows)]

    def of(self, method: str, variant: str) -> list[Row]:
        """Rows of a method on a variant that ended well."""
        return [row for key, row in self.rows.items() if key[:2] == (method, variant) and row["status"] == "done"]

    def values(self, method: str, variant: str, column: str) -> list[float]:
        return [row[column] for row in self.of(method, variant) if isinstance(row.get(column), float)]

    def tried(self, variant: str) -> list[str]:
        return [name for name in self.methods if any(key[:2] == (name, variant) for key in self.rows)]

    def failed(self) -> list[Row]:
        return [row for row in self.rows.values() if row["status"] != "done"]

    def loss(self, method: str, variant: str) -> float | None:
        """Mean Dice lost against the same method's plain result on the same pairs; cuts: on the same voxels."""
        column = f"mean_dice {variant}" if variant in CUTS else "mean_dice"
        plain = {row["pair"]: row[column] for row in self.of(method, "plain")}
        both = [plain[row["pair"]] - row["mean_dice"] for row in self.of(method, variant) if row["pair"] in plain]
        return float(np.mean(both)) if both else None


def number(value: Any) -> Any:
    try:
        return float(value)
    except (TypeError, ValueError):
        return value


def write(rows: dict[Key, Row], out: Path) -> None:
    """Write results.md and the plots beside the CSV file."""
    table = Table(rows)
    if not table.rows:
        print("There are no results yet.")
        return
    parts = [heading(table), plain(table), structures(table), robustness(table), heads(table), same_person(table, out),
             failures(table)]
    (out / "results.md").write_text("\n\n".join(part for part in parts if part) + "\n", encoding="utf-8")
    written = plots.write(table, out)
    print(f"Wrote {', '.join(str(path) for path in (out / 'results.csv', out / 'results.md', *written))}")


def heading(table: Table) -> str:
    def all_of(column: str) -> list[str]:
        return sorted({str(row[column]) for row in table.rows.values()})

    threads = ", ".join(f"{float(n):.0f}" for n in all_of("threads"))
    versions = []
    for name in table.methods:
        seen = sorted({str(row["version"]) for key, row in table.rows.items() if key[0] == name and row["version"]})
        if seen:
            versions.append(f"{METHODS[name].title} {'/'.join(seen)}")
    return (f"Machine: {'; '.join(all_of('machine'))}. Threads per method: {threads}. Run on {spans(all_of('date'))}.\n"
            f"Versions: {'; '.join(versions)}.")


def spans(dates: Sequence[str]) -> str:
    return dates[0] if len(dates) == 1 else f"{dates[0]} to {dates[-1]}"


def markdown(header: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (header, ["---"] * len(header), *lines))


def figure(values: Sequence[float], text: str = "{:.3f}", of: Callable[[Sequence[float]], Any] = np.mean) -> str:
    return text.format(of(values)) if values else ""


def plain(table: Table) -> str:
    lines = []
    for name in table.tried("plain"):
        def column(key: str, name: str = name) -> list[float]:
            return table.values(name, "plain", key)

        lines.append([METHODS[name].title, str(len(column("mean_dice"))), figure(column("mean_dice")),
                      figure(column("mean_dice"), of=min), figure(column("mean_dice own labels")),
                      figure(column("folding"), "{:.0f}", sum),
                      figure(column("folding_percent"), "{:.4f}"), figure(column("sd_log_jacobian"), "{:.2f}"),
                      figure(column("cpu_seconds"), "{:.0f}"), figure(column("wall_seconds"), "{:.0f}"),
                      figure(column("peak_gib"), "{:.1f}", max)])
    return "### Plain pairs\n\n" + markdown(
        ["method", "pairs", "mean Dice", "worst pair", "labels its own way", "voxels with J <= 0", "J <= 0, %",
         "SD log J", "CPU-seconds", "seconds", "peak GiB"], lines) if lines else ""


def structures(table: Table) -> str:
    methods = table.tried("plain")
    columns = structure_columns(table)
    lines = [[column.removeprefix("dice "), *[figure(table.values(name, "plain", column)) for name in methods]]
             for column in columns]
    return "### Structures, plain pairs\n\n" + markdown(["structure", *[METHODS[n].title for n in methods]], lines
                                                        ) if lines else ""


def structure_columns(table: Table) -> list[str]:
    """Columns with the Dice of one structure."""
    return [name for name in next(iter(table.rows.values())) if name.startswith("dice ")]


def robustness(table: Table) -> str:
    methods = [name for name in table.methods if any(table.of(name, variant) for variant in MANUAL)]
    lines = []
    for variant in MANUAL:
        cells = []
        for name in methods:
            values, lost = table.values(name, variant, "mean_dice"), table.loss(name, variant)
            loss = "" if lost is None else f" ({-lost:+.3f})"
            cells.append(f"{figure(values)}{loss}, {figure(values, of=min)}" if values else "")
        lines.append([variant, *cells])
    text = ("### Robustness\n\nMean Dice (change against the method's own result on the same plain pairs; for cuts, on "
            "the same voxels), worst pair.\n\n")
    return text + markdown(["variant", *[METHODS[n].title for n in methods]], lines) if methods else ""


def heads(table: Table) -> str:
    lines = [[METHODS[name].title, str(len(values)), figure(values), figure(values, of=min),
              figure(table.values(name, "heads", "folding"), "{:.0f}", sum),
              figure(table.values(name, "heads", "sd_log_jacobian"), "{:.2f}")]
             for name in table.tried("heads") if (values := table.values(name, "heads", "mean_dice"))]
    return "### Synthesized whole heads\n\n" + markdown(
        ["method", "pairs", "mean Dice", "worst pair", "voxels with J <= 0", "SD log J"], lines) if lines else ""


def same_person(table: Table, out: Path) -> str:
    """Mean distance between the methods' fits over the brain, for every two methods."""
    methods = table.tried("same-person")
    found = {}
    for pair in sorted({key[2] for key in table.rows if key[1] == "same-person"}):
        done = [name for name in methods if any(row["pair"] == pair for row in table.of(name, "same-person"))]
        found[pair] = rigid.distances(out, pair, done)
    lines = [[f"{METHODS[a].title} - {METHODS[b].title}",
              *["" if (a, b) not in found[pair] else f"{found[pair][a, b]:.2f}" for pair in found]]
             for a, b in itertools.combinations(methods, 2)]
    text = "### Scans of one person\n\nMean distance between two methods' fits over the brain, mm.\n\n"
    return text + markdown(["methods", *found], lines) if lines else ""


def failures(table: Table) -> str:
    lines = [f"- {METHODS[row['method']].title}, {row['variant']}, {row['pair']}: {row['status']}"
             for row in table.failed()]
    return "### Failures\n\n" + "\n".join(lines) if lines else ""
