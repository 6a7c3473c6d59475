"""Sampling, composition, integration and matrix functions against the reference (SPEC 2.5, 2.6, 4 and 5)."""
from __future__ import annotations

import numpy as np
import pytest
import torch
from parity import BLOCK, agree, matrix, volume
from synthmorph_torch import matrices, spatial

# Sampling ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fill", [0.0, None], ids=["fill0", "clamp"])
@pytest.mark.parametrize("mode", ["linear", "nearest"])
@pytest.mark.parametrize("name", ["aff", "affgrid", "disp", "disp_out_shape"])
def test_sampling(load, name, mode, fill):
    data = load("spatial_transform.npz")
    image = volume(data["image"])
    if name.startswith("aff"):
        transform = matrix(data["matrix" if name == "aff" else "matrix_grid"])
        found = spatial.resample(image, transform, data["out_shape"].tolist(), mode, fill)
    else:
        found = spatial.warp(image, volume(data[name]), mode, fill)
    expected = data[f"{name}_{mode}_{'clamp' if fill is None else 'fill0'}"]
    agree(found, expected, 0 if mode == "nearest" else BLOCK)


@pytest.mark.parametrize("fill", [0.0, None], ids=["fill0", "clamp"])
def test_labels(load, fill):
    data = load("spatial_transform.npz")
    found = spatial.warp(volume(data["labels"]), volume(data["disp"]), "nearest", fill)
    agree(found, data[f"labels_disp_nearest_{'clamp' if fill is None else 'fill0'}"], 0)


def test_quick_sampling_is_linear_to_a_thousandth_of_a_voxel():
    generator = torch.Generator().manual_seed(0)
    image = torch.rand(1, 2, 90, 80, 30, generator=generator)
    points = torch.rand(1, 3, 20, 21, 22, generator=generator) * torch.tensor([96.0, 86, 36]).view(1, 3, 1, 1, 1) - 3
    points[0, :, 0, 0, :4] = torch.tensor([[0.0, 89, 89, 44], [79.0, 79, 0, 79], [29.0, 0, 29, 15]])  # voxels, corners
    for fill in (None, 0.0):
        quick, exact = (spatial.sample(image, points, mode, fill) for mode in ("quick", "linear"))
        torch.testing.assert_close(quick, exact, atol=2e-3, rtol=0)


