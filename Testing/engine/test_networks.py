"""The networks against the TensorFlow reference: every activation that was stored, and every output (SPEC 2, 3)."""
from __future__ import annotations

import numpy as np
import pytest
import torch
from live_bytes import LiveBytes
from parity import BLOCK, FIELD, MATRIX, agree, matrix, volume
from synthmorph_torch import lean, matrices, networks, spatial
from synthmorph_torch.geometry import Space, index_map, network_space
from synthmorph_torch.models import OfficialNetworks, normalise
from synthmorph_torch.networks import full_field, half_resolution, symmetric_velocity
from synthmorph_torch.weights import Deformable, load_detector
from synthmorph_torch.weights.loading import Depth

DEPTHS = {  # detector, deformable network
    "affine_a": (Depth(3, 0, 2, 0), None),
    "affine_b": (Depth(4, 0, 4, 0), None),
    "joint_a": (Depth(2, 0, 2, 0), Depth(3, 3, 2, 3)),
    "joint_b": (Depth(2, 0, 4, 0), Depth(4, 4, 4, 4)),
}
ACTIVATION = 1e-4  # largest error allowed, relative to the largest activation


@pytest.fixture(autouse=True)
def no_gradients():
    with torch.inference_mode():
        yield


@pytest.fixture
def official(reference):
    """Networks of a fixture; ``files`` may name other weight files than that of the whole joint model."""

    def build(name: str, affine: str | None = None, deform: str | None = None) -> OfficialNetworks:
        detector_depth, deform_depth = DEPTHS[name]
        if deform_depth is None:
            detector = load_detector(reference(f"{name}.h5"), detector_depth)
            return OfficialNetworks(detector, detector, None, None)
        detector = load_detector(reference(affine or f"{name}_joint.h5"), detector_depth)
        deformable = Deformable.open(reference(deform or f"{name}_joint.h5"), deform_depth, cache=False)
        return OfficialNetworks(detector, detector, deformable.widths, deformable.bake)

    return build


# Configurations ----------------------------------------------------------------------------------------------

def test_official_parameter_counts():
    with torch.device("meta"):
        detector, deformable = networks.AffineDetector(), networks.HyperUNet()
    assert networks.parameter_count([detector]) == 12_837_696
    assert networks.parameter_count([deformable]) == 877_133_827
    assert networks.parameter_count([detector, deformable]) == 889_971_523
    assert len(detector.state_dict()) == 18 and len(deformable.state_dict()) == 60


# Affine detector ---------------------------------------------------------------------------------------------

@pytest.fixture
def activations(monkeypatch):
    """What every leaky ReLU and max-pool of the U-Net gives, in order."""
    seen = []

    def watch(module, name, kind):
        original = getattr(module, name)

        def watching(*args, **kwargs):
            result = original(*args, **kwargs)
            seen.append((kind, result.clone()))
            return result

        monkeypatch.setattr(module, name, watching)

    watch(networks, "_activate", "lrelu")
    watch(networks.F, "max_pool3d", "pool")
    return seen


def check_activations(seen, data, prefix):
    checked = 0
    for number, (kind, tensor) in enumerate(seen):
        expected = data.get(f"{prefix}_{number:02}_{kind}")
        if expected is not None:
            agree(tensor[:1], expected, ACTIVATION * np.abs(expected).max())
            checked += 1
    assert checked == sum(key.startswith(prefix) for key in data)


@pytest.mark.parametrize("name", ["affine_a", "affine_b"])
def test_detector_layer_by_layer(load, official, activations, name):
    data = load(f"{name}.npz")
    detector = official(name).detector
    half = half_resolution(volume(data["moving"]))
    agree(half, data["half_1"], 0)
    agree(half_resolution(volume(data["fixed"])), data["half_2"], 0)
    features = detector(half)
    agree(features, data["feat_1"], ACTIVATION * data["feat_1"].max())
    check_activations(activations, data, "act1")


