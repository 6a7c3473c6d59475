"""Plane-by-plane inference gives what the plain network gives."""
from __future__ import annotations

import pytest
import torch
from synthmorph_torch import lean, networks
from synthmorph_torch.networks import LEAK, Widths

DEEP = Widths(2, (8, 9, 10), (11, 12, 13), (14, 7), 3)
DETECTOR = Widths(1, (6, 7), (), (8, 9), 5)
SINGLE = Widths(2, (8,), (9,), (), 3)


def random_kernels(widths: Widths):
    generator = torch.Generator().manual_seed(0)
    return [(torch.randn(o, i, 3, 3, 3, generator=generator) * (2 / 27 / i) ** 0.5,
             torch.randn(o, generator=generator) * 0.1) for i, o in widths.layers()]


def both(widths, shape):
    kernels = random_kernels(widths)
    images = torch.rand(1, widths.inputs, *shape, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        plain = networks.run_unet(images, widths, kernels)
        found = lean.run_unet(images, len(widths.encoder), len(widths.decoder), kernels, LEAK)
    assert found.shape == plain.shape
    return found, plain


@pytest.mark.parametrize(("fast", "folded"), [(False, 0), (True, 0), (True, 4)])
@pytest.mark.parametrize(("widths", "shape"), [
    (DEEP, (16, 24, 8)), (DEEP, (8, 8, 8)), (DETECTOR, (12, 20, 8)), (SINGLE, (6, 10, 14)), (SINGLE, (2, 2, 2)),
])
def test_same_result(widths, shape, fast, folded, monkeypatch):
    monkeypatch.setattr(lean, "FOLDED_CHANNELS", folded)
    monkeypatch.setattr(lean, "FAST_PLANE", 0 if fast else 1 << 40)
    monkeypatch.setattr(lean, "FAST_CHANNELS", 0)
    found, plain = both(widths, shape)
    assert plain.std() > 0.1
    torch.testing.assert_close(found, plain, atol=2e-5, rtol=1e-5)


def test_wide_network():
    """Real thresholds, and as many channels as make rounding errors add up."""
    found, plain = both(Widths(2, (128, 128), (128, 128), (128,), 3), (32, 32, 64))
    error = (found - plain).abs().max() / plain.abs().max()
    print(f"relative error {error:.1e}")
    assert error < 2e-5


def test_minimal_filtering_is_exact():
    """F(4, 3) in double precision, with any bias."""
    kernel = torch.randn(1, 1, 3, 3, 3, dtype=torch.float64)
    window = [torch.randn(6, 5, 1, dtype=torch.float64) for _ in range(6)]
    pairs = [[(k.double(), b.double()) for k, b in row] for row in lean._fast_kernels(kernel, torch.tensor([2.5]))]
    found = torch.stack(list(lean._convolve_fast(window, pairs)))[..., 0]
    volume = torch.stack(window)[None, None, ..., 0]
    expected = torch.nn.functional.conv3d(volume, kernel, torch.tensor([2.5]).double(), padding=(0, 1, 1))[0, 0]
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)  # kernels are rounded to float32


def test_only_large_images_without_gradients_suit():
    big = torch.zeros(1, 2, 64, 64, 64).expand(1, 2, 64, 64, 64)
    with torch.no_grad():
        assert lean.suits(big, 4, 256)
        assert not lean.suits(big, 4, 32)
        assert not lean.suits(big.expand(2, -1, -1, -1, -1), 4, 256)
        assert not lean.suits(big[..., :62], 4, 256)
        assert not lean.suits(big.half(), 4, 256)
    assert not lean.suits(big, 4, 256)