@pytest.mark.parametrize("shape", [(1, 8, 8), (8, 1, 8), (8, 8, 1), (2, 2, 2)])
def test_quick_sampling_of_thin_volumes(shape):
    image = torch.rand(1, 1, *shape, generator=torch.Generator().manual_seed(1))
    points = 7 * torch.rand(1, 3, 5, 5, 5, generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(spatial.sample(image, points, "quick"), spatial.sample(image, points), atol=1e-5, rtol=0)
    assert spatial.sample(image, points[..., :0], "quick").shape == (1, 1, 5, 5, 0)
    two = spatial.sample(image.expand(2, -1, -1, -1, -1), points.expand(2, -1, -1, -1, -1), "quick")
    assert torch.equal(two[0], two[1])


def test_matrix_about_the_centre(load):
    data = load("spatial_transform.npz")
    shape = data["image"].shape[:3]
    centre = torch.eye(4, dtype=torch.float64)
    centre[:3, 3] = (torch.tensor(shape) - 1) / 2
    transform = centre @ matrix(data["matrix_centered"]) @ torch.linalg.inv(centre)
    agree(spatial.affine_field(transform, shape), data["dense_from_matrix_centered"], BLOCK)
    for fill, name in ((0.0, "fill0"), (None, "clamp")):
        found = spatial.resample(volume(data["image"]), transform, shape, fill=fill)
        agree(found, data[f"aff_centered_linear_{name}"], BLOCK)


def test_matrix_becomes_field(load):
    data = load("spatial_transform.npz")
    found = spatial.affine_field(matrix(data["matrix"]), data["out_shape"].tolist())
    agree(found, data["dense_from_matrix"], BLOCK)


def test_border_is_inside_and_nothing_blends_beyond():
    line = torch.tensor([3.0, 5.0, 7.0]).view(1, 1, 3, 1, 1)
    where = torch.tensor([-0.001, 0.0, 0.5, 2.0, 2.001])
    points = torch.zeros(1, 3, 5, 1, 1)
    points[0, 0, :, 0, 0] = where
    assert spatial.sample(line, points, fill=0.0).flatten().tolist() == [0, 3, 4, 7, 0]
    assert spatial.sample(line, points, fill=-1.0, mode="nearest").flatten().tolist() == [-1, 3, 3, 7, -1]
    assert spatial.sample(line, points).flatten().tolist() == pytest.approx([3, 3, 4, 7, 7])


def test_halves_round_to_even():
    line = torch.arange(5.0).view(1, 1, 5, 1, 1)
    points = torch.zeros(1, 3, 4, 1, 1)
    points[0, 0, :, 0, 0] = torch.tensor([0.5, 1.5, 2.5, 3.5])
    assert spatial.sample(line, points, mode="nearest").flatten().tolist() == [0, 2, 2, 4]


def test_sampling_batches_and_threads_agree():
    torch.manual_seed(0)
    images, points = torch.randn(2, 3, 8, 9, 10), torch.rand(2, 3, 6, 7, 5) * 12 - 2
    together = spatial.sample(images, points, fill=0.0)
    for n in range(2):
        torch.testing.assert_close(spatial.sample(images[n : n + 1], points[n : n + 1], fill=0.0), together[n : n + 1])


# Composition and integration ---------------------------------------------------------------------------------

COMPOSITIONS = {
    "left_warp_right": (["left", "warp", "right"], True),
    "left_warp": (["left", "warp"], False),
    "warp_right_default_shape": (["warp", "right"], False),
    "warp_warp2": (["warp", "warp2"], False),
    "left_warp_warp2": (["left", "warp", "warp2"], False),
    "matrices": (["left", "right"], False),
}


@pytest.mark.parametrize("name", COMPOSITIONS)
def test_composition(load, name):
    data = load("compose.npz")
    members, shaped = COMPOSITIONS[name]
    parts = [volume(data[m]) if data[m].ndim == 4 else matrix(data[m]) for m in members]
    found = spatial.compose(parts, data["fixed_shape"].tolist() if shaped else None)
    agree(found, data[name], BLOCK)


@pytest.mark.parametrize(("name", "steps", "sign"), [("int_steps0", 0, 1), ("int_steps7", 7, 1),
                                                     ("int_steps7_neg", 7, -1)])
def test_integration(load, name, steps, sign):
    data = load("svf_integration.npz")
    agree(spatial.integrate(sign * volume(data["svf"]), steps), data[name], BLOCK)


def test_opposite_velocities_give_inverse_maps():
    wave = torch.sin(spatial.identity_grid((32, 32, 32)) * torch.pi / 31)
    velocity = (6 * wave.prod(0) * torch.tensor([1.0, -0.7, 0.5]).view(3, 1, 1, 1))[None]
    forward, backward = spatial.integrate(velocity), spatial.integrate(-velocity)
    assert forward.abs().max() > 4
    there_and_back = backward + spatial.warp(forward, backward)
    assert there_and_back.abs().max() < 0.05


@pytest.mark.parametrize("steps", [4, 8])
def test_flow_of_a_linear_velocity_is_the_matrix_exponential(steps):
    generator = torch.tensor([[0.05, -0.20, 0.0], [0.20, -0.10, 0.03], [0.0, -0.03, 0.08]], dtype=torch.float64)
    points = spatial.identity_grid((32, 32, 32))[None] - 15.5
    velocity = torch.einsum("ij,njxyz->nixyz", generator.float(), points)
    inner = points[:, :, 10:22, 10:22, 10:22]
    found = inner + spatial.flow(velocity, inner + 15.5, steps)
    expected = torch.einsum("ij,njxyz->nixyz", torch.linalg.matrix_exp(generator).float(), inner)
    torch.testing.assert_close(found, expected, atol=0.16 / steps**2, rtol=0)  # the midpoint rule is of second order


def test_flow_agrees_with_scaling_and_squaring_and_undoes_itself():
    wave = torch.sin(spatial.identity_grid((32, 32, 32)) * torch.pi / 31)
    velocity = (6 * wave.prod(0) * torch.tensor([1.0, -0.7, 0.5]).view(3, 1, 1, 1))[None]
    points = spatial.identity_grid((32, 32, 32))[None]
    there = spatial.flow(velocity, points, 8)
    assert (there - spatial.integrate(velocity)).abs().max() < 0.1
    back = spatial.flow(-velocity, points + there, 8)
    assert there.abs().max() > 4
    assert (there + back).abs().max() < 0.01


@pytest.mark.parametrize("determinant", [spatial.jacobian_determinant, spatial.smallest_determinant])
def test_jacobian_of_a_linear_map(determinant):
    linear = torch.eye(4, dtype=torch.float64)
    linear[:3, :3] += 0.3 * torch.randn(3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    found = determinant(spatial.affine_field(linear, (7, 6, 5)))[0, 1:-1, 1:-1, 1:-1]
    expected = torch.full_like(found, float(torch.linalg.det(linear[:3, :3])))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_a_fold_between_neighbours_is_seen():
    field = torch.zeros(1, 3, 9, 9, 9)
    field[:, 0, 4] = 1.5  # the plane passes the next one, and those on its two sides stay
    assert spatial.jacobian_determinant(field).min() > 0
    assert spatial.smallest_determinant(field).min() < 0


@pytest.mark.parametrize("planes", [1, 16, 17, 33])
def test_looking_for_folds_part_by_part(planes, monkeypatch):
    field = torch.randn(2, 3, planes, 5, 4, generator=torch.Generator().manual_seed(3))
    parts = spatial.smallest_determinant(field)
    monkeypatch.setattr(spatial, "PLANES", planes)
    torch.testing.assert_close(parts, spatial.smallest_determinant(field), rtol=0, atol=0)


# Matrices ----------------------------------------------------------------------------------------------------

CASES = range(12)


@pytest.mark.parametrize("case", CASES)
def test_square_root(load, case):
    data = load("matrix_ops.npz")
    agree(matrices.sqrtm(matrix(data["matrices"][case])), data["square_roots"][case], BLOCK)


@pytest.mark.parametrize("case", CASES)
def test_decomposition(load, case):
    data = load("matrix_ops.npz")
    parts = matrices.decompose(matrix(data["matrices"][case]))
    np.testing.assert_allclose(torch.cat(parts).numpy(), data["params"][case], atol=1e-4)
    agree(matrices.recompose(*parts), data["from_params"][case], BLOCK)
    agree(matrices.rigid_part(matrix(data["matrices"][case])), data["rigid_part"][case], BLOCK)


@pytest.mark.parametrize("degrees", [1e-4, 30.0, 90.0, 170.0, 179.0])
def test_square_root_of_rigid_transforms(degrees):
    """The matrix is defective there: an eigen-decomposition fails."""
    angles = torch.tensor([0.0, 0.0, degrees], dtype=torch.float64)
    one, zero = torch.ones(3, dtype=torch.float64), torch.zeros(3, dtype=torch.float64)
    rigid = matrices.recompose(torch.tensor([20.0, -30.0, 40.0], dtype=torch.float64), angles, one, zero)
    root = matrices.sqrtm(rigid)
    torch.testing.assert_close(root @ root, rigid, atol=1e-9, rtol=1e-9)
    torch.testing.assert_close(root[:3, :3], matrices.recompose(zero, angles / 2, one, zero)[:3, :3], atol=1e-9, rtol=0)


def test_square_root_that_does_not_exist():
    for diagonal in ([-1.0, 1.0, 1.0, 1.0], [-1.0, -1.0, 1.0, 1.0], [-1.1, 1.0, 0.9, 1.0]):
        with pytest.raises(ValueError, match="square root"):
            matrices.sqrtm(torch.diag(torch.tensor(diagonal)))


def test_gimbal_lock_and_reflection():
    for angles in ([0.0, 90.0, 25.0], [0.0, -90.0, -50.0]):
        locked = matrices.recompose(torch.zeros(3).double(), torch.tensor(angles).double(), torch.ones(3).double(),
                                   torch.zeros(3).double())
        torch.testing.assert_close(matrices.rigid_part(locked), locked, atol=1e-7, rtol=0)
    mirrored = torch.diag(torch.tensor([-2.0, 1.0, 3.0, 1.0]).double())
    translation, found, scales, shears = matrices.decompose(mirrored)
    torch.testing.assert_close(scales, torch.tensor([-2.0, 1.0, 3.0]).double())
    torch.testing.assert_close(matrices.recompose(translation, found, scales, shears), mirrored)


def test_affine_fit_recovers_a_matrix():
    torch.manual_seed(3)
    truth = torch.eye(4, dtype=torch.float64)
    truth[:3] += 0.1 * torch.randn(3, 4, dtype=torch.float64)
    fixed, weights = torch.randn(1, 20, 3, dtype=torch.float64), torch.rand(1, 20, dtype=torch.float64)
    moving = fixed @ truth[:3, :3].T + truth[:3, 3]
    weights[0, 0], moving[0, 0] = 0, 100  # a point without weight has no say
    torch.testing.assert_close(matrices.fit_affine(moving, fixed, weights)[0], truth)
    torch.testing.assert_close(matrices.symmetric_affine(moving, fixed, weights)[0], truth)


def test_barycentre_of_an_empty_map_is_the_centre():
    maps = torch.zeros(1, 2, 4, 4, 4)
    maps[0, 1, 3, 0, 0] = 2
    centres = spatial.barycentres(maps, (8, 8, 8))
    assert centres[0, 0].tolist() == [0, 0, 0] and centres[0, 1].tolist() == [3, -3, -3]
