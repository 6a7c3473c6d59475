"""U-Nets of the official size on a CPU, in a fraction of the memory and of the arithmetic.

Two exact rearrangements of :func:`networks.run_unet`, which remains the definition:

* Full-resolution activations of the official network take 2 GiB each. Here layers pass on single planes, and each
  keeps only the six it needs, so that no such activation ever exists as a whole. The first level is computed again
  where its skip connection enters, which is cheap because the input has two channels only.
* Convolutions use Winograd's minimal filtering along two axes: F(4, 3) finds 4 outputs of a 3-tap filter with 6
  multiplications instead of 12 (Lavin and Gray, CVPR 2016), so 4 x 4 outputs take 36 instead of 144. Convolutions of
  an upsampled grid act on the values of the small grid and the steps between them: 27 multiplications for 8 outputs
  instead of 216.

A plane is a tensor (Y, Z, C), contiguous, so that its channels are innermost; planes follow each other along X.
"""
from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import chain, islice, pairwise, repeat

import torch
import torch.nn.functional as F
from torch import Tensor

TILE = 4  # outputs of F(4, 3)
MINIMUM_BYTES = 256 << 20  # size of an activation from which all this pays
FAST_CHANNELS = 64  # input channels and
FAST_PLANE = 32 * 32  # voxels per plane from which Winograd's transforms cost less than they save
FOLDED_CHANNELS = 4  # input channels up to which taps are better turned into channels
UPSAMPLED_ROWS = 8  # coarse rows at a time, so that their products stay in a cache

Planes = Iterator[Tensor]
Source = Callable[[], Sequence[Tensor] | Planes]

# Interpolation points 0, +-A, +-B and infinity. These two, exact in binary, lose less precision than the usual 1, 2.
_A, _B = 0.75, 1.5


def suits(images: Tensor, levels: int, width: int) -> bool:
    """Whether to compute a U-Net here: a single image on the CPU, without gradients, with large activations.

    Args:
        images: (N, C, X, Y, Z).
        levels: encoder levels.
        width: filters of the first level.
    """
    shape = images.shape[2:]
    return (images.device.type == "cpu" and images.dtype == torch.float32 and not torch.is_grad_enabled()
            and len(images) == 1 and levels > 0 and not any(n % 2**levels for n in shape)
            and 4 * width * shape.numel() >= MINIMUM_BYTES)


