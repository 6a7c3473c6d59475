"""A velocity stored as a residual field: what is changed afterwards is as if it had been there from the beginning."""
from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from synthmorph_torch import refinement, spatial
from synthmorph_torch.geometry import network_space
from synthmorph_torch.networks import MidSpace
from synthmorph_torch.residual import Residual
from synthmorph_torch.similarity import gaussian

SHAPE, SPACING = (32, 36, 30), 3.0


@pytest.fixture
def mid():
    """Mid-space of a slightly turned pair with a velocity that folds in places."""
    turn = torch.eye(4, dtype=torch.float64)
    turn[:3, :3] = torch.linalg.matrix_exp(torch.tensor([[0.0, 0.1, 0], [-0.1, 0, 0.05], [0, -0.05, 0]])).double()
    turn[:3, 3] = torch.tensor([1.0, -0.5, 2.0])
    noise = torch.randn(1, 3, *SHAPE, generator=torch.Generator().manual_seed(4))
    velocity = 25 * gaussian(noise, 1.6) * spatial.border_window(SHAPE, "cpu", 4)
    return MidSpace(turn, torch.linalg.inv(turn), SHAPE, velocity)


def residual(mid: MidSpace, forward: bool) -> Residual:
    source = network_space(np.zeros(3), 36 * SPACING, SPACING)
    return Residual(mid, source, source.scaled(0.5), forward, 7, True, True)


@pytest.mark.parametrize("forward", [True, False])
def test_an_update_is_as_good_as_a_new_one(mid, forward):
    one = residual(mid, forward)
    before, places = one.field().clone(), one.folds()
    assert len(places)
    smoother, changed = refinement.smoothed_around(mid, places, 1.0)
    one.update(smoother, changed)
    expected = residual(smoother, forward).field()
    assert (expected - before).abs().max() > 1.0
    # a path is looked at in three places, so that one may pass by what has changed: by hundredths of a millimetre
    assert (one.field() - expected).abs().max() < 0.05
    assert float((one.field() - expected).abs().mean()) < 1e-4


def test_what_did_not_change_is_left_alone(mid):
    one = residual(mid, True)
    before = one.field().clone()
    nothing = torch.zeros(1, 1, *SHAPE, dtype=torch.bool)
    one.update(dataclasses.replace(mid, velocity=torch.zeros_like(mid.velocity)), nothing)
    torch.testing.assert_close(one.field(), before, rtol=0, atol=0)
