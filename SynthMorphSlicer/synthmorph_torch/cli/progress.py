"""A progress bar where a person is watching, and silence elsewhere."""
from __future__ import annotations

import sys
from types import TracebackType
from typing import Any


class ProgressBar:
    """Callable for the engine's ``progress(stage, fraction)``; draws on standard error if that is a terminal."""

    def __init__(self, title: str = "", enabled: bool = True) -> None:
        self.bar: Any = None
        self.title = title
        if enabled and sys.stderr.isatty():
            from tqdm import tqdm

            self.bar = tqdm(total=100, desc=title, leave=False, file=sys.stderr,
                            bar_format="{desc} {bar} {percentage:3.0f}% [{elapsed}]")

    def __call__(self, stage: str, fraction: float) -> None:
        if self.bar is not None:
            self.bar.set_description_str(f"{self.title} {stage}".strip().ljust(24), refresh=False)
            self.bar.n = round(100 * min(max(fraction, 0.0), 1.0))
            self.bar.refresh()

    def bytes(self, done: int, total: int) -> None:
        """The same for the engine's ``progress(bytes done, bytes in all)``."""
        if total:
            self(f"{done / 1e6:,.0f} of {total / 1e6:,.0f} MB", done / total)

    def write(self, line: str) -> None:
        """Print a line on standard output without tearing the bar."""
        if self.bar is None:
            print(line, flush=True)
        else:
            self.bar.write(line, file=sys.stdout)

    def __enter__(self) -> ProgressBar:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
                 ) -> None:
        if self.bar is not None:
            self.bar.close()
