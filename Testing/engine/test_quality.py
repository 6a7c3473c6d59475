"""Quality measures against known answers."""
from __future__ import annotations

import json

import numpy as np
import pytest
import SimpleITK as sitk
from synthmorph_torch import images, quality, transforms
from synthmorph_torch.errors import ImageError
from synthmorph_torch.geometry import Space

IDENTITY = sitk.Transform(3, sitk.sitkIdentity)
SHEAR = np.array([[1, 0.2, 0], [0, 1, -0.1], [0, 0, 1]])
GRIDS = {"axial": (np.eye(3), (1, 1, 1)), "anisotropic": (np.eye(3), (0.7, 1.3, 3)),
         "left-handed": (np.diag([1, -1, 1]), (1, 2, 1)),
         "oblique": (np.reshape(sitk.Euler3DTransform((0, 0, 0), 0.3, -0.5, 0.8).GetMatrix(), (3, 3)), (0.9, 1.2, 2)),
         "sheared": (SHEAR, (1, 1.5, 2))}


def grid(name, shape=(20, 18, 22)):
    """A grid around the world's origin."""
    direction, spacing = GRIDS[name]
    matrix = np.eye(4)
    matrix[:3, :3] = direction * spacing
    matrix[:3, 3] = -matrix[:3, :3] @ (np.array(shape) - 1) / 2
    return Space(shape, matrix)


@pytest.fixture
def affine():
    matrix = np.eye(4)
    matrix[:3] += np.random.default_rng(1).normal(scale=0.1, size=(3, 4))
    matrix[:3, 3] = 3, -2, 5
    return matrix


def field(function, space):
    """Transform with displacement function(world points) in mm, stored on a grid."""
    index = np.stack(np.meshgrid(*map(np.arange, space.shape), indexing="ij"), -1)
    residual = function(space.to_world(index)).transpose(3, 0, 1, 2)
    return transforms.residual_transform(residual, space, np.eye(4))


@pytest.mark.parametrize("name", GRIDS)
def test_jacobian_of_identity_and_affine(name, affine):
    one = sitk.GetArrayFromImage(quality.jacobian_map(IDENTITY, grid(name)))
    np.testing.assert_allclose(one, 1, atol=1e-5)
    transform = transforms.affine_transform(affine)
    expected = np.linalg.det(affine[:3, :3])
    np.testing.assert_allclose(sitk.GetArrayFromImage(quality.jacobian_map(transform, grid(name))), expected, atol=2e-4)
    log = sitk.GetArrayFromImage(quality.jacobian_map(transform, grid(name), log=True))
    np.testing.assert_allclose(log, np.log(expected), atol=2e-4)


@pytest.mark.parametrize("name", GRIDS)
def test_jacobian_of_an_analytic_field(name, affine):
    """u = (0, 0, 0.02 (x^2 + z^2)) has J = 1 + 0.04 z, and after an affine det(A) times that."""
    space = grid(name)
    warp = field(lambda p: np.stack([0 * p[..., 0]] * 2 + [0.005 * (p[..., 0]**2 + p[..., 2]**2)], -1), space)
    both = sitk.CompositeTransform([transforms.affine_transform(affine), warp])
    index = np.stack(np.meshgrid(*map(np.arange, space.shape), indexing="ij"), -1)
    expected = (1 + 0.01 * space.to_world(index)[..., 2]) * np.linalg.det(affine[:3, :3])
    inner = (slice(1, -1),) * 3  # one-sided differences at the border are of first order only
    found = images.to_array(quality.jacobian_map(both, space))
    np.testing.assert_allclose(found[inner], expected[inner], atol=1e-3)


def test_jacobian_agrees_with_itk():
    """ITK's own filter, on a grid without rotation, where it is known to be right."""
    space = grid("anisotropic")
    warp = field(lambda p: np.stack([np.sin(p[..., 1] / 5), np.cos(p[..., 2] / 7), np.sin(p[..., 0] / 6)], -1), space)
    ours = sitk.GetArrayFromImage(quality.jacobian_map(warp, space))[1:-1, 1:-1, 1:-1]
    itk = sitk.GetArrayFromImage(sitk.DisplacementFieldJacobianDeterminant(
        transforms.to_displacement_field(warp, space)))[1:-1, 1:-1, 1:-1]
    np.testing.assert_allclose(ours, itk, atol=1e-4)


