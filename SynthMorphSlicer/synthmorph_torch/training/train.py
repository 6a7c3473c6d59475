"""Train a network within a time budget: checkpoints, validation, a CSV log and curves."""
from __future__ import annotations

import csv
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from ..errors import WeightsError
from .tasks import Task, cosine

Figures = dict[str, float]
CHECKPOINT = "checkpoint.pt"
SLOW = 0.01  # share of the learning rate for a task's slow parameters


class Trainer:
    """Adam with a cosine schedule over a wall-clock budget.

    The schedule follows elapsed time, not steps, so that ``minutes`` means the same on any machine. An interrupted
    training resumes from ``checkpoint.pt`` with the time it had left.
    """

    def __init__(self, task: Task[Any], folder: Path, minutes: float, rate: float = 1e-3, seed: int = 0,
                 clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self.task, self.folder, self.budget, self.rate = task, Path(folder), 60 * minutes, rate
        self.folder.mkdir(parents=True, exist_ok=True)
        slow = task.slow_parameters()
        others = [p for p in task.network.parameters() if all(p is not s for s in slow)]
        groups: list[dict[str, Any]] = [{"params": others}, {"params": slow, "share": SLOW}]
        self.optimizer = torch.optim.Adam(groups if slow else groups[:1], lr=rate)
        self.average = {k: v.clone() for k, v in task.network.state_dict().items()}
        self.step, self.elapsed = 0, 0.0
        self.history: list[Figures] = []
        torch.manual_seed(seed)
        if self.checkpoint.exists():
            self._resume()

    @property
    def checkpoint(self) -> Path:
        return self.folder / CHECKPOINT

    def _resume(self) -> None:
        state = read_checkpoint(self.folder, self.task.device)
        try:
            self.task.network.load_state_dict(state["weights"])
            self.optimizer.load_state_dict(state["optimizer"])
        except (RuntimeError, ValueError):
            raise WeightsError(f"'{self.folder}' holds the training of another network: give another folder, or empty "
                               "this one.") from None
        self.average, self.step, self.elapsed = state["average"], state["step"], state["elapsed"]
        self.history = state["history"]
        torch.manual_seed(self.step)

    def save(self) -> None:
        """Write the checkpoint beside the old one, then rename, so that a killed training loses nothing."""
        state = {"weights": self.task.network.state_dict(), "optimizer": self.optimizer.state_dict(),
                 "average": self.average, "step": self.step, "elapsed": self.elapsed, "history": self.history}
        temporary = self.checkpoint.with_suffix(".part")
        torch.save(state, temporary)
        temporary.replace(self.checkpoint)
        write_log(self.history, self.folder)

    def run(self, validate_every: float = 120.0, report: Callable[[str], None] = print) -> None:
        """Train until the time budget is spent; validate, log and save every ``validate_every`` seconds."""
        running: list[Figures] = []
        last = self.clock()
        due = self.elapsed + min(validate_every, 30.0)
        while self.elapsed < self.budget:
            running.append(self._train_step())
            now = self.clock()
            self.elapsed, last = self.elapsed + now - last, now
            if self.elapsed >= due or self.elapsed >= self.budget:
                self._log(running, report)
                running = []
                due = self.elapsed + validate_every

    def _train_step(self) -> Figures:
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate * group.get("share", 1.0) * cosine(self.elapsed / self.budget)
        loss, figures = self.task.loss()
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.task.network.parameters(), 1.0)
        if torch.isfinite(norm):
            self.optimizer.step()
        self.step += 1
        self._update_average()
        return {"loss": float(loss.detach()), **figures}

    @torch.no_grad()
    def _update_average(self) -> None:
        decay = min(0.998, self.step / (self.step + 10))  # short memory at first
        for name, value in self.task.network.state_dict().items():
            self.average[name].lerp_(value, 1 - decay)

    def _log(self, running: list[Figures], report: Callable[[str], None]) -> None:
        current = {k: v.clone() for k, v in self.task.network.state_dict().items()}
        self.task.network.load_state_dict(self.average)
        figures = {"step": float(self.step), "minutes": self.elapsed / 60,
                   **mean_figures(running), **self.task.validate()}
        self.task.network.load_state_dict(current)
        self.history.append(figures)
        self.save()
        values = "  ".join(f"{k} {v:.4g}" for k, v in figures.items() if k not in ("step", "minutes"))
        report(f"step {self.step}, {self.elapsed / 60:.1f} min:  {values}")


def read_checkpoint(folder: Path, device: torch.device | str = "cpu") -> dict[str, Any]:
    """The checkpoint of a training folder; it is read as plain data, and code in it is never run.

    Raises:
        WeightsError: there is none, or it is damaged.
    """
    path = Path(folder) / CHECKPOINT
    if not path.is_file():
        raise WeightsError(f"'{folder}' holds no training: give a folder that 'synthmorph train' has written.")
    try:
        state = torch.load(path, map_location=device, weights_only=True)
    except Exception as error:  # a zip, pickle, key or runtime error, depending on what is wrong with the file
        raise WeightsError(f"'{path}' cannot be read as a checkpoint ({type(error).__name__}): remove it and train "
                           "again.") from error
    missing = {"weights", "optimizer", "average", "step", "elapsed", "history"} - set(state)
    if missing:
        raise WeightsError(f"'{path}' is no checkpoint of 'synthmorph train': remove it and train again.")
    return state


def mean_figures(rows: list[Figures]) -> Figures:
    """Mean of every figure over the rows that have it (a figure that does not apply to a row is NaN)."""
    means = {}
    for name in rows[0]:
        values = [row[name] for row in rows if not math.isnan(row[name])]
        means[name] = sum(values) / len(values) if values else math.nan
    return means


def write_log(history: list[Figures], folder: Path) -> None:
    """Write ``log.csv`` and ``curves.png`` of a training."""
    if not history:
        return
    with open(folder / "log.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(history[0]))
        writer.writeheader()
        writer.writerows(history)
    try:
        from matplotlib.figure import Figure
    except ImportError:  # curves are a convenience; the log is complete without them
        return
    names = [k for k in history[0] if k not in ("step", "minutes")]
    figure = Figure(figsize=(4 * len(names), 3), layout="constrained")
    for axes, name in zip(figure.subplots(1, len(names), squeeze=False)[0], names, strict=True):
        axes.plot([h["minutes"] for h in history], [h[name] for h in history])
        axes.set(title=name.replace("_", " "), xlabel="minutes")
        axes.grid(alpha=0.3)
    figure.savefig(folder / "curves.png", dpi=100)
