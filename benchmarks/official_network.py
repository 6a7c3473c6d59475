"""Time and memory of one joint registration with networks of the official size and random weights.

    python benchmarks/official_network.py [--extents 192 256] [--weights FOLDER] [--threads N] [--tensorflow PYTHON]
    python benchmarks/official_network.py --device cuda [--precisions full fast half] [--extents 192 256]

Prints a Markdown table. Every measurement has a process of its own: it loads the detector, bakes the hypernetwork for
one lambda, and computes the dense fields of both directions on the full grid from two images in network space.
"Network" is the wall time between images and fields. On the CPU, CPU-seconds and peak memory are those of the whole
process, beside those of the same layers in TensorFlow (``tensorflow_network.py``) where a Python that has it is named.
On a GPU, the network runs three times, of which the first and the last are shown, peak memory is what PyTorch had
allocated and what it had reserved, and TFLOP/s counts the multiplications and additions of the deformable network's
convolutions alone.
"""
from __future__ import annotations

import argparse
import itertools
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


def measure(extent: int, folder: Path, threads: int) -> dict[str, float]:
    """One registration in this process, on the CPU."""
    import torch
    from synthmorph_torch import process

    process.prepare()
    if threads:
        torch.set_num_threads(threads)
    start = time.perf_counter()
    model = networks(folder, torch.device("cpu"))
    baked = time.perf_counter()
    images = [head(extent, seed) for seed in (0, 1)]
    affine, network = register(model, *images)
    return {"extent": extent, "bake": baked - start, "affine": affine, "network": network,
            "total": time.perf_counter() - start, "cpu": time.process_time(), "peak": peak_bytes(),
            "threads": torch.get_num_threads()}