def test_folding_is_found_where_it_is():
    space = grid("oblique")
    center = space.to_world([10, 9, 5])

    def fold(p):
        bump = np.exp(-((p - center)**2).sum(-1) / 20)
        return np.stack([-2 * (p - center)[..., 0] * bump, 0 * bump, 0 * bump], -1)

    jacobian = quality.jacobian_map(field(fold, space), space)
    found = quality.jacobian_statistics(jacobian)
    array = sitk.GetArrayFromImage(jacobian)
    assert found["folding_count"] == np.count_nonzero(array <= 0) > 0
    assert found["folding_percent"] == pytest.approx(100 * found["folding_count"] / array.size)
    assert np.linalg.norm(np.array(found["worst"]["lps_mm"]) - center) < 2
    np.testing.assert_allclose(np.array(found["worst"]["ras_mm"]) * [-1, -1, 1], found["worst"]["lps_mm"])
    i, j, k = found["worst"]["voxel"]
    assert array[k, j, i] == array.min() == found["min"] == found["worst"]["jacobian"]
    log = sitk.GetArrayFromImage(quality.jacobian_map(field(fold, space), space, log=True))
    assert np.isfinite(log).all() and log.min() == pytest.approx(np.log(quality.LOG_FLOOR))


def test_jacobian_statistics_inside_a_mask():
    array = np.linspace(-1, 4, 60, dtype=np.float32).reshape(3, 4, 5)
    mask = sitk.GetImageFromArray((array > 1).astype(np.uint8))
    found = quality.jacobian_statistics(sitk.GetImageFromArray(array), mask)
    values = array[array > 1]
    assert found["voxels"] == values.size and found["folding_count"] == 0
    assert found["sd_log"] == pytest.approx(np.log(values).std(), rel=1e-5)
    assert found["percentiles"]["50"] == pytest.approx(np.median(values))
    assert found["worst"]["jacobian"] == values.min()
    empty = quality.jacobian_statistics(sitk.GetImageFromArray(array), mask * 0)
    assert empty["voxels"] == 0 and empty["sd_log"] is None


def test_displacements_with_and_without_the_affine(affine):
    space = grid("oblique")
    shift = transforms.residual_transform(np.full((3, *space.shape), 2.0), space, affine)
    found = quality.displacement_statistics(shift, space)
    assert found["residual"]["mean"] == pytest.approx(12**0.5, abs=1e-4)
    points = space.to_world(np.stack(np.meshgrid(*map(np.arange, space.shape), indexing="ij"), -1).reshape(-1, 3))
    lengths = np.linalg.norm((points + 2) @ affine[:3, :3].T + affine[:3, 3] - points, axis=-1)
    assert found["total"]["max"] == pytest.approx(lengths.max(), rel=1e-5)
    assert found["total"]["percentiles"]["95"] == pytest.approx(np.percentile(lengths, 95), rel=1e-4)


def test_affine_is_recovered_from_a_dense_field(affine, tmp_path):
    space = grid("oblique")
    still = transforms.residual_transform(np.zeros((3, *space.shape)), space, affine)
    transforms.write_transform(still, tmp_path / "t.mha", space)
    found = quality.displacement_statistics(transforms.read_transform(tmp_path / "t.mha"), space)
    assert found["total"]["mean"] > 1 and found["residual"]["max"] < 1e-3


def test_inverse_consistency(affine):
    space = grid("oblique")
    forward = transforms.affine_transform(affine)
    exact = quality.inverse_consistency(forward, transforms.affine_transform(np.linalg.inv(affine)), space)
    assert exact["max"] < 1e-4
    inverse = np.linalg.inv(affine)
    inverse[:3, 3] += 0.3, 0, 0.4
    off = quality.inverse_consistency(forward, transforms.affine_transform(inverse), space)
    assert off["mean"] == pytest.approx(0.5, abs=1e-4) and off["percentiles"]["95"] == pytest.approx(0.5, abs=1e-4)


def test_similarity():
    rng = np.random.default_rng(0)
    a = rng.normal(size=(20, 20, 20))
    same, negative, other = (sitk.GetImageFromArray(x) for x in (3 * a + 1, -a, rng.normal(size=a.shape)))
    image = sitk.GetImageFromArray(a)
    assert quality.similarity(same, image)["ncc"] == pytest.approx(1)
    assert quality.similarity(negative, image)["ncc"] == pytest.approx(-1)
    assert quality.similarity(same, image)["nmi"] == pytest.approx(2)
    assert quality.similarity(negative, image)["nmi"] > 1.9
    assert abs(quality.similarity(other, image)["ncc"]) < 0.05 and quality.similarity(other, image)["nmi"] < 1.1
    assert quality.similarity(image * 0, image) == {"ncc": None, "nmi": None}


