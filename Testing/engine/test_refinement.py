"""Instance optimisation: exact derivatives, better similarity, no folding."""
from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from synthmorph_torch import refinement, spatial
from synthmorph_torch.networks import MidSpace
from synthmorph_torch.refinement import Refinement, smoothed, smoothed_around, wariness
from synthmorph_torch.similarity import box, gaussian, local_correlation
from synthmorph_torch.tones import Relation


def blobs(seed: int, n: int = 64) -> torch.Tensor:
    """A smooth random image that fades to zero at its border, (1, 1, n, n, n) in [0, 1]."""
    torch.manual_seed(seed)
    image = gaussian(torch.rand(1, 1, n, n, n), 2.0)
    image = (image - image.min()) / (image.max() - image.min())
    distance = (spatial.identity_grid((n, n, n)) - (n - 1) / 2).norm(dim=0)
    return image * (distance < 0.42 * n)


def refine(*arguments) -> MidSpace:
    return Refinement(*arguments).run()


def still(n: int, spacing: float = 2.0, mid_spacing: float = 3.0) -> MidSpace:
    """A mid-space grid over an n^3 image of 2-mm voxels that displaces nothing."""
    size = int(n * spacing / mid_spacing)
    step = mid_spacing / spacing
    grid = torch.diag(torch.tensor([step] * 3 + [1.0], dtype=torch.float64))
    grid[:3, 3] = (n - 1) / 2 - step * (size - 1) / 2
    return MidSpace(grid, grid, (size,) * 3, torch.zeros(1, 3, size, size, size))


def test_box_is_a_mean():
    image = torch.rand(1, 2, 7, 8, 9)
    expected = torch.nn.functional.avg_pool3d(image, 5, 1, 2)
    torch.testing.assert_close(box(image, 2), expected, atol=1e-6, rtol=1e-5)


def test_gaussian_keeps_constants_and_mass():
    assert torch.allclose(gaussian(torch.full((1, 1, 9, 9, 9), 3.0), 1.7), torch.tensor(3.0))
    point = torch.zeros(1, 1, 21, 21, 21)
    point[0, 0, 10, 10, 10] = 1
    smooth = gaussian(point, 1.5)
    assert float(smooth.sum()) == pytest.approx(1, abs=1e-5)
    offset = torch.arange(21.0) - 10
    variance = float((smooth.sum(dim=(0, 1, 3, 4)) * offset**2).sum())
    assert variance == pytest.approx(1.5**2, rel=0.08)  # the kernel ends at 2.5 standard deviations


