"""Grids, network space and matrices against the reference's geometry (SPEC 6)."""
from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk
from synthmorph_torch.errors import SynthMorphError, TransformError
from synthmorph_torch.geometry import (
    Space,
    flip_frame,
    index_map,
    matrix_to_sitk_affine,
    network_space,
    sitk_affine_to_matrix,
)


@pytest.fixture
def oblique() -> sitk.Image:
    image = sitk.Image(7, 9, 11, sitk.sitkFloat32)
    image.SetSpacing((0.8, 1.5, 2.5))
    image.SetOrigin((10.0, -20.0, 30.0))
    rotation = sitk.Euler3DTransform()
    rotation.SetRotation(0.2, -0.4, 0.7)
    image.SetDirection(rotation.GetMatrix())
    return image


def test_space_agrees_with_simpleitk(oblique):
    space = Space.of(oblique)
    for index in [(0, 0, 0), (6, 8, 10), (3, 1, 4)]:
        point = oblique.TransformIndexToPhysicalPoint(index)
        np.testing.assert_allclose(space.to_world(index), point, atol=1e-12)
        np.testing.assert_allclose(space.to_index(space.to_world(index)), index, atol=1e-12)
    np.testing.assert_allclose(space.spacing, oblique.GetSpacing())
    np.testing.assert_allclose(space.direction.ravel(), oblique.GetDirection(), atol=1e-15)
    np.testing.assert_allclose(
        space.corners()[0], oblique.TransformContinuousIndexToPhysicalPoint((-0.5, -0.5, -0.5)), atol=1e-12
    )


def test_stamp_and_image_round_trip(oblique):
    space = Space.of(oblique)
    assert Space.of(space.image(np.zeros(space.shape[::-1], np.float32))).same_as(space, 1e-10)
    field = space.image(np.zeros((*space.shape[::-1], 3), np.float32), vector=True)
    assert field.GetNumberOfComponentsPerPixel() == 3
    assert Space.of(field).same_as(space, 1e-10)
    with pytest.raises(ValueError, match="shape"):
        space.image(np.zeros(space.shape))


def test_ras_and_lps_differ_by_two_signs(oblique):
    space = Space.of(oblique)
    np.testing.assert_allclose(space.ras, np.diag([-1, -1, 1, 1]) @ space.matrix)
    assert Space.from_ras(space.shape, space.ras).same_as(space, 0)
    matrix = np.random.default_rng(0).normal(size=(4, 4))
    np.testing.assert_array_equal(flip_frame(flip_frame(matrix)), matrix)


def test_network_space_is_lia_and_centred():
    space = network_space([1.0, 2.0, 3.0], 256)
    linear = [[-1, 0, 0], [0, 0, 1], [0, -1, 0]]  # SPEC 6, in RAS
    np.testing.assert_array_equal(space.ras[:3, :3], linear)
    assert space.shape == (256,) * 3
    np.testing.assert_allclose(space.to_world([128] * 3), [1, 2, 3])
    np.testing.assert_allclose(space.center, [1, 2, 3])


def test_half_resolution_space_is_every_second_voxel():
    space = network_space([1.0, 2.0, 3.0], 256).scaled(2)
    assert space.same_as(network_space([1.0, 2.0, 3.0], 256, spacing=2.0), 1e-12)


def test_header_transform_moves_every_voxel(oblique):
    space, shift = Space.of(oblique), np.eye(4)
    shift[:3, 3] = 5, 6, 7
    moved = space.transformed(shift)
    np.testing.assert_allclose(moved.to_world([1, 2, 3]), space.to_world([1, 2, 3]) + [5, 6, 7])
    assert not moved.same_as(space)


def test_network_spaces_match_reference(load):
    data = load("end_to_end.npz")
    moving = Space.from_ras(data["mov_data"].shape, data["mov_vox2world"])
    fixed = Space.from_ras(data["fix_data"].shape, data["fix_vox2world"])
    extent = int(data["extent"])
    spaces = {"mov": moving, "fix": fixed}
    for name, space in spaces.items():
        net = network_space(space.center, extent)
        np.testing.assert_allclose(index_map(net, space), data[f"affine_net_to_{name}"], atol=1e-12)
        np.testing.assert_allclose(index_map(space, net), data[f"affine_{name}_to_net"], atol=1e-12)
        # without an affine network, both spaces are centred on the fixed image
        net = network_space(fixed.center, extent)
        np.testing.assert_allclose(index_map(net, space), data[f"deform_noinit_net_to_{name}"], atol=1e-12)
    for extent in (192, 256):
        net = network_space(moving.center, extent)
        np.testing.assert_allclose(index_map(net, moving), data[f"net{extent}_to_mov"], atol=1e-12)
        np.testing.assert_allclose(index_map(moving, net), data[f"mov_to_net{extent}"], atol=1e-12)


def test_further_geometries_match_reference(load):
    data = load("end_to_end.npz")
    for case, (shape, matrix) in enumerate(zip(data["geom_shapes"], data["geom_vox2world"], strict=True)):
        space = Space.from_ras(shape, matrix)
        np.testing.assert_allclose(space.center * [-1, -1, 1], data["geom_center"][case], atol=1e-11)
        for extent in (192, 256):
            found = index_map(network_space(space.center, extent), space)
            np.testing.assert_allclose(found, data[f"geom_net{extent}_to_vox"][case], atol=1e-11)


def test_matrices_survive_simpleitk():
    matrix = np.eye(4)
    matrix[:3] = np.random.default_rng(1).normal(size=(3, 4))
    transform = matrix_to_sitk_affine(matrix)
    point = np.array([3.0, -7.0, 11.0])
    mapped = transform.TransformPoint(point.tolist())
    np.testing.assert_allclose(mapped, matrix[:3, :3] @ point + matrix[:3, 3])
    np.testing.assert_allclose(sitk_affine_to_matrix(transform), matrix, atol=1e-14)


def test_any_linear_transform_becomes_a_matrix():
    rigid = sitk.Euler3DTransform((10.0, 20.0, 30.0), 0.1, 0.2, 0.3, (1.0, 2.0, 3.0))
    both = sitk.CompositeTransform([rigid, sitk.TranslationTransform(3, (4.0, 5.0, 6.0))])
    matrix = sitk_affine_to_matrix(both)
    point = (7.0, -8.0, 9.0)
    np.testing.assert_allclose((matrix @ [*point, 1])[:3], both.TransformPoint(point), atol=1e-12)


def test_warps_are_not_matrices():
    field = sitk.DisplacementFieldTransform(sitk.Image(4, 4, 4, sitk.sitkVectorFloat64))
    with pytest.raises(TransformError, match="not linear"):
        sitk_affine_to_matrix(field)
    assert issubclass(TransformError, SynthMorphError)
