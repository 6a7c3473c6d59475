"""Time and memory of one joint registration with networks of the official size and random weights, on the CPU.

    python benchmarks/official_network.py [--extents 192 256] [--weights FOLDER] [--threads N]

Prints a Markdown table. Every measurement has a process of its own: it loads the detector, bakes the hypernetwork for
one lambda, and computes the dense fields of both directions on the full grid from two images in network space, as
the TensorFlow reference did for the figures it is compared with. CPU-seconds and peak memory are those of the whole
process; "network" is the wall time between images and fields.
"""
from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "SynthMorphSlicer"), str(ROOT / "benchmarks")]

from peers.machine import processor  # noqa: E402

REFERENCE = {192: (178, 10.6), 256: (404, 15.3)}  # CPU-seconds and GiB of TensorFlow 2.15


def measure(extent: int, folder: Path, threads: int) -> dict[str, float]:
    """One registration in this process."""
    import torch
    from make_official_size_weights import NAMES
    from synthmorph_torch.models import OfficialNetworks
    from synthmorph_torch.networks import MidSpace, full_field
    from synthmorph_torch.weights import Deformable, load_detector

    if threads:
        torch.set_num_threads(threads)
    start = time.perf_counter()
    detector = load_detector(folder / NAMES["affine"])
    deformable = Deformable.open(folder / NAMES["deform"], cache=False)
    kernels = deformable.bake(0.5)
    baked = time.perf_counter()
    with torch.inference_mode():
        moving, fixed = (head(extent, seed) for seed in (0, 1))
        model = OfficialNetworks(detector, detector, deformable.widths, lambda _: kernels)
        begin = time.perf_counter()
        mid = model.mid_space(moving, fixed, "joint")
        aligned = time.perf_counter()
        mid = MidSpace(mid.to_moving, mid.to_fixed, mid.shape, model.velocity(moving, fixed, mid, 0.5))
        fields = [full_field(mid.total_field(7, forward), fixed.shape[2:]) for forward in (True, False)]
        end = time.perf_counter()
    assert all(bool(torch.isfinite(field).all()) for field in fields)
    return {"extent": extent, "bake": baked - start, "affine": aligned - begin, "network": end - begin,
            "total": time.perf_counter() - start, "cpu": time.process_time(), "peak": peak_bytes(),
            "threads": torch.get_num_threads()}


def head(extent: int, seed: int):
    """An image (1, 1, N, N, N) in [0, 1]: smooth noise in a ball."""
    import torch

    coarse = torch.rand(1, 1, 12, 12, 12, generator=torch.Generator().manual_seed(seed))
    image = torch.nn.functional.interpolate(coarse, (extent,) * 3, mode="trilinear", align_corners=True)
    axis = torch.linspace(-1, 1, extent)
    radius = (axis**2)[:, None, None] + (axis**2)[:, None] + axis**2
    return image * (radius < 0.7)


def peak_bytes() -> int:
    """Peak resident memory of this process."""
    try:  # getrusage counts from the parent's memory on Linux
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))
    except OSError:
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def table(results: list[dict[str, float]]) -> str:
    """Markdown."""
    lines = [
        "| extent | baking, s | affine, s | whole network, s | total, s | CPU-seconds | peak, GiB | "
        "TensorFlow, CPU-seconds | TensorFlow, GiB |",
        "| --- " * 9 + "|",
    ]
    for r in results:
        cpu, memory = REFERENCE.get(int(r["extent"]), (float("nan"),) * 2)
        peak = r["peak"] / 2**30
        lines.append(
            f"| {r['extent']} | {r['bake']:.0f} | {r['affine']:.1f} | {r['network']:.0f} | {r['total']:.0f} | "
            f"{r['cpu']:.0f} ({r['cpu'] / cpu:.0%}) | {peak:.1f} ({peak / memory:.0%}) | {cpu} | {memory} |"
        )
    return "\n".join(lines)


def machine(threads: float) -> str:
    import torch

    return f"{processor()}, {threads:.0f} threads, PyTorch {torch.__version__}, Python {platform.python_version()}."


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--extents", type=int, nargs="+", default=[192, 256])
    parser.add_argument("--weights", type=Path, help="folder with weights by make_official_size_weights.py")
    parser.add_argument("--threads", type=int, default=0, help="0 leaves the choice to PyTorch")
    parser.add_argument("--measure", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure(options.measure, options.weights, options.threads)))
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.weights or Path(temporary)
        if not options.weights:
            import make_official_size_weights

            for role in ("affine", "deform"):
                make_official_size_weights.write(folder, role)
        results = []
        for extent in options.extents:
            command = [sys.executable, __file__, "--measure", str(extent), "--weights", str(folder),
                       "--threads", str(options.threads)]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            results.append(json.loads(done.stdout))
    print(f"Joint registration, official size, random weights, lambda 0.5. {machine(results[0]['threads'])}\n")
    print(table(results))


if __name__ == "__main__":
    main()