def test_derivatives_are_exact():
    moving, fixed = (blobs(seed, 20).double().requires_grad_() for seed in (0, 1))
    mask = torch.ones_like(moving)
    values, by_moving, by_fixed = local_correlation(moving, fixed, mask)
    expected = torch.autograd.grad(values.sum(), (moving, fixed))
    inner = (slice(None), slice(None)) + (slice(4, -4),) * 3  # at the border the window sums are truncated
    torch.testing.assert_close(by_moving[inner], expected[0][inner], rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(by_fixed[inner], expected[1][inner], rtol=1e-4, atol=1e-6)


CONTRASTS = {"same": lambda i: i, "inverted": lambda i: 1 - i, "unlike": lambda i: (i - 0.45).abs() + 0.05}


@pytest.mark.parametrize("contrast", CONTRASTS)
def test_a_known_warp_is_recovered(contrast):
    fixed = blobs(0)
    x, y, z = spatial.identity_grid((64, 64, 64)) / 64 * 2 * torch.pi
    truth = torch.stack([1.5 * torch.sin(y), 1.5 * torch.cos(z), -1.5 * torch.sin(x)])[None]
    moving = spatial.warp(fixed, truth, fill=0.0)
    moving = torch.where(moving > 0, CONTRASTS[contrast](moving), 0.0)
    mid = still(64)
    with torch.inference_mode():
        result = refine(moving, fixed, mid, 3.0, 40, 0.5)
    found = result.map_grid(torch.eye(4, dtype=torch.float64), (64,) * 3, 7) - spatial.identity_grid((64,) * 3)
    # fixed(x) = moving(x + d(x)) and moving = fixed o (id + truth), so d undoes the truth
    there_and_back = found + spatial.warp(truth, found)
    inside = fixed > 0.05
    before = truth.norm(dim=1, keepdim=True)[inside].mean()
    after = there_and_back.norm(dim=1, keepdim=True)[inside].mean()
    assert after < 0.5 * before


@pytest.mark.parametrize("related", [False, True], ids=["unlike", "one contrast"])
def test_swapping_the_images_changes_the_sign(related):
    moving, fixed = blobs(0), blobs(1)
    if related:
        shift = torch.zeros(1, 3, 64, 64, 64) + 1.5
        moving = spatial.warp(fixed, shift, fill=0.0)
    assert Relation.of(moving, fixed, torch.ones(1)).rising == related
    mid = still(64)
    with torch.inference_mode():
        one = refine(moving, fixed, mid, 3.0, 10, 0.5).velocity
        other = refine(fixed, moving, mid, 3.0, 10, 0.5).velocity
    assert float((one + other).abs().max()) < 0.05 * float(one.abs().max())


def test_a_preview_leaves_out_the_finest_level_until_the_next_run(monkeypatch):
    pair = blobs(0), blobs(1), still(64), 2.0, 10, 0.5
    with torch.inference_mode():
        whole = refine(*pair).velocity
        both = Refinement(*pair)
        preview = both.run(preview=True).velocity
        assert torch.equal(both.run(preview=True).velocity, preview)
        assert torch.equal(both.run().velocity, whole) and torch.equal(both.run().velocity, whole)
        monkeypatch.setattr(refinement, "LEVELS", refinement.LEVELS[:-1])
        assert torch.equal(preview, refine(*pair).velocity)
    assert preview.any() and not torch.equal(preview, whole)


def test_a_run_that_was_interrupted_goes_on_as_if_nothing_had_been():
    pair = blobs(0), blobs(1), still(64), 2.0, 10, 0.5
    fractions = []

    def interrupt(fraction):
        fractions.append(fraction)
        if len(fractions) in (3, 8):
            raise KeyboardInterrupt

    with torch.inference_mode():
        whole, interrupted = refine(*pair).velocity, Refinement(*pair)
        for _ in range(2):
            with pytest.raises(KeyboardInterrupt):
                interrupted.run(interrupt)
        assert torch.equal(interrupted.run(interrupt).velocity, whole) and len(fractions) > 10


def with_brain(mid: MidSpace, first: int, last: int) -> MidSpace:
    """The mid-space with feature maps that show a brain in a cube of voxels."""
    maps = torch.zeros(1, 2, *mid.shape)
    maps[:, :, first:last, first:last, first:last] = 0.5
    return dataclasses.replace(mid, features=(maps, maps))


def test_working_grid_is_the_same_field_around_the_brain():
    mid = with_brain(still(96), 24, 40)
    velocity = 3 * gaussian(torch.randn(1, 3, *mid.shape), 4.0)
    mid = dataclasses.replace(mid, velocity=velocity)
    close, spacing, brain = refinement.working_grid(mid, 3.0)
    assert spacing == refinement.FINEST and close.shape == (36,) * 3  # 16 voxels and 4 on each side, 3 mm; now 2 mm
    points = torch.eye(4, dtype=torch.float64)
    points[:3, 3] = 42.0
    both = [m.map_grid(points, (12,) * 3, 6) for m in (mid, close)]  # inside the brain
    assert float((both[0] - both[1]).abs().max()) < 0.05
    assert float(brain[0, 0, 12, 12, 12]) == 1 and float(brain[0, 0, 0, 0, 0]) == 0


def test_the_border_stays_where_it_is():
    """Beyond the grid the affine transform holds, so a velocity ends at zero, however large it is next to the end."""
    mid = with_brain(still(96), 20, 44)
    velocity = 6 * gaussian(torch.randn(1, 3, *mid.shape, generator=torch.Generator().manual_seed(4)), 3.0)
    velocity = velocity / velocity.abs().max() * 6
    result = refine(blobs(0, 96), blobs(1, 96), dataclasses.replace(mid, velocity=velocity), 3.0, 20, 0.5).velocity
    faces = [result.select(axis, end) for axis in (2, 3, 4) for end in (0, -1)]
    assert max(float(face.abs().max()) for face in faces) < 1e-5 and float(result.abs().max()) > 1


def test_what_is_not_brain_has_no_say():
    fixed = blobs(0, 96)
    bright = fixed.clone()
    bright[..., :12] = 1.0  # something outside, in one image only
    mid = with_brain(still(96), 24, 40)
    results = [refine(fixed, other, mid, 3.0, 10, 0.5) for other in (fixed, bright)]
    for result in results:
        assert float(result.velocity.abs().max()) < 0.02


@pytest.mark.parametrize("iterations", [1, 3, 14, 46])
def test_no_more_iterations_than_asked_for(iterations, monkeypatch):
    counts = []
    monkeypatch.setattr(refinement, "_ascend", lambda scene, mid, count, *_: (counts.append(count), mid)[1])
    refine(blobs(0), blobs(1), still(64), 3.0, iterations, 0.5)
    assert sum(counts) == iterations


def test_similarity_never_falls():
    moving, fixed = blobs(0), blobs(0)
    result = refine(moving, fixed, still(64), 3.0, 8, 0.5)
    assert float(result.velocity.abs().max()) < 1e-3  # nothing is better than the identity


def test_a_velocity_is_smoothed_where_it_folds_and_nowhere_else():
    mid, generator = still(32), torch.Generator().manual_seed(3)
    steep = torch.randn(1, 3, *mid.shape, generator=generator)
    places = torch.tensor([[8.2, 7.9, 8.0], [99.0, 99.0, -1.0]])  # of which the second lies beyond the grid
    result, changed = smoothed_around(dataclasses.replace(mid, velocity=steep), places, 0.7)
    once = result.velocity
    assert once[..., 7:10, 7:10, 7:10].std() < 0.8 * steep[..., 7:10, 7:10, 7:10].std()
    assert torch.equal(once[..., 14:, 14:, 14:], steep[..., 14:, 14:, 14:])
    assert not torch.equal(once[..., -1, -1, 0], steep[..., -1, -1, 0])
    assert torch.equal((once != steep).any(1, keepdim=True), changed)


def test_regridding_keeps_displacements():
    field = torch.full((1, 3, 12, 12, 12), 2.0)  # voxels of 3 mm
    assert torch.allclose(spatial.regrid(field, (6, 6, 6)), torch.tensor(1.0))  # voxels of 6 mm
    assert torch.allclose(spatial.regrid(spatial.regrid(field, (6, 6, 6)), (12, 12, 12)), field)


def test_smoothing_tells_turning_from_swelling():
    wave = torch.sin(spatial.identity_grid((32, 32, 32)) * 2 * torch.pi * 4 / 32)
    swelling = torch.stack([wave[0], wave[1], wave[2]])[None]  # the gradient of a sum of cosines
    turning = torch.stack([wave[1], wave[2], wave[0]])[None]  # each component is constant along its own axis
    rate = (2 * torch.pi * 4 / 32) ** 2 / 2
    found = smoothed(swelling + turning, 0.5, 1.5)
    expected = np.exp(-(1.5**2) * rate) * swelling + np.exp(-(0.5**2) * rate) * turning
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_small_lambdas_smooth_less():
    factors = [refinement.stiffness(lam) for lam in (0.05, 0.1, 0.3, 0.5, 0.7, 0.9)]
    assert factors == sorted(factors) and refinement.stiffness(0.5) == 1.0


@pytest.mark.parametrize(("thickness", "factor"), [(1.0, 1.0), (2.0, 1.0), (5.0, 1.357), (10.0, 1.710)])
def test_thick_slices_stiffen_the_field(thickness, factor):
    """In the mid-space: network voxels of 3 mm, half as many of the moving image's along each axis."""
    mid = dataclasses.replace(still(16), to_moving=torch.diag(torch.tensor([0.5, 0.5, 0.5, 1.0])).double())
    thin, thick = (torch.diag(torch.tensor(edges)).double() for edges in ([1 / 3] * 3, [1 / 6, 1 / 6, thickness / 6]))
    assert refinement.coarseness((thick, thin), mid, 3.0) == pytest.approx(factor, abs=1e-3)
    assert refinement.coarseness((), mid, 3.0) == 1.0


def test_images_that_tell_little_of_each_other_are_warped_smoothly(monkeypatch):
    moving, fixed = blobs(0, 64), blobs(1, 64)
    rough = refine(moving, fixed, still(64), 3.0, 12, 0.5).velocity
    monkeypatch.setattr(refinement, "UNLIKE", 1.1)  # whatever the similarity, it is too little
    monkeypatch.setattr(refinement, "ALIKE", 1.2)
    smooth = refine(moving, fixed, still(64), 3.0, 12, 0.5).velocity
    bending = [spatial.jacobian_determinant(v).std() for v in (smooth, rough)]
    assert 0 < bending[0] < 0.8 * bending[1]


@pytest.mark.parametrize(("similarity", "factor"), [(0.0, 2.0), (0.2, 2.0), (0.25, 1.5), (0.3, 1.0), (0.6, 1.0)])
def test_wariness_has_no_steps(similarity, factor):
    assert wariness(similarity) == pytest.approx(factor)
