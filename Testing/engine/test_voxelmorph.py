"""The 2018 VoxelMorph networks with their published weights, which are test data only (SPEC 9)."""
from __future__ import annotations

import keras_files
import numpy as np
import pytest
import torch
from parity import BLOCK, agree, volume
from synthmorph_torch import spatial
from synthmorph_torch.errors import ImageError, WeightsError
from synthmorph_torch.voxelmorph import VARIANTS, VoxelMorph2018

FLOW = 1e-4


@pytest.fixture
def published(load, reference):
    def build(name):
        data = load("vxm2018.npz")
        return VoxelMorph2018.load(reference(f"{name}.h5")), volume(data["moving"]), volume(data["fixed"]), data

    return build


@pytest.mark.parametrize("name", ["cvpr2018_vm1_cc", "cvpr2018_vm2_cc"])
def test_displacements(published, name):
    network, moving, fixed, data = published(name)
    flow = network(moving, fixed)
    agree(flow, data[f"{name}_flow"], FLOW)
    agree(spatial.warp(moving, flow), data[f"{name}_moved"], FLOW)


def test_velocities(published):
    name = "miccai2018_10_02_init1"
    network, moving, fixed, data = published(name)
    mean, log_sigma = network.outputs(moving, fixed)
    agree(mean, data[f"{name}_svf_mean_half"], FLOW)
    agree(log_sigma, data[f"{name}_log_sigma_half"], FLOW)
    agree(spatial.integrate(volume(data[f"{name}_svf_mean_half"]), 7), data[f"{name}_int_half"], BLOCK)
    flow = network(moving, fixed)
    agree(flow, data[f"{name}_flow_full"], FLOW)
    agree(spatial.warp(moving, flow), data[f"{name}_moved"], FLOW)


def test_parameter_counts():
    counts = {v.name: sum(27 * i * o + o for i, o in v.layers()) for v in VARIANTS}
    assert counts == {"vm1": 259_675, "vm2": 300_547, "miccai": 266_374}


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda v: v.name)
def test_any_file_of_these_shapes_loads(tmp_path, variant):
    shapes = [s for i, o in variant.layers() for s in ((3, 3, 3, i, o), (o,))]
    arrays = [0.1 * a for a in keras_files.random_arrays(shapes)]
    network = VoxelMorph2018.load(keras_files.write(tmp_path / "w.h5", arrays, per_layer=True, nested=True))
    assert network.variant == variant
    np.testing.assert_array_equal(network.convolutions[-1].bias.numpy(), arrays[-1])
    assert network(torch.rand(1, 1, 16, 32, 16), torch.rand(1, 1, 16, 32, 16)).shape == (1, 3, 16, 32, 16)


def test_other_files_and_sizes_are_refused(tmp_path):
    path = keras_files.write(tmp_path / "w.h5", keras_files.random_arrays(keras_files.detector_shapes()))
    with pytest.raises(WeightsError, match="18 arrays that are not those of a 2018 VoxelMorph network"):
        VoxelMorph2018.load(path)
    network = VoxelMorph2018(VARIANTS[0])
    with pytest.raises(ImageError, match="divisible by 16"):
        network(torch.zeros(1, 1, 16, 16, 20), torch.zeros(1, 1, 16, 16, 20))
    with pytest.raises(ImageError, match="one shape"):
        network(torch.zeros(1, 1, 16, 16, 32), torch.zeros(1, 1, 16, 16, 16))
