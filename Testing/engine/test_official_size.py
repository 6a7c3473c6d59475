"""Networks of the official size with random weights: the true layer table, the 3.5 GB loader and its memory."""
from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from parity import FIELD, MATRIX, agree, volume
from synthmorph_torch.models import OfficialNetworks
from synthmorph_torch.weights import load_detector

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))
make_weights = pytest.importorskip("make_official_size_weights")

# runs alone, so that its peak memory is that of baking
BAKE_AND_REGISTER = """
import json, sys
import numpy as np, torch
sys.path[:0] = sys.argv[1:3]
from parity import volume
from synthmorph_torch.models import OfficialNetworks
from synthmorph_torch.networks import MidSpace, full_field
from synthmorph_torch.weights import Deformable

def peak():
    # not getrusage: its figure starts at the parent's peak
    return next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith("VmHWM"))

torch.set_num_threads(2)
before = peak()
network = Deformable.open(sys.argv[3], cache=False)
kernels = network.bake(float(sys.argv[5]))
additional = peak() - before
data = np.load(sys.argv[4])
moving, fixed = volume(data["moving"]), volume(data["fixed"])
with torch.inference_mode():
    model = OfficialNetworks(None, None, network.widths, lambda _: kernels)
    mid = model.mid_space(moving, fixed, "deform")
    velocity = model.velocity(moving, fixed, mid, 0.5)
    field = full_field(MidSpace(mid.to_moving, mid.to_fixed, mid.shape, velocity).total_field(7), fixed.shape[2:])
np.savez(sys.argv[6], velocity=velocity, field=field)
print(json.dumps({"additional": additional}))
"""


@pytest.fixture
def room(tmp_path, request):
    """A folder with free space, emptied afterwards."""
    needed = request.param
    if shutil.disk_usage(tmp_path).free < needed:
        pytest.skip(f"needs {needed / 1e9:.0f} GB of free disk in {tmp_path}")
    yield tmp_path
    shutil.rmtree(tmp_path)


@pytest.mark.parametrize("room", [200_000_000], indirect=True)
def test_official_size_detector(load, room):
    data, images = load("default_size.npz"), load("affine_b.npz")
    path = make_weights.write(room, "affine")
    assert path.stat().st_size > 51_350_784
    detector = load_detector(path)
    assert sum(p.numel() for p in detector.parameters()) == 12_837_696
    check_generator(detector.state_dict().values(), data, "affine")
    model = OfficialNetworks(detector, detector, None, None)
    moving, fixed = volume(images["moving"]), volume(images["fixed"])
    with torch.inference_mode():
        forward = model.mid_space(moving, fixed, "affine").affine
        rigid = model.mid_space(moving, fixed, "rigid").affine
    agree(forward, data["affine_fw"], MATRIX)
    agree(torch.linalg.inv(forward), data["affine_bw"], MATRIX)
    agree(rigid, data["rigid_fw"], MATRIX)
    agree(torch.linalg.inv(rigid), data["rigid_bw"], MATRIX)


def check_generator(arrays, data, role):
    for number, array in enumerate(arrays):
        total = array.double()
        np.testing.assert_allclose(float(total.sum()), data[f"{role}_weight_sums"][number], rtol=1e-6, atol=1e-6)
        np.testing.assert_allclose(float(total.abs().sum()), data[f"{role}_weight_abs_sums"][number], rtol=1e-9)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is read from Linux' /proc")
@pytest.mark.parametrize("room", [5_000_000_000], indirect=True)
def test_official_size_deformable_network(load, reference, room):
    data, images = load("default_size.npz"), reference("joint_b.npz")
    path = make_weights.write(room, "deform")
    assert path.stat().st_size > 3_508_535_308
    output = room / "fields.npz"
    arguments = [ROOT / "SynthMorphSlicer", Path(__file__).parent, path, images, data["deform_lambda"], output]
    command = [sys.executable, "-c", BAKE_AND_REGISTER, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    additional = json.loads(done.stdout)["additional"]
    print(f"additional peak memory {additional / 1e6:.0f} MB")
    assert 100_000_000 < additional < 1_500_000_000
    with np.load(output) as found:
        agree(torch.from_numpy(found["velocity"]), data["deform_svf_1"], FIELD)
        field = torch.from_numpy(found["field"])
    agree(field[..., ::2, ::2, ::2], data["deform_fw_every_2nd"], FIELD)
    last = np.moveaxis(field[0, :, -1, ::4, ::4].numpy(), 0, -1)
    assert np.abs(last - data["deform_fw_last_planes"]).max() <= FIELD
