"""Propagation of label maps."""
from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk
from synthmorph_torch import agreement, images, labels, transforms
from synthmorph_torch.errors import UsageError
from synthmorph_torch.geometry import Space

IDENTITY = sitk.Transform(3, sitk.sitkIdentity)


def blocks(dtype, values=(2, 41, 1035), shape=(12, 14, 16)):
    """Random blocks of labels, large ones included."""
    rng = np.random.default_rng(0)
    coarse = rng.choice([0, *values], size=[n // 2 for n in shape]).astype(dtype)
    image = sitk.GetImageFromArray(coarse.repeat(2, 0).repeat(2, 1).repeat(2, 2))
    image.SetSpacing((1.2, 0.9, 1.5))
    return image


def warped(affine):
    grid = Space((16, 14, 12), np.diag([1.2, 0.9, 1.5, 1.0]))
    residual = np.random.default_rng(1).normal(scale=0.7, size=(3, 16, 14, 12))
    return transforms.residual_transform(residual, grid, affine)


@pytest.fixture
def warp():
    """Between two people."""
    affine = np.eye(4)
    affine[:3] += np.random.default_rng(2).normal(scale=0.05, size=(3, 4))
    return warped(affine)


@pytest.mark.parametrize("method", labels.METHODS)
@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.int32, np.uint32, np.int64])
def test_same_integers_and_type(method, dtype, warp):
    values = (2, 41, 203) if dtype == np.uint8 else (2, 41, 1035)
    source = blocks(dtype, values)
    moved = labels.warp_labels(warp, source, Space((20, 20, 20), np.diag([0.8, 0.8, 0.8, 1.0])), method)
    assert moved.GetPixelID() == source.GetPixelID() and moved.GetSize() == (20, 20, 20)
    assert set(np.unique(sitk.GetArrayFromImage(moved))) <= {0, *values}


def test_large_and_negative_labels_survive():
    array = np.array([2**31 - 1, -(2**31), 16777217, 0], np.int32).repeat(16).reshape(4, 4, 4)
    source = sitk.GetImageFromArray(array)
    for method in labels.METHODS:
        moved = labels.warp_labels(IDENTITY, source, source, method)
        np.testing.assert_array_equal(sitk.GetArrayFromImage(moved), sitk.GetArrayFromImage(source))


@pytest.mark.parametrize("shape", [(12, 14, 16), (3, 2, 9)])
def test_identity_changes_nothing(shape):
    source = sitk.GetImageFromArray(np.random.default_rng(0).integers(0, 5, shape).astype(np.uint8))
    for method in labels.METHODS:
        moved = labels.warp_labels(IDENTITY, source, source, method)
        np.testing.assert_array_equal(sitk.GetArrayFromImage(moved), sitk.GetArrayFromImage(source))


def test_smooth_equals_largest_interpolated_mask_within_one_head():
    rigid = transforms.matrix_of(sitk.Euler3DTransform((8, 6, 9), 0.05, -0.1, 0.02, (0.3, 0.1, -0.2)))
    warp = warped(rigid)
    source, grid = blocks(np.int16), Space((18, 17, 15), np.diag([0.8, 0.8, 1.1, 1.0]))
    values = [0, 2, 41, 1035]
    masks = [sitk.Cast(sitk.Equal(source, value), sitk.sitkFloat32) for value in values]
    share = np.stack([sitk.GetArrayFromImage(transforms.apply(warp, mask, grid)) for mask in masks])
    clear = np.sort(share, axis=0)[-1] - np.sort(share, axis=0)[-2] > 1e-4  # no ties
    expected = np.array(values)[share.argmax(0)]
    moved = sitk.GetArrayFromImage(labels.warp_labels(warp, source, grid))
    assert clear.mean() > 0.4
    np.testing.assert_array_equal(moved[clear], expected[clear])


def ball(shape=(40, 44, 48), radius=13.0, rough=0.0):
    """A ball of label 5, its surface off by up to ``rough`` voxels; true where it should be, and the labels."""
    distance = np.linalg.norm(np.indices(shape) - np.array(shape)[:, None, None, None] / 2, axis=0)
    noise = np.random.default_rng(0).uniform(-rough, rough, shape)
    return distance < radius, np.where(distance + noise < radius, 5, 0).astype(np.int16)


