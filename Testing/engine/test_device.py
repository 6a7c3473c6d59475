"""On a GPU: every tensor is where the others are, and the result is that of the CPU. The GPU is a pretended one."""
from __future__ import annotations

import cases
import numpy as np
import pytest
import torch
from pretend_gpu import OnGPU
from synthmorph_torch import registration
from synthmorph_torch.loader import KeptKernels, load_model
from synthmorph_torch.models import OfficialNetworks
from synthmorph_torch.weights import Deformable, load_detector
from synthmorph_torch.weights.loading import Depth


def test_the_pretended_gpu_is_strict(gpu):
    there, here = torch.ones(3, device=gpu), torch.ones(3)
    assert isinstance(there + 1, OnGPU) and there.device.type == "cuda" and float(there.sum()) == 3
    assert isinstance(there.new_tensor([1.0]), OnGPU) and there.to(torch.float64).device == gpu
    assert not isinstance(there.cpu(), OnGPU) and not isinstance(there.to("cpu"), OnGPU)
    for wrong in (lambda: there + here, lambda: here.add_(there), lambda: torch.cat([there, here]),
                  lambda: here[there > 0]):
        with pytest.raises(RuntimeError, match="one device"):
            wrong()
    with pytest.raises(TypeError, match="numpy"):
        there.numpy()


@pytest.mark.parametrize("precision", ["fast", "half"])
@torch.inference_mode()
def test_precision(gpu, precision):
    """Of the networks alone; what they give on either device is in full precision again."""
    (fixed, _), (moving, _) = cases.person(), cases.person(cases.SCALE, 1)
    model, other = (load_model("compact", device="cpu", precision=p) for p in ("full", precision))
    full, here, there = (one.register(moving, fixed, refine=0) for one in (model, other, other.elsewhere(gpu)))
    assert [one.provenance()["precision"] for one in (full, here, there)] == ["full", precision, precision]
    assert full.mid.velocity.dtype == here.mid.velocity.dtype == there.mid.velocity.dtype == torch.float32
    assert same(here, there) and same(full, here, 0.3)
    assert torch.equal(full.mid.velocity, here.mid.velocity) == (precision == "fast")  # which is for real GPUs
    load_model("compact", device="cpu")
    assert not torch.backends.cudnn.allow_tf32


@pytest.mark.parametrize("transform", ["rigid", "joint"])
@torch.inference_mode()  # from the start, because tensors of a class of their own cannot enter it later
def test_compact_model(gpu, transform):
    (fixed, _), (moving, labels) = cases.person(), cases.person(cases.SCALE, 1)
    model = load_model("compact", device="cpu")
    here, there = (one.register(moving, fixed, transform, refine=6) for one in (model, model.elsewhere(gpu)))
    assert there.inputs.fixed.device == gpu and there.provenance()["device"] == "cuda:0"
    if transform == "joint":
        there.with_regularization(0.3, preview=True)
        here, there = here.with_regularization(0.8), there.with_regularization(0.8)
    assert same(here, there) and there.warp_labels(labels).GetSize() == fixed.GetSize()


@torch.inference_mode()
def test_memory_that_runs_out_at_another_lambda(gpu, monkeypatch):
    (fixed, _), (moving, _) = cases.person(), cases.person(cases.SCALE, 1)
    model, initial = load_model("compact", device="cpu"), np.eye(4)
    initial[:3, 3] = 15.0, -10.0, 5.0
    there = model.elsewhere(gpu).register(moving, fixed, refine=0, initial=initial)

    def crowded(*_):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(there.model.networks, "velocity", crowded)
    again = there.with_regularization(0.3)
    assert again.model.device.type == "cpu" and "CPU" in again.notes[0]
    assert again.with_regularization(0.4).notes == again.notes  # it still runs on the CPU
    here = model.register(moving, fixed, regularization=0.3, refine=0, initial=initial)
    assert torch.equal(again.mid.velocity, here.mid.velocity) and np.array_equal(again.affine, here.affine)


@pytest.mark.parametrize("transform", ["affine", "rigid", "joint", "deform"])
@torch.inference_mode()
def test_official_networks(gpu, reference, transform, monkeypatch):
    """Small ones with random weights; "deform" warps in the space of the fixed image."""
    monkeypatch.setattr(registration, "EXTENTS", (32,))
    weights, results = reference("joint_b_joint.h5"), []
    for device in (torch.device("cpu"), gpu):
        detector = load_detector(weights, Depth(2, 0, 4, 0)).to(device)
        deformable = Deformable.open(weights, Depth(4, 4, 4, 4), cache=False)
        networks = OfficialNetworks(detector, detector, deformable.widths, KeptKernels(deformable.bake, device))
        results.append(registration.Model(networks, "official", device).register(
            cases.person(cases.SCALE, 1)[0], cases.person()[0], transform, extent=32))
    assert same(*results)


def same(one, other, error=0.05):
    """Both move the middle of the fixed image alike; a search may end some hundredths of a millimetre apart."""
    middle = one.fixed.TransformContinuousIndexToPhysicalPoint([n / 2 for n in one.fixed.GetSize()])
    points = [result.fixed_to_moving.TransformPoint(middle) for result in (one, other)]
    return np.allclose(*points, atol=error) and not np.allclose(points[0], middle, atol=error)
