"""Tones: curves from one contrast to another, what they have in common, and what follows for the similarity."""
from __future__ import annotations

import pytest
import torch
from synthmorph_torch.similarity import FAMILIAR, PULL, STRANGE, LocalCorrelation, gaussian
from synthmorph_torch.tones import FOREGROUND, Relation, common, curve, toned

CONTRASTS = {"darker": lambda i: 0.6 * i, "gamma": lambda i: i**1.5, "inverted": lambda i: 1 - i,
             "unlike": lambda i: (i - 0.45).abs() + 0.05}


@pytest.fixture
def image():
    """A smooth random image, (1, 1, 40, 40, 40), in which all intensities from 0.05 to 1 are as frequent."""
    rough = gaussian(torch.rand(1, 1, 40, 40, 40, generator=torch.Generator().manual_seed(0)), 2.0)
    rank = rough.flatten().argsort().argsort().view(rough.shape)
    return 0.05 + 0.95 * rank / rank.max()


@pytest.mark.parametrize("contrast", CONTRASTS)
def test_curves_turn_one_contrast_into_another(image, contrast):
    other = CONTRASTS[contrast](image)
    found = toned(image, curve(image, other, torch.ones_like(image)))
    assert float((found - other).abs().max()) < 0.05 and float((found - other).abs().mean()) < 0.01


def test_curves_of_what_looks_alike_give_the_mean(image):
    other = (image - image.median()).abs()
    assert float((toned(other, curve(other, image, torch.ones_like(image))) - image).abs().mean()) > 0.02


def test_nothing_stays_nothing(image):
    assert not toned(torch.zeros(3), curve(image, image, torch.ones_like(image))).any()
    assert curve(image, image, torch.zeros_like(image)).isfinite().all()
    relation = Relation.of(image, image, torch.zeros_like(image))
    assert relation.variance == relation.difference == 0.0


@pytest.mark.parametrize("contrast", CONTRASTS)
def test_contrasts_rise_together_or_do_not(image, contrast):
    other = CONTRASTS[contrast](image)
    for moving, fixed in ((image, other), (other, image)):
        assert Relation.of(moving, fixed, torch.ones_like(image)).rising == (contrast in ("darker", "gamma"))


def test_common_tones_meet(image):
    darker = 0.6 * image
    relation = Relation.of(image, darker, torch.ones_like(image))
    met = common(image, relation.to_fixed), common(darker, relation.to_moving)
    assert float((met[0] - met[1]).abs().mean()) < 0.01 < float((image - darker).abs().mean())
    torch.testing.assert_close(met[0], 0.8 * image, atol=0.02, rtol=0)
    assert relation.variance == pytest.approx(sum(float(one.var()) for one in met), rel=0.01)
    assert relation.difference == pytest.approx(float((met[0] - met[1]).square().mean()), rel=0.05, abs=1e-6)


def measure(image, fixed, relation):
    return LocalCorrelation(image, fixed, relation, torch.ones_like(image))


def relation_of(image, difference, rising=True):
    same = curve(image, image, torch.ones_like(image))
    return Relation(same, same, rising, 0.1, 0.1 * difference)


@pytest.mark.parametrize("difference, weight", [(FAMILIAR / 2, 1.0), ((FAMILIAR + STRANGE) / 2, 0.5), (STRANGE, 0.0),
                                                (1.0, 0.0)])
def test_the_more_tones_agree_the_more_their_difference_counts(image, difference, weight):
    assert measure(image, image, relation_of(image, difference)).pull == pytest.approx(weight * PULL / 0.1)


def test_one_correlation_for_one_contrast_and_two_for_others(image):
    alike, unlike = (measure(image, image, relation_of(image, 0.0, rising)) for rising in (True, False))
    assert alike.moving.shape[1] == 1 and unlike.moving.shape[1] == 2
    assert alike.pull > 0.0 == unlike.pull


def test_pull_is_the_slope_of_a_likelihood_with_outliers(image):
    one = measure(image, image, relation_of(image, 0.0))
    moving = (image + 0.3 * torch.randn(image.shape, generator=torch.Generator().manual_seed(1))).clamp(0, 1).double()
    moving.requires_grad_()
    width = 0.15 * one.variance
    likelihood = one.pull * width * torch.exp((image - moving).square() / (-2 * width))
    (expected,) = torch.autograd.grad(likelihood.sum(), moving)
    found = one._pull(moving.detach(), image, torch.ones_like(image))
    shown = (moving > FOREGROUND) & (image > FOREGROUND)
    torch.testing.assert_close(found[shown], expected[shown], rtol=1e-4, atol=1e-6)
    assert not found[~shown].any() and (~shown).any()


def test_brighter_tissue_is_pulled_to_where_it_is_bright():
    """A wide slope of brightness, which no small window's correlation can tell from a shifted one."""
    x = torch.linspace(0.2, 0.8, 40).view(1, 1, 40, 1, 1).expand(1, 1, 40, 40, 40).contiguous()
    zero = torch.zeros(1, 3, 40, 40, 40)
    inner = (slice(None), 0, *(slice(10, -10),) * 3)
    pulled, not_pulled = (measure(x - 0.05, x, relation_of(x, share)).ascent(zero, zero, (0, 0, 0))[2][inner]
                          for share in (0.0, 1.0))
    assert float(pulled.min()) > 10 * float(not_pulled.abs().max())