def settled_array(array, spacing=(1.0, 1.0, 1.0)):
    image = sitk.GetImageFromArray(array)
    image.SetSpacing(spacing)
    return sitk.GetArrayFromImage(labels.settled(image, 1.0))


def test_uncertain_boundaries_are_settled():
    truth, rough = ball(rough=2.0)
    settled = settled_array(rough)
    assert settled.dtype == rough.dtype and set(np.unique(settled)) == {0, 5}
    missed, left = ((one == 5) != truth for one in (rough, settled))
    assert left.sum() < 0.5 * missed.sum()


def test_settling_keeps_volumes_and_what_is_thin():
    _, image = ball()
    image[:, 4, 4] = 9  # a thread of one voxel, which smoothing by itself would lose
    image[18:22, 20:24, 22:26] = 7  # and a small structure within a large one
    settled = settled_array(image)
    for label in (5, 7, 9):
        assert (settled == label).sum() == pytest.approx((image == label).sum(), rel=0.05), label
    assert (settled[3:-3, 4, 4] == 9).all()


def test_settling_goes_by_millimetres():
    """Across slices of 10 mm, an error of 1 mm changes nothing; within them, it does."""
    _, rough = ball(rough=1.5)
    settled = settled_array(rough, (1.0, 1.0, 10.0))[5:-5]
    single = np.stack([settled_array(plane[None])[0] for plane in rough[5:-5]])
    assert (settled != rough[5:-5]).any() and (settled != single).mean() < 0.01


def test_only_warps_between_people_are_uncertain(warp):
    affine = transforms.affine_transform(np.diag([1.1, 0.9, 1.0, 1.0]))
    rigid = transforms.matrix_of(sitk.Euler3DTransform((8, 6, 9), 0.3, -0.1, 0.02, (3, 1, -2)))
    assert labels.uncertainty(warp) == labels.DOUBT
    field = sitk.Cast(transforms.to_displacement_field(warp, blocks(np.int16)), sitk.sitkVectorFloat64)
    assert labels.uncertainty(sitk.DisplacementFieldTransform(field)) == labels.DOUBT  # its linear part is hidden
    assert [labels.uncertainty(one) for one in (IDENTITY, affine, warped(rigid))] == [0, 0, 0]


def test_outside_is_background(warp):
    source = blocks(np.uint8, (1, 2, 3)) + 1
    far = sitk.TranslationTransform(3, (1000.0, 0, 0))
    for method in labels.METHODS:
        assert not sitk.GetArrayFromImage(labels.warp_labels(far, source, source, method)).any()


def test_smooth_is_no_worse_from_coarse_to_fine():
    """A ball, drawn on a coarse grid and brought to a fine one."""
    radius = np.linalg.norm(np.indices((40, 40, 40)) - 19.5, axis=0)
    truth = sitk.GetImageFromArray((radius < 14).astype(np.uint8) * 7)
    coarse = labels.warp_labels(IDENTITY, truth, Space((13, 13, 13), np.diag([3.0, 3, 3, 1])), "nearest")
    scores = {method: agreement.dice(labels.warp_labels(IDENTITY, coarse, truth, method), truth)[7]
              for method in labels.METHODS}
    assert scores["smooth"] > scores["nearest"] + 0.01


def test_wrong_input_is_refused():
    source = blocks(np.uint8, (1, 2, 3))
    with pytest.raises(UsageError, match="integer"):
        labels.warp_labels(IDENTITY, sitk.Cast(source, sitk.sitkFloat32), source)
    with pytest.raises(UsageError, match="smooth, linear, nearest"):
        labels.warp_labels(IDENTITY, source, source, "cubic")


def test_real_labels(data):
    source = images.read_labels(data("oasis/oasis_test_seg.nii.gz"))
    rotation = sitk.Euler3DTransform(Space.of(source).center.tolist(), 0.2, -0.1, 0.3, (4, -3, 2))
    fine = Space.of(source).scaled(2)
    moved = labels.warp_labels(rotation, source, fine)
    values = set(np.unique(sitk.GetArrayFromImage(source)))
    assert set(np.unique(sitk.GetArrayFromImage(moved))) <= values
    nearest = labels.warp_labels(rotation, source, fine, "nearest")
    assert np.mean(list(agreement.dice(moved, nearest).values())) > 0.8
