"""What an image resolves, whatever its header says."""
from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk
from synthmorph_torch.resolution import resolved


@pytest.fixture(scope="module")
def scan():
    """As much detail along one axis as along the others, in a head of 150 mm; voxels of 1 mm."""
    shape = (150, 170, 160)
    waves = np.stack(np.meshgrid(*[np.fft.fftfreq(n) for n in shape], indexing="ij"))
    noise = np.fft.fftn(np.random.default_rng(0).standard_normal(shape))
    texture = np.fft.ifftn(noise / (0.02 + np.linalg.norm(waves, axis=0)) ** 1.5).real
    index = np.stack(np.meshgrid(*[np.linspace(-1, 1, n) for n in shape], indexing="ij"))
    values = (100 + 40 * texture / texture.std()) * (np.linalg.norm(index, axis=0) < 0.95)
    return sitk.GetImageFromArray(values.astype(np.float32))


def sliced(scan, thickness, axis):
    factor = [thickness if axis == a else 1 for a in range(3)]
    size = [n - n % f for n, f in zip(scan.GetSize(), factor, strict=True)]
    return sitk.BinShrink(scan[:size[0], :size[1], :size[2]], factor)


@pytest.mark.parametrize("kind", [sitk.sitkUInt8, sitk.sitkInt16, sitk.sitkFloat32])
def test_a_scan_as_it_was_taken_resolves_its_voxels(scan, kind):
    np.testing.assert_array_equal(resolved(sitk.Cast(scan, kind)), (1, 1, 1))
    thick = sliced(scan, 6, 1)
    np.testing.assert_array_equal(resolved(sitk.Cast(thick, kind)), (1, 6, 1))


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("thickness", [5, 10])
@pytest.mark.parametrize(("how", "error"), [(sitk.sitkLinear, 0.2), (sitk.sitkBSpline, 0.4),
                                            (sitk.sitkNearestNeighbor, 0.1)])
def test_slices_that_were_resampled_are_found(scan, axis, thickness, how, error):
    found = resolved(sitk.Resample(sliced(scan, thickness, axis), scan, sitk.Transform(), how))
    expected = np.where(np.arange(3) == axis, thickness, 1)
    np.testing.assert_allclose(found, expected, rtol=error)


def test_slices_that_were_turned_a_little_are_found(scan):
    turn = sitk.Euler3DTransform((75, 85, 80), np.deg2rad(10), 0, 0)
    found = resolved(sitk.Resample(sliced(scan, 10, 2), scan, turn, sitk.sitkLinear))
    np.testing.assert_allclose(found, (1, 1, 10), rtol=0.3)


def test_an_image_without_detail_tells_nothing():
    blob = sitk.GaussianSource(sitk.sitkFloat32, [64] * 3, [12] * 3, [32] * 3)
    np.testing.assert_array_equal(resolved(blob), (1, 1, 1))
