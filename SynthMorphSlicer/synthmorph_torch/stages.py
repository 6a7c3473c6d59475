"""What a registration is doing, and for how long."""
from __future__ import annotations

import time
from collections.abc import Callable

Progress = Callable[[str, float], None]


class Stages:
    """Names what is being done, with the seconds each stage took."""

    def __init__(self, progress: Progress | None) -> None:
        self.progress = progress
        self.seconds: dict[str, float] = {}
        self._name, self._since, self._fraction = "", time.perf_counter(), 0.0

    def start(self, name: str, fraction: float) -> None:
        now = time.perf_counter()
        if self._name:
            self.seconds[self._name] = self.seconds.get(self._name, 0.0) + now - self._since
        self._name, self._since, self._fraction = name, now, fraction
        if self.progress and name:
            self.progress(name, fraction)

    def inner(self, done: float) -> None:
        """Progress inside the current stage, which lasts until 90 % of the whole."""
        if self.progress:
            self.progress(self._name, self._fraction + done * (0.9 - self._fraction))