@pytest.mark.parametrize("name", ["affine_a", "affine_b"])
def test_barycentres_and_fit(load, name):
    data = load(f"{name}.npz")
    shape = data["moving"].shape
    features = [volume(data[f"feat_{n}"]) for n in (1, 2)]
    centres = [spatial.barycentres(f, shape) for f in features]
    for found, key in zip(centres, ("cen_1", "cen_2"), strict=True):
        agree(found[0], data[key], BLOCK)
    power = [f.sum(dim=(2, 3, 4)) for f in features]
    weights = power[0] / power[0].sum() * power[1] / power[1].sum()
    agree(weights[0], data["weights"], 1e-7)
    assert (weights == 0).any()  # a dead feature
    agree(matrices.fit_affine(centres[0], centres[1], weights)[0], data["fit_1"], MATRIX)
    agree(matrices.fit_affine(centres[1], centres[0], weights)[0], data["fit_2"], MATRIX)
    agree(networks.detect_affine(features[0], features[1], shape)[0], data["avg_centered"], MATRIX)
    unweighted = matrices.symmetric_affine(centres[0], centres[1], torch.ones_like(weights))[0]
    agree(networks.uncentre(unweighted, shape), data["unweighted_fw"], MATRIX)
    parameters = torch.cat(matrices.decompose(matrix(data["avg_centered"])))
    agree(parameters, data["rigid_params_of_avg"], MATRIX)


@pytest.mark.parametrize("name", ["affine_a", "affine_b"])
def test_affine_and_rigid_matrices(load, official, name):
    data = load(f"{name}.npz")
    model = official(name)
    moving, fixed = volume(data["moving"]), volume(data["fixed"])
    for transform, prefix in (("affine", ""), ("rigid", "rigid_")):
        forward = model.mid_space(moving, fixed, transform).affine
        agree(forward, data[f"{prefix}fw"], MATRIX)
        agree(torch.linalg.inv(forward), data[f"{prefix}bw"], MATRIX)
        # the root is taken in the centred frame; it commutes with the change of frame
        agree(matrices.sqrtm(forward), data[f"{prefix}mid_fw"], MATRIX)
        agree(matrices.sqrtm(torch.linalg.inv(forward)), data[f"{prefix}mid_bw"], MATRIX)
    moved = spatial.resample(moving, model.mid_space(moving, fixed, "affine").affine, fixed.shape[2:])
    agree(moved, data["moved_1"], FIELD)


# Deformable network ------------------------------------------------------------------------------------------

@pytest.mark.parametrize("name", ["joint_a", "joint_b"])
def test_baked_kernels(load, official, name):
    data = load(f"{name}_inter.npz")
    kernels = official(name).bake(float(data["lam"]))
    checked = 0
    for key in data:
        if key.startswith("conv"):
            kernel, bias = kernels[int(key[4:6])]
            found = kernel.permute(2, 3, 4, 1, 0) if key.endswith("kernel") else bias
            np.testing.assert_allclose(found.numpy(), data[key], atol=1e-6)
            checked += 1
    assert checked == 6


@pytest.mark.parametrize("name", ["joint_a", "joint_b"])
def test_unet_layer_by_layer(load, official, activations, name):
    data = load(f"{name}_inter.npz")
    model = official(name)
    images = [volume(data[key]) for key in ("mov_1", "mov_2")]
    kernels = model.bake(float(data["lam"]))
    for order, key in ((images, "net_out_12"), (images[::-1], "net_out_21")):
        found = networks.run_unet(torch.cat(order, 1), model.deformable_widths, kernels)
        agree(found, data[key], FIELD / 10)
        if key == "net_out_12":
            check_numbered(activations, model.deformable_widths, data)
    one, other = (symmetric_velocity(*images, model.deformable_widths, kernels, batch) for batch in (False, True))
    agree(one, data["svf_1"], FIELD / 10)
    torch.testing.assert_close(one, other, atol=1e-5, rtol=0)


