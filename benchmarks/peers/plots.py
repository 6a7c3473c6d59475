"""Box plots of Dice per structure, time against accuracy, and bars of robustness."""
from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .methods import METHODS

if TYPE_CHECKING:
    from .report import Table

COLOURS = {"identity": "#bdbdbd", "affine": "#8c8c8c", "greedy-affine": "#a6cbe3", "greedy": "#3b83bd",
           "greedy-nmi": "#1d4e79", "ants": "#58a55c", "convexadam": "#c9a227", "niftyreg": "#8d6cab",
           "elastix": "#b07150", "synthmorph-affine": "#f4b5a5", "synthmorph-network": "#ee8866",
           "synthmorph": "#c8321f"}


def write(table: Table, out: Path) -> list[Path]:
    """Draw what there are results for; returns the files."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    plt.rcParams.update({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False})
    written = []
    for name, draw in (("structures", structures), ("time", time_and_accuracy), ("robustness", robustness)):
        drawing = draw(table, plt)
        if drawing is not None:
            path = out / f"{name}.png"
            drawing.savefig(path, dpi=130, bbox_inches="tight")
            plt.close(drawing)
            written.append(path)
    return written


def deformable(table: Table, variant: str) -> list[str]:
    """The methods that belong in a comparison of deformable registrations."""
    left_out = {"identity", "affine", "greedy-affine", "synthmorph-affine"}
    return [name for name in table.tried(variant) if name not in left_out and table.of(name, variant)]


def structures(table: Table, plt: Any) -> Any:
    from .report import structure_columns

    methods, columns = deformable(table, "plain"), structure_columns(table)
    if not methods:
        return None
    drawing, axes = plt.subplots(figsize=(12, 4))
    width = 0.8 / len(methods)
    for n, name in enumerate(methods):
        values = [table.values(name, "plain", column) for column in columns]
        boxes = axes.boxplot(values, positions=np.arange(len(columns)) + (n - (len(methods) - 1) / 2) * width,
                             widths=0.85 * width, patch_artist=True, manage_ticks=False, medianprops={"color": "black"},
                             flierprops={"marker": ".", "markersize": 3})
        for box in boxes["boxes"]:
            box.set(facecolor=COLOURS[name], linewidth=0.6)
        axes.plot([], [], "s", color=COLOURS[name], label=METHODS[name].title)
    axes.set_xticks(range(len(columns)), [column.removeprefix("dice ").replace("-", " ") for column in columns],
                    rotation=35, ha="right")
    axes.set(ylabel="Dice", xlim=(-0.6, len(columns) - 0.4))
    axes.grid(axis="y", alpha=0.3)
    axes.legend(ncols=4, loc="lower center", bbox_to_anchor=(0.5, 1.0), frameon=False)
    return drawing


def time_and_accuracy(table: Table, plt: Any) -> Any:
    points = {name: [np.mean(table.values(name, "plain", column)) for column in ("cpu_seconds", "mean_dice")]
              for name in table.tried("plain") if name != "identity" and table.of(name, "plain")}
    if not points:
        return None
    drawing, axes = plt.subplots(figsize=(6, 4))
    for name, (seconds, dice) in points.items():
        axes.plot(seconds, dice, "o", color=COLOURS[name], markersize=8, label=METHODS[name].title)
    axes.legend(loc="lower right", fontsize=8)  # names beside the points would lie upon each other
    axes.set(xscale="log", xlabel="CPU-seconds per pair", ylabel="mean Dice, plain pairs")
    axes.margins(x=0.25)
    for ticks in (axes.xaxis.set_major_formatter, axes.xaxis.set_minor_formatter):
        ticks(lambda value, _: f"{value:g}" if f"{value:e}"[0] in "125" else "")
    axes.grid(alpha=0.3)
    return drawing


def robustness(table: Table, plt: Any) -> Any:
    from .report import MANUAL

    variants = [name for name in ("plain", *MANUAL, "heads") if deformable(table, name)]
    methods = [name for name in deformable(table, "plain")
               if any(table.of(name, variant) for variant in variants if variant != "plain")]
    if not methods or len(variants) < 2:
        return None
    drawing, axes = plt.subplots(figsize=(12, 4))
    width = 0.8 / len(methods)
    for n, name in enumerate(methods):
        place = np.arange(len(variants)) + (n - (len(methods) - 1) / 2) * width
        values = [table.values(name, variant, "mean_dice") for variant in variants]
        axes.bar(place, [np.mean(v) if v else 0 for v in values], 0.9 * width, color=COLOURS[name],
                 label=METHODS[name].title)
        for x, v in zip(place, values, strict=True):
            axes.plot([x] * len(v), v, ".", color="black", markersize=2.5)
    axes.set_xticks(range(len(variants)), variants, rotation=20, ha="right")
    axes.set(ylabel="mean Dice; dots: pairs", ylim=(0, 1))
    axes.grid(axis="y", alpha=0.3)
    axes.legend(ncols=4, loc="lower center", bbox_to_anchor=(0.5, 1.0), frameon=False)
    return drawing
