"""Regularity by design: is the opposite of a registration what swapping the images gives, and what do
lambda, half precision and a smaller grid do?

    python benchmarks/regularity.py symmetry --data FOLDER [--pairs 1000-1001 ...]
    python benchmarks/regularity.py lambda --data FOLDER [--pairs ...] [--lambdas 0.1 0.3 0.5 0.7 0.9]
    python benchmarks/regularity.py savings --data FOLDER [--pairs ...]

FOLDER holds NAME_t1.nii.gz images. All commands measure with the model's refinement and without, and print a Markdown
table.

symmetry: every pair is registered twice, with the images in both orders. A point of the fixed image is taken to the
moving image by one registration and back by the other; the table has how far it lands from where it started, in
millimetres inside the head. Beside it, the same for the two transforms of one registration.

lambda: SD of log J in the head and voxels with J <= 0 on the grid of the fixed image.

savings: a point goes to the moving image by the registration that saves time and memory (half precision, or extent 192)
and back by that which does not (full precision, extent 256).
"""
from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "SynthMorphSlicer"))

import synthmorph_torch as sm  # noqa: E402
from synthmorph_torch import images, quality  # noqa: E402
from synthmorph_torch.registration import Model, Registration  # noqa: E402

PAIRS = ("1000-1001", "1001-1113", "1113-1122", "1122-1000")
LAMBDAS = (0.1, 0.2, 0.3, 0.4, 0.45, 0.5, 0.6, 0.7, 0.8, 0.9)


def symmetry(model: Model, data: Path, pair: str, refine: int | None, lam: float) -> tuple[list[float], list[float]]:
    """Mean and largest error in mm after forth and back: by the registration of the swapped images, by its own."""
    moving, fixed = read(data, pair)
    forth = model.register(moving, fixed, regularization=lam, refine=refine)
    back = model.register(fixed, moving, regularization=lam, refine=refine)
    mask = images.foreground(fixed)
    both = [quality.inverse_consistency(forth.fixed_to_moving, opposite, fixed, mask)
            for opposite in (back.fixed_to_moving, forth.moving_to_fixed)]
    swapped, own = ([found["mean"], found["max"]] for found in both)
    return swapped, own


def spread(result: Registration) -> tuple[float, int]:
    """SD of log J in the head, and the voxels with J <= 0 on the whole grid."""
    jacobian = result.jacobian()
    head = quality.jacobian_statistics(jacobian, images.foreground(result.fixed))
    return head["sd_log"], quality.jacobian_statistics(jacobian)["folding_count"]


def lambdas(model: Model, data: Path, pair: str, refine: int | None, values: Sequence[float]
            ) -> list[tuple[float, int]]:
    """SD of log J and folding for each lambda; the affine part is found once."""
    moving, fixed = read(data, pair)
    result = model.register(moving, fixed, regularization=values[0], refine=refine)
    return [spread(result if value == values[0] else result.with_regularization(value)) for value in values]


def read(data: Path, pair: str):
    return [images.read_image(data / f"{name}_t1.nii.gz") for name in pair.split("-")]


def modes(model: Model) -> dict[str, int | None]:
    """With the model's own refinement, if it has one, and without."""
    return {**({"refined": None} if model.default_refinement else {}), "network alone": 0}


def print_symmetry(model: Model, options: argparse.Namespace) -> None:
    print("| pair | mode | swapped: mean mm | max mm | own opposite: mean mm | max mm |\n" + "| --- " * 6 + "|")
    worst: dict[str, float] = {}
    for pair in options.pairs:
        for mode, refine in modes(model).items():
            swapped, own = symmetry(model, options.data, pair, refine, options.regularization)
            worst[mode] = max(worst.get(mode, 0.0), swapped[0])
            print(f"| {pair} | {mode} | {' | '.join(f'{x:.3f}' for x in (*swapped, *own))} |", flush=True)
    for mode, error in worst.items():
        print(f"\n{mode}: largest mean error after swapping {error:.3f} mm.")


def print_lambdas(model: Model, options: argparse.Namespace) -> None:
    values = sorted(options.lambdas)
    print(f"| pair | mode | {' | '.join(f'{x:g}' for x in values)} | monotonic |")
    print("| --- " * (len(values) + 3) + "|")
    for pair in options.pairs:
        for mode, refine in modes(model).items():
            found = lambdas(model, options.data, pair, refine, values)
            cells = [f"{sd:.3f}" + (f" ({folded} folded)" if folded else "") for sd, folded in found]
            falls = bool(np.all(np.diff([sd for sd, _ in found]) < 0))
            print(f"| {pair} | {mode} | {' | '.join(cells)} | {'yes' if falls else 'no'} |", flush=True)


def print_savings(model: Model, options: argparse.Namespace) -> None:
    half = sm.load_model(options.model, device=options.device, precision="half")
    print("| pair | mode | saved by | mean mm | max mm |\n" + "| --- " * 5 + "|")
    for pair in options.pairs:
        moving, fixed = read(options.data, pair)
        mask = images.foreground(fixed)
        for mode, refine in modes(model).items():
            whole = model.register(moving, fixed, regularization=options.regularization, refine=refine)
            for saved, one, extent in (("half precision", half, 256), ("extent 192", model, 192)):
                less = one.register(moving, fixed, regularization=options.regularization, refine=refine, extent=extent)
                found = quality.inverse_consistency(less.fixed_to_moving, whole.moving_to_fixed, fixed, mask)
                print(f"| {pair} | {mode} | {saved} | {found['mean']:.3f} | {found['max']:.3f} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("symmetry", "lambda", "savings"))
    parser.add_argument("--data", type=Path, required=True, help="folder of images NAME_t1.nii.gz")
    parser.add_argument("--pairs", nargs="+", default=list(PAIRS), metavar="PAIR", help="as 1000-1001, moving-fixed")
    parser.add_argument("--lambdas", nargs="+", type=float, default=list(LAMBDAS), metavar="LAMBDA")
    parser.add_argument("--regularization", type=float, default=0.5, help="lambda of symmetry and savings")
    parser.add_argument("--model", default="compact")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=0, help="0 leaves the choice to PyTorch")
    options = parser.parse_args()
    if options.threads:
        import torch

        torch.set_num_threads(options.threads)
    model = sm.load_model(options.model, device=options.device)
    print(f"{model.name} model, checksum {model.checksum[:12]}.\n")
    {"symmetry": print_symmetry, "lambda": print_lambdas, "savings": print_savings}[options.what](model, options)


if __name__ == "__main__":
    main()
