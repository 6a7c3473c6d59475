"""Two images half-way: looking at them part by part finds what looking at them as a whole would."""
from __future__ import annotations

import pytest
import torch
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

    def make(inside=brain):
        still = MidSpace(eye, eye, SHAPE, torch.zeros(1, 3, *SHAPE))
        return Scene(*images, still, 3.0, 2.0, 3.0, None, inside)

    return make


@pytest.fixture
def velocity():
    return gaussian(8 * torch.randn(1, 3, *SHAPE, generator=torch.Generator().manual_seed(2)), 2.0)


def test_parts_add_up(scene_of, velocity, monkeypatch):
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


def test_half_way_there_is_half_the_flow(scene_of, velocity):
    forward, backward = scene_of()._halves(velocity)
    for found, sign in ((forward, 1), (backward, -1)):
        expected = spatial.flow(sign * velocity / 2, spatial.identity_grid(SHAPE)[None], 8)[0]
        inner = (slice(None), *(slice(3, -3),) * 3)
        assert float((found - expected)[inner].norm(dim=0).mean()) < 0.02 * float(expected[inner].norm(dim=0).mean())
