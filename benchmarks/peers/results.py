"""The table of results, one row per method, variant and pair, in a CSV file that several runs may share."""
from __future__ import annotations

import contextlib
import csv
import fcntl
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

Key = tuple[str, str, str]
Row = dict[str, Any]


class Results:
    """Rows by (method, variant, pair); what is written is on the disk at once."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)

    def read(self) -> dict[Key, Row]:
        if not self.path.exists():
            return {}
        with open(self.path, newline="", encoding="utf-8") as file:
            return {(row["method"], row["variant"], row["pair"]): row for row in csv.DictReader(file)}

    def add(self, row: Row) -> None:
        with self._locked():
            rows = self.read()
            rows[row["method"], row["variant"], row["pair"]] = row
            self._write(rows.values())

    def drop(self, keys: Iterable[Key]) -> None:
        with self._locked():
            gone = set(keys)
            self._write(row for key, row in self.read().items() if key not in gone)

    def _write(self, rows: Iterable[Row]) -> None:
        rows = sorted(rows, key=lambda row: (row["variant"], row["pair"], row["method"]))
        temporary = self.path.with_suffix(".part")
        with open(temporary, "w", newline="", encoding="utf-8") as file:
            columns = list(dict.fromkeys(name for row in rows for name in row))
            writer = csv.DictWriter(file, columns, restval="", lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
        os.replace(temporary, self.path)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        with open(self.path.with_suffix(".lock"), "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
