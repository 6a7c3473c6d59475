"""What the measurements were made on."""
from __future__ import annotations

import os
import platform
from pathlib import Path


def processor() -> str:
    """Name of the processor."""
    model = platform.processor() or platform.machine()
    cpu_info = Path("/proc/cpuinfo")
    if cpu_info.exists():
        names = [line.partition(":")[2].strip() for line in cpu_info.read_text().splitlines() if "model name" in line]
        model = names[0] if names else model
    return model


def machine() -> str:
    """Processor and number of its cores."""
    return f"{processor()}, {os.cpu_count()} cores"
