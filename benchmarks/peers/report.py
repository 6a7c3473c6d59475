"""Tables and plots of the results."""
from __future__ import annotations

from pathlib import Path
from typing import Any


def write(rows: dict[tuple[str, str, str], dict[str, Any]], out: Path, data: Path) -> None:
    pass