@pytest.mark.parametrize(("batch", "activations"), [(False, 3.3), (True, 6.6)])
def test_memory_of_a_large_unet_on_a_gpu(monkeypatch, batch, activations):
    """In activations of full size, of which the official network has 256 channels."""
    monkeypatch.setattr(lean, "suits", lambda *_: False)  # it is for CPUs
    widths, n = networks.Widths(2, (32,) * 4, (32,) * 4, (32,) * 4, 3), 48
    kernels = networks.HyperUNet(widths, (2,)).bake(0.5)
    images = torch.rand(2, 1, 1, n, n, n)
    with LiveBytes() as live:
        symmetric_velocity(*images, widths, kernels, batch)
    assert 0.9 * activations < live.peak / (4 * 32 * n**3) < activations + 0.2


def check_numbered(seen, widths, data):
    """Compare activations of the U-Net; the reference also counts concatenations, the first being its input."""
    levels = len(widths.encoder)
    concatenations = [1] * 2 * levels + list(range(1, 1 + levels)) + [1 + levels] * len(widths.extra)
    wanted = {key for key in data if key.startswith("act12")}
    for position, ((kind, tensor), before) in enumerate(zip(seen, concatenations, strict=True)):
        key = f"act12_{position + before:02}_{kind}"
        if key in wanted:
            agree(tensor, data[key], ACTIVATION * np.abs(data[key]).max())
            wanted.remove(key)
    assert not wanted


@pytest.mark.parametrize("name", ["joint_a", "joint_b"])
def test_from_velocity_to_half_grid_field(load, name):
    data = load(f"{name}_inter.npz")
    to_moving, to_fixed = (matrix(data[f"aff_{n}_half_to_full"]) for n in (1, 2))
    shape = data["svf_1"].shape[:3]
    mid = networks.MidSpace(to_moving, to_fixed, shape, volume(data["svf_1"]))
    agree(spatial.integrate(mid.velocity, 7), data["def_1"], 2 * BLOCK)
    agree(spatial.integrate(-mid.velocity, 7), data["def_2"], 2 * BLOCK)
    agree(mid.total_field(7), data["tot_half_1"], FIELD / 10)
    agree(mid.total_field(7, forward=False), data["tot_half_2"], FIELD / 10)
    agree(spatial.integrate(volume(data["deform_svf_1"]), 7), data["deform_def_1"], 2 * BLOCK)


@pytest.mark.parametrize("name", ["joint_a", "joint_b"])
def test_mid_space(load, official, name):
    images, data = load(f"{name}.npz"), load(f"{name}_inter.npz")
    moving, fixed = volume(images["moving"]), volume(images["fixed"])
    mid = official(name).mid_space(moving, fixed, "joint")
    agree(mid.to_moving, data["aff_1_half_to_full"], MATRIX)
    agree(mid.to_fixed, data["aff_2_half_to_full"], MATRIX)
    half = torch.diag(torch.tensor([0.5, 0.5, 0.5, 1.0], dtype=torch.float64))
    agree(half @ mid.to_moving, data["aff_mid_half_1"], MATRIX)
    agree(mid.to_moving @ half, data["aff_full_1"], MATRIX)
    agree(spatial.resample(moving, mid.to_moving, mid.shape), data["mov_1"], FIELD)
    agree(spatial.resample(fixed, mid.to_fixed, mid.shape), data["mov_2"], FIELD)


def registered(model, moving, fixed, lam, transform):
    """Displacements on the full grid in both directions."""
    mid = model.mid_space(moving, fixed, transform)
    velocity = model.velocity(moving, fixed, mid, lam)
    mid = networks.MidSpace(mid.to_moving, mid.to_fixed, mid.shape, velocity)
    return [full_field(mid.total_field(7, forward), moving.shape[2:]) for forward in (True, False)]


@pytest.mark.parametrize("lam", ["0.1", "0.5", "0.9"])
@pytest.mark.parametrize("kind", ["joint", "deform"])
@pytest.mark.parametrize("name", ["joint_a", "joint_b"])
def test_dense_fields(load, official, name, kind, lam):
    data = load(f"{name}.npz")
    moving, fixed = volume(data["moving"]), volume(data["fixed"])
    fields = registered(official(name), moving, fixed, float(lam), kind)
    for field, direction in zip(fields, ("fw", "bw"), strict=True):
        key = f"{kind}_{direction}_lam{lam}"
        if key in data:
            agree(field, data[key], FIELD)
    if f"{kind}_moved_lam{lam}" in data:
        agree(spatial.warp(moving, fields[0], fill=0.0), data[f"{kind}_moved_lam{lam}"], FIELD)


