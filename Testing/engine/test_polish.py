"""Rigid alignment on the images themselves: found between any contrasts, for one head only, exactly symmetric."""
from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from synthmorph_torch import images, polish, spatial
from synthmorph_torch.loader import load_model
from synthmorph_torch.networks import MidSpace
from synthmorph_torch.similarity import MutualInformation, gaussian

N, SPACING = 40, 3.0  # mid-space grid of the tests
CONTRASTS = {"same": lambda i: i, "inverted": lambda i: 1.2 - i, "unlike": lambda i: (i - 0.45).abs() + 0.05}


def texture(seed: int) -> torch.Tensor:
    """Smooth positive noise, (1, 1, n, n, n) of 3-mm voxels, larger than the grid of the tests."""
    torch.manual_seed(seed)
    image = gaussian(torch.rand(1, 1, N + 20, N + 20, N + 20), 2.5)
    return 0.1 + (image - image.min()) / (image.max() - image.min())


def scene(moving: torch.Tensor, fixed: torch.Tensor, motion: torch.Tensor):
    """A mid-space whose moving image has been moved by the opposite of a motion, and a function that samples both."""
    inner = torch.eye(4, dtype=torch.float64)
    inner[:3, 3] = 10
    maps = torch.zeros(1, 1, N, N, N)
    maps[:, :, 8:-8, 8:-8, 8:-8] = 1
    mid = MidSpace(inner, inner.clone(), (N, N, N), None, (maps, maps))
    away = polish.moved(mid, -2 * motion, SPACING)
    mid = dataclasses.replace(mid, to_moving=away.to_moving @ torch.linalg.inv(away.to_fixed) @ mid.to_fixed)

    def sample(which, matrix, shape):
        return spatial.resample((moving, fixed)[which], matrix, shape)

    return mid, sample


MOTION = torch.tensor([1.5, -1.0, 0.8, 2.0, -1.5, 1.0], dtype=torch.float64)  # millimetres, also at ARM


@pytest.mark.parametrize("contrast", CONTRASTS)
def test_a_rigid_motion_is_found_between_any_contrasts(contrast):
    fixed = texture(0)
    mid, sample = scene(CONTRASTS[contrast](fixed), fixed, MOTION)
    with torch.inference_mode():
        found = polish.rigid_motion(mid, SPACING, sample)
    assert found is not None
    points = 10 + torch.cartesian_prod(*[torch.tensor([8.0, 20.0, 32.0], dtype=torch.float64)] * 3)
    matrix = found.affine
    error = (points @ matrix[:3, :3].T + matrix[:3, 3] - points).norm(dim=1) * SPACING
    before = (points @ mid.affine[:3, :3].T + mid.affine[:3, 3] - points).norm(dim=1) * SPACING
    assert float(before.mean()) > 3 and float(error.max()) < 0.3


def test_two_heads_are_not_forced_together():
    mid, sample = scene(texture(0), texture(1), 0 * MOTION)
    with torch.inference_mode():
        assert polish.rigid_motion(mid, SPACING, sample) is None


def test_swapped_images_swap_the_matrices():
    one, other = texture(0), CONTRASTS["unlike"](texture(0))
    mid, sample = scene(one, other, MOTION)
    swapped = dataclasses.replace(mid, to_moving=mid.to_fixed, to_fixed=mid.to_moving)
    with torch.inference_mode():
        there = polish.rigid_motion(mid, SPACING, sample)
        back = polish.rigid_motion(swapped, SPACING, lambda which, *grid: sample(1 - which, *grid))
    assert there is not None and back is not None
    assert torch.allclose(there.affine @ back.affine, torch.eye(4).double(), atol=1e-3)


def test_slope_of_mutual_information():
    images = [gaussian(texture(seed), 1.0).double() for seed in (0, 1)]
    measure = MutualInformation(*images, torch.ones_like(images[0]))
    base = [image.clone() for image in measure.images]
    direction = torch.randn(base[0].shape, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    value, by_moving, by_fixed = measure._information(*base)
    assert value > 1
    for which, slope in ((0, by_moving), (1, by_fixed)):
        sides = []
        for step in (1e-3, -1e-3):
            bent = list(base)
            bent[which] = base[which] + step * direction
            sides.append(measure._information(*bent)[0])
        inside = (base[which] > 0.01) & (base[which] < measure.BINS - 1.01)  # beyond, intensities are cut off
        expected = float((slope * direction * inside).sum())
        assert (sides[0] - sides[1]) / 2e-3 == pytest.approx(expected, rel=0.05)


def test_scans_of_one_patient_differ_by_a_rigid_motion_and_little_more(data):
    """FLAIR on T1 of one session: the affine part is rigid to the last digit, and the warp stays mild."""
    moving, fixed = (images.read_image(data(f"multicontrast/ms12_study1_{name}.nii.gz")) for name in ("FLAIR", "T1W"))
    result = load_model("compact", "cpu").register(moving, fixed)
    assert result.one_head and result.provenance()["one_head"]
    rotation = result.affine[:3, :3]
    assert np.allclose(rotation @ rotation.T, np.eye(3), atol=1e-6)
    jacobian = sitk.GetArrayFromImage(result.jacobian())
    assert jacobian.min() > 0.5 and np.percentile(jacobian, 99.5) < 1.5


def test_two_people_are_two_also_where_one_of_them_is_cut(data):
    """Without a third of the fixed brain the affine transform is worse, but a rigid one is no answer."""
    moving, fixed = (images.read_image(data(f"malf/{name}_t1.nii.gz")) for name in ("1000", "1001"))
    cut = fixed[:, :, fixed.GetSize()[2] // 3:]
    assert not load_model("compact", "cpu").register(moving, cut, transform="affine").one_head