def run_unet(images: Tensor, encoder: int, decoder: int, kernels: Sequence[tuple[Tensor, Tensor]], leak: float
             ) -> Tensor:
    """The same as :func:`networks.run_unet` for images that suit.

    Args:
        images: (1, C, X, Y, Z), every axis divisible by ``2**encoder``.
        encoder: levels that end in a max-pool.
        decoder: levels that end in an upsampling: none, or as many.
        kernels: kernel and bias of every convolution.
        leak: negative slope of the activation.
    """
    remaining = iter(kernels)
    volume = images[0].permute(1, 2, 3, 0).contiguous()
    skips: list[Source] = []
    for level in range(encoder):
        convolution = _Convolution(*next(remaining))
        source: Source = partial(_convolved, volume.unbind, len(volume), convolution, leak)
        if decoder:
            if level > 0:  # small enough to keep
                source = _collect(source(), len(volume)).unbind
            skips.append(source)
        volume = _collect(_pooled(iter(source())), len(volume) // 2)
    source, size, coarse = volume.unbind, len(volume), None
    for _ in range(decoder):
        planes = _convolved(source, size, _Convolution(*next(remaining), coarse), leak)
        coarse = _collect(planes, size)
        source, size = skips.pop(), 2 * size
    *extra, last = remaining
    for layer in extra:
        source = partial(_convolved, source, size, _Convolution(*layer, coarse), leak)
        coarse = None
    output = _collect(_convolved(source, size, _Convolution(*last, coarse), None), size)
    return output.permute(3, 0, 1, 2)[None]


def _collect(planes: Sequence[Tensor] | Planes, count: int) -> Tensor:
    """A volume (X, Y, Z, C) from its planes."""
    planes = iter(planes)
    first = next(planes)
    volume = first.new_empty(count, *first.shape)
    for x, plane in enumerate(chain([first], planes)):
        volume[x] = plane
    return volume


def _pooled(planes: Planes) -> Planes:
    """Max-pool of two voxels along every axis."""
    for even in planes:
        pair = torch.maximum(even, next(planes))
        yield F.max_pool2d(pair.permute(2, 0, 1)[None], 2)[0].permute(1, 2, 0)


def _convolved(source: Source, count: int, convolution: _Convolution, leak: float | None) -> Planes:
    """The ``count`` planes of a zero-padded convolution and its activation, computed as they are asked for."""
    planes = iter(source())
    first = next(planes)
    zero = torch.zeros_like(first)
    padded = chain([zero, first], planes, repeat(zero))
    window = list(islice(padded, 2))
    for start in range(0, count, TILE):
        window += islice(padded, TILE)
        for plane in convolution(window, start)[: count - start]:
            yield plane if leak is None else F.leaky_relu(plane, leak, inplace=True)
        del window[:TILE]


class _Convolution:
    """A 3x3x3 convolution that turns 6 successive planes into the 4 planes around their middle.

    Args:
        kernel: (out, in, 3, 3, 3).
        bias: (out,).
        coarse: (X, Y, Z, C) on a grid of half the density, whose upsampling is the first part of the input. The
            planes are the rest.
    """

    def __init__(self, kernel: Tensor, bias: Tensor, coarse: Tensor | None = None) -> None:
        channels = 0 if coarse is None else coarse.shape[-1]
        self.upsampled = None if coarse is None else _Upsampled(coarse, kernel[:, :channels])
        self.kernel, self.bias = kernel[:, channels:], bias
        self.fast: list[list[tuple[Tensor, Tensor]]] | None = None

    def __call__(self, window: Sequence[Tensor], start: int) -> Sequence[Tensor]:
        rows, columns, channels = window[0].shape
        outputs: Sequence[Tensor]
        if channels <= FOLDED_CHANNELS:
            outputs = self._convolve_folded(window)
        elif rows * columns >= FAST_PLANE and channels >= FAST_CHANNELS:
            if self.fast is None:
                self.fast = _fast_kernels(self.kernel, self.bias)
            outputs = _convolve_fast(window, self.fast)
        else:
            outputs = self._convolve(window)
        if self.upsampled:
            self.upsampled.add_to(outputs, start)
        return outputs

    def _convolve_folded(self, window: Sequence[Tensor]) -> Sequence[Tensor]:
        """With few channels, the taps along X and Y become channels: wide ones are what a CPU is fast at."""
        rows = len(window[0])
        kernel = self.kernel.permute(0, 2, 3, 1, 4).flatten(1, 3)[:, :, None]
        kernel = kernel.contiguous(memory_format=torch.channels_last)
        padded = [F.pad(plane, (0, 0, 0, 0, 1, 1)) for plane in window]
        outputs = []
        for x in range(TILE):
            taps = torch.cat([padded[x + i][j : j + rows] for i in range(3) for j in range(3)], -1)
            output = F.conv2d(taps.permute(2, 0, 1)[None], kernel, self.bias, padding=(0, 1))
            outputs.append(output[0].permute(1, 2, 0).contiguous())
        return outputs

    def _convolve(self, window: Sequence[Tensor]) -> Sequence[Tensor]:
        slab = torch.stack(list(window)).permute(3, 0, 1, 2)[None]
        kernel = self.kernel.contiguous(memory_format=torch.channels_last_3d)
        outputs = F.conv3d(slab, kernel, self.bias, padding=(0, 1, 1))[0]
        return [plane.permute(1, 2, 0).contiguous() for plane in outputs.unbind(1)]


class _Upsampled:
    """Convolution of a volume that is upsampled by repeating voxels, computed without doing so.

    Along one axis, the taps (a, b, c) of an even output fall on the coarse voxels (i-1, i, i), those of an odd one on
    (i, i, i+1). With d(i) = f(i) - f(i-1) and s = a + b + c, the outputs are s f(i) - a d(i) and s f(i) + c d(i+1),
    three products. Along three axes, 27 products make eight outputs, and a plain convolution takes 216.
    """

    def __init__(self, coarse: Tensor, kernel: Tensor) -> None:
        self.coarse = coarse
        pieces = [kernel.double()]  # of (..., out, in, x, y, z), one axis after the other, the last one first
        for _ in range(3):
            pieces = [piece for taps in pieces for piece in _of_values_and_steps(taps)]
        values, steps = pieces[::2], pieces[1::2]  # along X
        self.values, self.before, self.after = (
            [piece.permute(3, 0, 1, 2).flatten(1).float().contiguous() for piece in along_x]
            for along_x in ([v[0] for v in values], [s[0] for s in steps], [s[1] for s in steps]))

    def add_to(self, outputs: Sequence[Tensor], start: int) -> None:
        """Add the result to the output planes from ``start`` on."""
        size, rows, _, _ = self.coarse.shape
        zero = torch.zeros_like(self.coarse[0])
        planes = [self.coarse[x] if 0 <= x < size else zero for x in range(start // 2 - 1, (start + TILE) // 2 + 1)]
        steps = [after - before for before, after in pairwise(planes)]
        for x in range(TILE // 2):
            for first in range(0, rows, UPSAMPLED_ROWS):
                self._add_rows((planes[x + 1], steps[x], steps[x + 1]), outputs[2 * x : 2 * x + 2], first)

    def _add_rows(self, planes: Sequence[Tensor], outputs: Sequence[Tensor], first: int) -> None:
        """The same for a few rows of two output planes, from the values and both steps around one coarse plane."""
        last = min(first + UPSAMPLED_ROWS, len(planes[0]))
        values, before, after = (_values_and_steps(plane, first, last) for plane in planes)
        products = [factor.flatten(0, 1) @ matrix for factor, matrix in zip(values, self.values, strict=True)]
        for output, steps, matrices in zip(outputs, (before, after), (self.before, self.after), strict=True):
            totals = [torch.addmm(product, factor.flatten(0, 1), matrix)
                      for product, factor, matrix in zip(products, steps, matrices, strict=True)]
            _add_spread(totals, output[2 * first : 2 * last])


def _of_values_and_steps(taps: Tensor) -> tuple[Tensor, Tensor]:
    """From taps along the last axis to the factor of values (1, ...), and those of the steps before and after (2, ...).

    Leading axes of earlier calls stay behind the new one.
    """
    a, b, c = taps.unbind(-1)
    return (a + b + c)[None], torch.stack([-a, c])


def _values_and_steps(plane: Tensor, first: int, last: int) -> list[Tensor]:
    """Rows of a plane (Y, Z, C), then their steps along Y, along Z, and along both, with zeros around the plane."""
    rows = F.pad(plane[max(first - 1, 0) : last + 1], (0, 0, 0, 0, int(first == 0), int(last == len(plane))))
    along_y = [rows[1:-1], rows[1:] - rows[:-1]]
    padded = [F.pad(part, (0, 0, 1, 1)) for part in along_y]
    return along_y + [part[:, 1:] - part[:, :-1] for part in padded]


def _add_spread(totals: Sequence[Tensor], output: Tensor) -> None:
    """Add products of values and steps to where they belong in the rows (2Y, 2Z, C) of an output plane."""
    rows, columns, channels = len(output) // 2, output.shape[1] // 2, output.shape[2]
    plain = totals[0].view(rows, columns, channels)
    along_y = totals[1].view(rows + 1, columns, 2, channels)
    along_z = totals[2].view(rows, columns + 1, 2, channels)
    along_both = totals[3].view(rows + 1, columns + 1, 2, 2, channels)
    for z in (0, 1):
        columns_here = slice(z, z + columns)
        values, steps = plain + along_z[:, columns_here, z], along_y + along_both[:, columns_here, :, z]
        for y in (0, 1):
            part = output[y::2, z::2]
            part += values
            part += steps[y : y + rows, :, y]


# Winograd's minimal filtering --------------------------------------------------------------------------------

def _filter_matrix() -> Tensor:
    """(6, 3) float64: from the taps of a filter to the 6 factors."""
    points = [0.0, _A, -_A, _B, -_B]
    rows = []
    for point in points:
        scale = 1.0
        for other in points:
            scale *= point - other if other != point else 1.0
        rows.append([1 / scale, point / scale, point**2 / scale])
    return torch.tensor([*rows, [0.0, 0.0, 1.0]], dtype=torch.float64)


def _output_matrix() -> Tensor:
    """(4, 6) float64: from the 6 products to the outputs; the same as :func:`_to_outputs`."""
    unit = list(torch.eye(6, dtype=torch.float64))
    outputs = [torch.zeros(6, dtype=torch.float64) for _ in range(TILE)]
    _to_outputs(unit, outputs)
    return torch.stack(outputs)


def _to_factors(taps: Sequence[Tensor], factors: Sequence[Tensor]) -> None:
    """Fill the 6 factors of F(4, 3) from 6 successive inputs."""
    t0, t1, t2, t3, t4, t5 = taps
    a, b = _A**2, _B**2
    even, odd = torch.sub(t4, t2, alpha=b), torch.sub(t3, t1, alpha=b)
    torch.add(even, odd, alpha=_A, out=factors[1])
    torch.sub(even, odd, alpha=_A, out=factors[2])
    torch.sub(t5, t3, alpha=b, out=factors[5]).sub_(odd, alpha=a)
    torch.sub(t4, t2, alpha=a, out=even)
    torch.sub(t3, t1, alpha=a, out=odd)
    torch.add(even, odd, alpha=_B, out=factors[3])
    torch.sub(even, odd, alpha=_B, out=factors[4])
    torch.sub(t2, t0, alpha=a, out=odd)
    torch.sub(even, odd, alpha=b, out=factors[0])


def _to_outputs(products: Sequence[Tensor], outputs: Sequence[Tensor]) -> None:
    """Fill the 4 outputs of F(4, 3) from the 6 products."""
    even_a, odd_a = products[1] + products[2], (products[1] - products[2]).mul_(_A)
    even_b, odd_b = products[3] + products[4], products[3] - products[4]
    torch.add(products[0], even_a, out=outputs[0]).add_(even_b)
    torch.add(odd_a, odd_b, alpha=_B, out=outputs[1])
    torch.mul(even_a, _A**2, out=outputs[2]).add_(even_b, alpha=_B**2)
    torch.add(products[5], odd_a, alpha=_A**2, out=outputs[3]).add_(odd_b, alpha=_B**3)


def _fast_kernels(kernel: Tensor, bias: Tensor) -> list[list[tuple[Tensor, Tensor]]]:
    """Kernel (out, in, 1, 3) and bias of every factor along X and Y."""
    matrix = _filter_matrix()
    factors = torch.einsum("tx,oixyz->toiyz", matrix, kernel.double())
    factors = torch.einsum("uy,toiyz->tuoiz", matrix, factors).float()
    # a bias that reaches all outputs alike is one of the products
    share = torch.linalg.pinv(_output_matrix()).sum(1)
    biases = (share[:, None, None] * share[:, None] * bias.double()).float()
    return [
        [(k[:, :, None].contiguous(memory_format=torch.channels_last), b) for k, b in zip(row, shares, strict=True)]
        for row, shares in zip(factors, biases, strict=True)
    ]


def _convolve_fast(window: Sequence[Tensor], kernels: list[list[tuple[Tensor, Tensor]]]) -> Sequence[Tensor]:
    rows, columns, channels = window[0].shape
    tiles = -(-rows // TILE)
    outputs = len(kernels[0][0][1])
    new = window[0].new_empty
    across = [new(TILE * tiles + 2, columns, channels) for _ in range(6)]
    for plane in across:
        plane[0] = 0
        plane[rows + 1 :] = 0
    _to_factors(window, [plane[1 : rows + 1] for plane in across])
    along = [new(tiles, columns, channels) for _ in range(6)]
    for number, (plane, pairs) in enumerate(zip(across, kernels, strict=True)):
        _to_factors([plane[y : y + TILE * tiles - 3 : TILE] for y in range(6)], along)
        products = [F.conv2d(factor.permute(2, 0, 1)[None], *pair, padding=(0, 1))[0].permute(1, 2, 0)
                    for factor, pair in zip(along, pairs, strict=True)]
        result = new(TILE * tiles, columns, outputs)
        _to_outputs(products, [result[y::TILE] for y in range(TILE)])
        across[number] = result  # the factor is not needed again
    planes = [torch.empty_like(across[0]) for _ in range(TILE)]
    _to_outputs(across, planes)
    return [plane[:rows] for plane in planes]