@pytest.mark.parametrize("name", ["joint_a", "joint_b"])
def test_separate_files_equal_the_joint_file(load, official, name):
    data = load(f"{name}.npz")
    images = volume(data["moving"]), volume(data["fixed"])
    whole = registered(official(name), *images, 0.5, "joint")
    parts = registered(official(name, f"{name}_affine.h5", f"{name}_deform.h5"), *images, 0.5, "joint")
    assert all(torch.equal(one, other) for one, other in zip(whole, parts, strict=True))


# End to end --------------------------------------------------------------------------------------------------

@pytest.fixture
def scene(load):
    """Images in network space, and the matrices between network and native indices, of one run of the reference."""
    data = load("end_to_end.npz")
    spaces = {name: Space.from_ras(data[f"{name}_data"].shape, data[f"{name}_vox2world"]) for name in ("mov", "fix")}

    def build(run):
        matrices, inputs = {}, []
        for name, space in spaces.items():
            key = f"{run}_net_to_{name}"
            if run in ("affine", "rigid", "joint"):
                net_to_native = index_map(network_space(space.center, int(data["extent"])), space)
                np.testing.assert_allclose(net_to_native, data[key], atol=1e-9)
            matrices[name] = torch.from_numpy(data[key])
            image = volume(data[f"{name}_data"])
            inputs.append(normalise(spatial.resample(image, matrices[name], [int(data["extent"])] * 3)))
        return data, matrices, inputs

    return build


@pytest.mark.parametrize("run", ["affine", "rigid"])
def test_matrices_end_to_end(scene, official, run):
    data, net_to, inputs = scene(run)
    if run == "affine":
        agree(inputs[0], data["affine_input_1"], BLOCK)
        agree(inputs[1], data["affine_input_2"], BLOCK)
    forward = official("joint_b").mid_space(*inputs, run).affine
    agree(forward, data[f"{run}_net_fw"], MATRIX)
    agree(torch.linalg.inv(forward), data[f"{run}_net_bw"], MATRIX)
    native = spatial.compose([net_to["mov"], forward, torch.linalg.inv(net_to["fix"])])
    agree(native, data[f"{run}_native_fw"], MATRIX)
    agree(torch.linalg.inv(native), data[f"{run}_native_bw"], MATRIX)


@pytest.mark.parametrize("run", ["joint", "deform_init"])
def test_fields_end_to_end(scene, official, run):
    data, net_to, inputs = scene(run)
    if run == "deform_init":
        agree(inputs[0], data["deform_init_input_1"], BLOCK)
        agree(inputs[1], data["deform_init_input_2"], BLOCK)
    forward, backward = registered(official("joint_b"), *inputs, float(data["hyper"]), run.split("_")[0])
    from_fixed, from_moving = (torch.linalg.inv(net_to[name]) for name in ("fix", "mov"))
    native = spatial.compose([net_to["mov"], forward, from_fixed], data["fix_data"].shape)
    agree(native, data[f"{run}_native_fw"], FIELD)
    if f"{run}_native_bw" in data:
        opposite = spatial.compose([net_to["fix"], backward, from_moving], data["mov_data"].shape)
        agree(opposite, data[f"{run}_native_bw"], FIELD)
    world_moving, world_fixed = (torch.from_numpy(data[f"{name}_vox2world"]) for name in ("mov", "fix"))
    grid = spatial.identity_grid(native.shape[2:])[None]
    world = spatial.transform_points(world_moving.float(), grid + native)
    world = world - spatial.transform_points(world_fixed.float(), grid)
    agree(world, data[f"{run}_disp_ras_fw"], 2 * FIELD)
