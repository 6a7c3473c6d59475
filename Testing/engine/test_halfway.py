"""Two images half-way: looking at them part by part finds what looking at them as a whole would."""
from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from synthmorph_torch import halfway, spatial
from synthmorph_torch.halfway import Scene
from synthmorph_torch.networks import MidSpace
from synthmorph_torch.similarity import gaussian

SHAPE = (24, 28, 20)


@pytest.fixture
def scene_of():
    """Function that makes a scene: images of 2 mm, a field of 3 mm, a brain in their middle."""
    generator = torch.Generator().manual_seed(1)
    images = [gaussian(torch.rand(1, 1, *(2 * n for n in SHAPE), generator=generator), 1.5) for _ in range(2)]
    eye = torch.eye(4, dtype=torch.float64)
    distance = (spatial.identity_grid(SHAPE) - torch.tensor(SHAPE).view(3, 1, 1, 1) / 2).norm(dim=0)
    brain = (distance < 7).float()[None, None]

    def make(inside=brain, images=images, voxels=()):
        still = MidSpace(eye, eye, SHAPE, torch.zeros(1, 3, *SHAPE))
        return Scene(*images, still, 3.0, 2.0, 3.0, None, inside, voxels)

    return make


@pytest.fixture
def velocity():
    return gaussian(8 * torch.randn(1, 3, *SHAPE, generator=torch.Generator().manual_seed(2)), 2.0)


def test_parts_add_up(scene_of, velocity, monkeypatch):
    # points that are sampled quickly depend a little on the part in which they lie
    monkeypatch.setattr(spatial, "_sample_in_planes", spatial._sample_linear)
    whole = scene_of()
    assert len(whole.tiles) == 1
    monkeypatch.setattr(halfway, "SLAB", 1)
    parts = scene_of()
    assert len(parts.tiles) > 2
    (one, direction), (other, same) = whole.ascent(velocity), parts.ascent(velocity)
    assert one == pytest.approx(other, rel=1e-4)
    assert direction.abs().max() > 0
    torch.testing.assert_close(direction, same, rtol=1e-3, atol=1e-4 * float(direction.abs().max()))


def test_only_the_brain_is_looked_at(scene_of, velocity):
    (_, within), (_, everywhere) = (scene_of(*inside).ascent(velocity) for inside in ((), (None,)))
    assert float(within[..., 0].abs().max()) == 0 < float(everywhere[..., 0].abs().max())


def test_half_way_there_is_half_the_flow(velocity):
    forward, backward = halfway.halves_of(velocity)
    for found, sign in ((forward, 1), (backward, -1)):
        expected = spatial.flow(sign * velocity / 2, spatial.identity_grid(SHAPE)[None], 8)[0]
        inner = (slice(None), *(slice(3, -3),) * 3)
        assert float((found - expected)[inner].norm(dim=0).mean()) < 0.02 * float(expected[inner].norm(dim=0).mean())


def test_displacements_for_a_part_are_those_of_the_whole(scene_of, velocity):
    scene = scene_of()
    halves = halfway.halves_of(velocity)
    whole = F.interpolate(halves, size=scene.shape, mode="trilinear") / scene.voxel
    tile = (slice(5, 14), slice(0, 17), slice(8, scene.shape[2]))
    for found, expected in zip(scene._enlarged(halves, tile), whole, strict=True):
        torch.testing.assert_close(found[0], expected[(slice(None), *tile)], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("other, own, widths", [
    ([[4, 0, 0], [0, 0.5, 0], [0, 0, 1]], (1, 1, 1), (15**0.5, 0, 0)),
    ([[0, 3, 0], [0, 0, 5], [1, 0, 0]], (0, 0, 0), (3, 5, 1)),
    ([[0, 3, 0], [0, 0, 5], [1, 0, 0]], (6, 0, 0), (0, 5, 1)),
    ([[1, 0, 0], [0, 1.9, 0], [0, 0, 1.9]], (0, 0, 0), (0, 0, 0)),
    ([[5, 0, 0], [0, 1, 0], [0, 0, 1]], (5, 1, 1), (0, 0, 0)),
])
def test_one_voxel_as_the_other_image_would_show_it(other, own, widths):
    """Along each axis, the variance is what the profile of the other image's voxels has more; nothing is shifted."""
    image = torch.zeros(1, 1, 41, 43, 45)
    image[0, 0, 20, 21, 22] = 1.0
    own, other = torch.diag(torch.tensor(own, dtype=torch.float64)), torch.tensor(other, dtype=torch.float64)
    blurred = halfway._as_coarse(image, own, other)
    assert blurred.shape == image.shape and float(blurred.sum()) == pytest.approx(1.0, abs=1e-4)
    for axis, (n, width) in enumerate(zip((20, 21, 22), widths, strict=True)):
        line = blurred[0, 0].sum(dim=tuple(a for a in range(3) if a != axis))
        offset = torch.arange(len(line)) - n
        assert float((line * offset).sum()) == pytest.approx(0.0, abs=1e-3)
        assert float((line * offset**2).sum()) == pytest.approx((halfway.PROFILE * width) ** 2, rel=0.02, abs=1e-3)


def test_the_other_image_loses_detail_and_not_the_thick_one(scene_of):
    thin, thick = (torch.diag(torch.tensor([1.0, 1.0, z], dtype=torch.float64)) for z in (1.0, 12.0))
    plain = scene_of().measure
    for voxels in ((thick, thin), (thin, thick)):
        measure = scene_of(voxels=voxels).measure
        changed = [not torch.equal(a, b) for a, b in ((measure.moving[:, -1], plain.moving[:, -1]),
                                                      (measure.fixed[:, 0], plain.fixed[:, 0]))]  # in their own tones
        assert changed == [voxels[1] is thick, voxels[0] is thick]