def measure_gpu(extent: int, folder: Path, device: str, precision: str) -> dict[str, float | str]:
    """Three registrations in this process, on a GPU."""
    import torch

    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = precision == "fast"
    model = networks(folder, torch.device(device), torch.bfloat16 if precision == "half" else torch.float32)
    images = [head(extent, seed).to(device) for seed in (0, 1)]
    torch.cuda.reset_peak_memory_stats()
    seconds = [register(model, *images)[1] for _ in range(3)]
    return {"extent": extent, "precision": precision, "first": seconds[0], "last": seconds[-1],
            "allocated": torch.cuda.max_memory_allocated(), "reserved": torch.cuda.max_memory_reserved(),
            "speed": 2 * multiplications(extent // 2) / seconds[-1], "name": torch.cuda.get_device_name()}


def networks(folder: Path, device, dtype=None):
    """The networks on a device, baked for lambda 0.5."""
    import torch
    from make_official_size_weights import NAMES
    from synthmorph_torch.loader import KeptKernels
    from synthmorph_torch.models import OfficialNetworks
    from synthmorph_torch.weights import Deformable, load_detector

    detector = load_detector(folder / NAMES["affine"]).to(device, dtype)
    deformable = Deformable.open(folder / NAMES["deform"], cache=False)
    kernels = KeptKernels(deformable.bake, device, dtype or torch.float32)
    kernels(0.5)
    return OfficialNetworks(detector, detector, deformable.widths, kernels)


def register(model, moving, fixed) -> tuple[float, float]:
    """Seconds for the affine transform, and for all up to the fields."""
    import torch
    from synthmorph_torch.networks import MidSpace, full_field

    with torch.inference_mode():
        begin = time.perf_counter()
        mid = model.mid_space(moving, fixed, "joint")
        aligned = time.perf_counter()
        mid = MidSpace(mid.to_moving, mid.to_fixed, mid.shape, model.velocity(moving, fixed, mid, 0.5))
        fields = [full_field(mid.total_field(7, forward), fixed.shape[2:]) for forward in (True, False)]
        finite = [bool(torch.isfinite(field).all()) for field in fields]  # a GPU has finished once this is known
        end = time.perf_counter()
    assert all(finite)
    return aligned - begin, end - begin


def multiplications(n: int) -> int:
    """Of the deformable network's convolutions in both orders of the images, on a grid of n^3."""
    from synthmorph_torch.networks import OFFICIAL_DEFORMABLE as WIDTHS

    up, down = len(WIDTHS.decoder), len(WIDTHS.encoder)
    halvings = [*range(down), *range(up, 0, -1)]
    total = 0
    for number, (inputs, outputs) in enumerate(WIDTHS.layers()):
        halved = halvings[number] if number < len(halvings) else 0
        total += 27 * inputs * outputs * (n >> halved) ** 3
    return 2 * total


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
    lines = ["| extent | baking, s | affine, s | whole network, s | total, s | CPU-seconds | peak, GiB | "
             "TensorFlow, CPU-seconds | TensorFlow, GiB | CPU-seconds, ratio | memory, ratio |", "| --- " * 11 + "|"]
    for r in results:
        lines.append(f"| {r['extent']} | {r['bake']:.0f} | {r['affine']:.1f} | {r['network']:.0f} | {r['total']:.0f} | "
                     f"{r['cpu']:.0f} | {r['peak'] / 2**30:.1f} | " + (
                         f"{r['other_cpu']:.0f} | {r['other_peak'] / 2**30:.1f} | {r['cpu'] / r['other_cpu']:.2f} | "
                         f"{r['peak'] / r['other_peak']:.2f} |" if "other_cpu" in r else "– | – | – | – |"))
    return "\n".join(lines)


def gpu_table(results: list[dict]) -> str:
    """Markdown."""
    lines = ["| extent | precision | first network, s | later, s | allocated, GiB | reserved, GiB | TFLOP/s |",
             "| --- " * 7 + "|"]
    for r in results:
        allocated, reserved = r["allocated"] / 2**30, r["reserved"] / 2**30
        lines.append(f"| {r['extent']} | {r['precision']} | {r['first']:.2f} | {r['last']:.2f} | {allocated:.1f} | "
                     f"{reserved:.1f} | {r['speed'] / 1e12:.0f} |")
    return "\n".join(lines)


def machine(threads: float) -> str:
    import torch

    return f"{processor()}, {threads:.0f} threads, PyTorch {torch.__version__}, Python {platform.python_version()}."


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--extents", type=int, nargs="+", default=[192, 256])
    parser.add_argument("--weights", type=Path, help="folder with weights by make_official_size_weights.py")
    parser.add_argument("--threads", type=int, default=0, help="0 leaves the choice to PyTorch")
    parser.add_argument("--tensorflow", metavar="PYTHON", help="on a CPU: a Python with TensorFlow to compare with")
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:N")
    parser.add_argument("--precisions", nargs="+", default=["full", "fast", "half"], help="on a GPU")
    parser.add_argument("--measure", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    on_cpu = options.device == "cpu"
    if options.measure:
        print(json.dumps(measure(options.measure, options.weights, options.threads) if on_cpu else
                         measure_gpu(options.measure, options.weights, options.device, options.precisions[0])))
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.weights or Path(temporary)
        if not options.weights:
            import make_official_size_weights

            for role in ("affine", "deform"):
                make_official_size_weights.write(folder, role)
        results = []
        for extent, precision in itertools.product(options.extents, ["full"] if on_cpu else options.precisions):
            command = [sys.executable, __file__, "--measure", str(extent), "--weights", str(folder),
                       "--threads", str(options.threads), "--device", options.device, "--precisions", precision]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            results.append(json.loads(done.stdout))
            if options.tensorflow and on_cpu:
                command = [options.tensorflow, str(Path(__file__).with_name("tensorflow_network.py")), str(extent),
                           str(options.threads)]
                done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
                results[-1].update({f"other_{k}": v for k, v in json.loads(done.stdout.splitlines()[-1]).items()})
    what = "Joint registration, official size, random weights, lambda 0.5."
    print(f"{what} {machine(results[0]['threads']) if on_cpu else results[0]['name']}\n")
    print(table(results) if on_cpu else gpu_table(results))


if __name__ == "__main__":
    main()