def boxes(shift):
    """Label 3: a box of 4 x 6 x 8 voxels, moved along x. Label 9: only in the map without shift."""
    array = np.zeros((20, 20, 30), np.int16)
    array[5:9, 5:11, 5 + shift:13 + shift] = 3
    if not shift:
        array[15, 15, 15] = 9
    image = sitk.GetImageFromArray(array)
    image.SetSpacing((2, 1, 1))
    return image


def test_dice():
    found = quality.dice(boxes(0), boxes(2))
    assert found == {3: pytest.approx(0.75), 9: 0}
    assert quality.dice(boxes(0), boxes(0), [9, 77]) == {9: 1}


@pytest.mark.parametrize(("label", "expected"), [(3, True), (9, None), (50, None)])
def test_surface_distance_of_a_shift(label, expected):
    found = quality.surface_distances(boxes(0), boxes(2), label)
    if expected is None:
        assert found is None
        return
    brute = [np.array([brute_surface(x) * [2, 1, 1] for x in (boxes(a), boxes(b))], dtype=object)
             for a, b in ((0, 2), (2, 0))]
    directed = [np.linalg.norm(a[:, None].astype(float) - b[None].astype(float), axis=-1).min(1) for a, b in brute]
    assert found[0] == pytest.approx(max(np.percentile(d, 95) for d in directed), abs=1e-4)
    assert found[1] == pytest.approx(np.concatenate(directed).mean(), abs=1e-4)


def brute_surface(image):
    """Indices (i, j, k) of the voxels of label 3 with a face neighbour outside it."""
    mask = sitk.GetArrayFromImage(image) == 3
    core = mask.copy()
    for axis in range(3):
        for step in (1, -1):
            core &= np.roll(mask, step, axis)
    return np.argwhere(mask & ~core)[:, ::-1]


def test_labels_on_different_grids_are_refused():
    other = boxes(0)
    other.SetOrigin((5, 0, 0))
    with pytest.raises(ImageError, match="different grids"):
        quality.dice(boxes(0), other)


def test_measures_are_ready_for_json(affine):
    rng = np.random.default_rng(0)
    array = sitk.GetArrayFromImage(sitk.SmoothingRecursiveGaussian(sitk.GetImageFromArray(
        rng.normal(size=(22, 18, 20))), 2.0)).astype(np.float32)
    fixed = grid("oblique").image(np.maximum(array, 0))
    labels = grid("oblique").image((array > 0.05).astype(np.uint8) * 4)
    small = affine.copy()
    small[:3, 3] = 0.5, 0, 0
    forward, backward = (transforms.affine_transform(m) for m in (small, np.linalg.inv(small)))
    moving = transforms.apply(backward, fixed, fixed)
    found = quality.measures(forward, backward, moving, fixed, fixed_labels=labels,
                             moving_labels=transforms.apply(backward, labels, fixed, "nearest"))
    json.dumps(found, allow_nan=False)
    assert found["folding"]["count"] == 0 and found["similarity"]["before_is"] == "headers"
    assert found["similarity"]["after"]["ncc"] > found["similarity"]["before"]["ncc"]
    assert found["labels"]["mean_dice"] > found["labels"]["mean_dice_before"]
    assert found["inverse_consistency_mm"]["max"] < 1e-3
    assert found["jacobian"]["mean"] == pytest.approx(np.linalg.det(small[:3, :3]), abs=1e-3)
    far = transforms.affine_transform(np.diag([1.0, 1, 1, 1]) + np.eye(4, k=3) * 1e4)
    lost = quality.measures(far, None, moving, fixed, before=forward)
    json.dumps(lost, allow_nan=False)
    assert lost["similarity"]["after"]["ncc"] is None and lost["similarity"]["before_is"] == "initial alignment"


def test_json_ready():
    value = {1: np.float32("nan"), "a": [np.int64(3), float("inf"), np.array([1.5])], "b": (None, True, "x")}
    assert quality.json_ready(value) == {"1": None, "a": [3, None, [1.5]], "b": [None, True, "x"]}
