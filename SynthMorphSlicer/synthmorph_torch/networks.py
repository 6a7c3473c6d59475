"""The SynthMorph networks: feature detector, hypernetwork U-Net and the joint model (SPEC 2 and 3).

Every network is a stack of 3x3x3 convolutions described by a :class:`Widths`, so that official and compact models
differ in numbers only. ``state_dict`` order equals the order in which Keras stores the arrays (SPEC 1.1).
"""
from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from . import lean, matrices, spatial

LEAK = 0.2  # negative slope of every leaky ReLU


@dataclass(frozen=True)
class Widths:
    """Filters per convolution of a U-Net: one number per level or layer.

    ``encoder`` levels end in a max-pool, ``decoder`` levels in an upsampling and a skip connection, ``extra``
    convolutions keep the resolution. ``output`` channels follow without pooling.
    """

    inputs: int
    encoder: tuple[int, ...]
    decoder: tuple[int, ...]
    extra: tuple[int, ...]
    output: int

    def layers(self) -> list[tuple[int, int]]:
        """Channels (in, out) of every convolution in stored order."""
        layers, channels = [], self.inputs
        for width in self.encoder:
            layers.append((channels, width))
            channels = width
        for width, skip in zip(self.decoder, reversed(self.encoder), strict=False):
            layers.append((channels, width))
            channels = width + skip
        for width in (*self.extra, self.output):
            layers.append((channels, width))
            channels = width
        return layers


OFFICIAL_DETECTOR = Widths(1, (256,) * 4, (), (256,) * 4, 64)
OFFICIAL_DEFORMABLE = Widths(2, (256,) * 4, (256,) * 4, (256,) * 4, 3)
OFFICIAL_HYPER_UNITS = (32, 32, 32, 32)

Kernels = Sequence[tuple[Tensor, Tensor]]


def run_unet(x: Tensor, widths: Widths, kernels: Kernels) -> Tensor:
    """Apply a U-Net with explicit kernels to (N, C, X, Y, Z); the last convolution has no activation.

    A skip connection never meets its upsampled branch in memory: convolution is linear, so both are convolved
    separately and added, which is exact. No more than three activations of full size exist at a time. With kernels in
    half precision, everything inside is; what comes out has the type of what went in.
    """
    if kernels[0][0].dtype == torch.bfloat16 != x.dtype:
        return run_unet(x.to(torch.bfloat16), widths, kernels).to(x.dtype)
    if lean.suits(x, len(widths.encoder), widths.layers()[0][1]):
        return lean.run_unet(x, len(widths.encoder), len(widths.decoder), kernels, LEAK)
    skips: list[Tensor] = []
    levels = len(widths.encoder)
    for level, (kernel, bias) in enumerate(kernels[:levels]):
        x = _activate(_convolve(x, kernel, bias))
        if levels - level <= len(widths.decoder):
            skips.append(x)
        x = F.max_pool3d(x, 2)
    last = len(kernels) - levels - 1
    for number, (kernel, bias) in enumerate(kernels[levels:]):
        channels = x.shape[1]
        x = _convolve(x, kernel[:, :channels], bias)
        if channels < kernel.shape[1]:  # what was upsampled is gone before its skip connection is convolved
            x += _convolve(skips.pop(), kernel[:, channels:])
        if number < last:
            x = _activate(x)
        if number < len(widths.decoder):
            x = F.interpolate(x, scale_factor=2.0, mode="nearest")
    return x


def _activate(x: Tensor) -> Tensor:
    # in place where no gradient needs the input: the largest activations of the official network are 2 GiB each
    return F.leaky_relu(x, LEAK, inplace=True)


def _convolve(x: Tensor, kernel: Tensor, bias: Tensor | None = None) -> Tensor:
    """Zero-padded convolution (SPEC 3.1)."""
    return F.conv3d(x, _to_channels_last(kernel), bias, padding=1)


def _to_channels_last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last_3d)


class UNet(nn.Module):
    """Plain convolutions run as a U-Net, or as the encoder and further layers of one."""

    def __init__(self, widths: Widths) -> None:
        super().__init__()
        self.widths = widths
        self.convolutions = nn.ModuleList(nn.Conv3d(i, o, 3, padding=1) for i, o in widths.layers())
        for kernel, bias in self.kernels():
            nn.init.kaiming_normal_(kernel, LEAK)
            nn.init.zeros_(bias)

    def kernels(self) -> list[tuple[Tensor, Tensor]]:
        """Kernel (out, in, 3, 3, 3) and bias (out,) of every convolution."""
        parameters = iter(self.convolutions.parameters())
        return list(zip(parameters, parameters, strict=True))

    def forward(self, image: Tensor) -> Tensor:
        """(N, C, X, Y, Z) -> (N, M, x, y, z)."""
        return run_unet(_to_channels_last(image), self.widths, self.kernels())


class AffineDetector(UNet):
    """Feature detector whose barycentres define an affine transform (SPEC 2).

    The official detector has no decoder and non-negative ReLU features. The compact one adds a decoder and is
    trained so that each map is the probability of one anatomical label (``softmax=True``; the last map, "none of
    these", is dropped).
    """

    def __init__(self, widths: Widths = OFFICIAL_DETECTOR, softmax: bool = False) -> None:
        super().__init__(widths)
        self.softmax = softmax

    def logits(self, image: Tensor) -> Tensor:
        """(N, 1, X, Y, Z) -> (N, M, x, y, z) before the last activation."""
        return super().forward(image)

    def forward(self, image: Tensor) -> Tensor:
        """Non-negative feature maps (N, M, x, y, z) of images (N, 1, X, Y, Z)."""
        features = self.logits(image)
        if self.softmax:
            return features.float().softmax(1)[:, :-1]
        return F.relu(features)


def detect_affine(moving_features: Tensor, fixed_features: Tensor, shape: Sequence[int]) -> Tensor:
    """Symmetric fixed-to-moving matrices in voxels relative to the image centre, (N, 4, 4) float64 (SPEC 2.2-2.4)."""
    centres = [spatial.barycentres(f, shape) for f in (moving_features, fixed_features)]
    powers = [f.sum(dim=(2, 3, 4)) for f in (moving_features, fixed_features)]
    weights = [p / p.sum(1, keepdim=True) for p in powers]
    return matrices.symmetric_affine(centres[0], centres[1], weights[0] * weights[1])


def uncentre(matrix: Tensor, shape: Sequence[int]) -> Tensor:
    """Turn matrices about the centre of an image into zero-based index coordinates (SPEC 2.6)."""
    shift = torch.eye(4, dtype=matrix.dtype, device=matrix.device)
    shift[:3, 3] = (matrix.new_tensor(list(shape)) - 1) / 2
    return shift @ matrix @ torch.linalg.inv(shift)


class HyperUNet(nn.Module):
    """U-Net whose kernels are a function of the regularization weight lambda (SPEC 3.1)."""

    def __init__(self, widths: Widths = OFFICIAL_DEFORMABLE, units: Sequence[int] = OFFICIAL_HYPER_UNITS) -> None:
        super().__init__()
        self.widths, self.units = widths, tuple(units)
        dense = [nn.Linear(i, o) for i, o in zip((1, *units), units, strict=False)]
        self.dense = nn.ModuleList(dense)
        layers = [HyperConvolution(units[-1], i, o) for i, o in widths.layers()]
        self.hyper = nn.ModuleList(layers)
        with torch.no_grad():
            for layer in dense:  # a unit that is silent for all lambdas could never learn
                layer.bias.uniform_(0.1, 0.5)
            # each unit of the first layer starts as a hinge with its corner inside (0, 1), in turn rising and falling
            side = torch.where(torch.arange(units[0]) % 2 == 0, 1.0, -1.0)
            corner = (torch.arange(units[0]) // 2 + 1) / ((units[0] + 1) // 2 + 1)
            dense[0].weight.copy_(2 * side[:, None])
            dense[0].bias.copy_(-2 * side * corner)
            # start near the identity transform
            layers[-1].kernel_bias.mul_(0.1)
            layers[-1].kernel.mul_(0.1)

    def bake(self, regularization: Tensor | float) -> list[tuple[Tensor, Tensor]]:
        """Kernel (out, in, 3, 3, 3) and bias (out,) of every convolution for one lambda."""
        weight = next(self.parameters())
        x = torch.as_tensor(regularization, device=weight.device, dtype=weight.dtype).reshape(1)
        for layer in self.dense:
            x = F.relu(layer(x))
        return [layer(x) for layer in self.hyper]

    def forward(self, images: Tensor, regularization: Tensor | float) -> Tensor:
        """(N, 2, X, Y, Z) -> (N, 3, X, Y, Z) for one lambda."""
        return run_unet(_to_channels_last(images), self.widths, self.bake(regularization))


class HyperConvolution(nn.Module):
    """Dense layers that produce one convolution: arrays in stored order HK, Hk, BK, Bk (SPEC 3.1)."""

    def __init__(self, units: int, inputs: int, outputs: int) -> None:
        super().__init__()
        self.shape = (3, 3, 3, inputs, outputs)
        fan_in = 27 * inputs
        std = (2 / (1 + LEAK**2) / fan_in) ** 0.5
        # lambda modulates kernels mildly at first: the sum keeps the variance that a plain network would have
        self.kernel = nn.Parameter(0.3 * std / units**0.5 * torch.randn(units, fan_in * outputs))
        self.kernel_bias = nn.Parameter(std * torch.randn(fan_in * outputs))
        self.bias = nn.Parameter(torch.zeros(units, outputs))
        self.bias_bias = nn.Parameter(torch.zeros(outputs))

    def forward(self, code: Tensor) -> tuple[Tensor, Tensor]:
        kernel = torch.addmv(self.kernel_bias, self.kernel.t(), code).view(self.shape)
        bias = torch.addmv(self.bias_bias, self.bias.t(), code)
        return kernel.permute(4, 3, 0, 1, 2).contiguous(memory_format=torch.channels_last_3d), bias


def symmetric_velocity(moving: Tensor, fixed: Tensor, widths: Widths, kernels: Kernels, batch: bool = False) -> Tensor:
    """Velocity field (N, 3, X, Y, Z) that changes its sign when the images are swapped (SPEC 3.3 step 2).

    Args:
        moving, fixed: (N, C, X, Y, Z), images or feature maps on the mid-space grid.
        batch: run both input orders as one batch, faster on a GPU but with twice the memory.
    """
    forward, backward = torch.cat([moving, fixed], 1), torch.cat([fixed, moving], 1)
    if batch:
        both = run_unet(_to_channels_last(torch.cat([forward, backward])), widths, kernels)
        one, other = both.chunk(2)
    else:
        one = run_unet(_to_channels_last(forward), widths, kernels)
        other = run_unet(_to_channels_last(backward), widths, kernels)
    return (one.float() - other.float()) / 2


@dataclass(frozen=True)
class MidSpace:
    """Where a mid-space grid lies in both network images, and the velocity field found there.

    ``to_moving`` and ``to_fixed`` are (4, 4) float64 matrices from mid-space grid indices to the indices of the
    network images (A1 and A2 of SPEC 3.2); ``velocity`` is (1, 3, X, Y, Z) in mid-space voxels, or None if the
    transform is affine. ``features`` are maps of both images that a model wants to see again for another lambda.
    """

    to_moving: Tensor
    to_fixed: Tensor
    shape: tuple[int, int, int]
    velocity: Tensor | None = None
    features: tuple[Tensor, Tensor] | None = None

    @property
    def affine(self) -> Tensor:
        """Fixed-to-moving matrix between the network images."""
        return self.to_moving @ torch.linalg.inv(self.to_fixed)

    def rigid(self) -> MidSpace:
        """The same with the nearest rigid motion as affine part, and the centre of the grid where it was.

        Both matrices become a rotation times one voxel size: swapping the images still swaps them, which the rigid
        part of SPEC 2.5 does not allow.
        """
        scale = (torch.linalg.det(self.to_moving[:3, :3]) * torch.linalg.det(self.to_fixed[:3, :3])) ** (1 / 6)
        centre = (self.to_fixed.new_tensor(self.shape) - 1) / 2

        def similar(matrix: Tensor) -> Tensor:
            u, _, v = torch.linalg.svd(matrix[:3, :3])
            result = torch.eye(4, dtype=matrix.dtype, device=matrix.device)
            result[:3, :3] = scale * u @ v
            result[:3, 3] = matrix[:3, :3] @ centre + matrix[:3, 3] - result[:3, :3] @ centre
            return result

        return dataclasses.replace(self, to_moving=similar(self.to_moving), to_fixed=similar(self.to_fixed))

    def map_grid(self, grid_to_source: Tensor, shape: Sequence[int], steps: int, forward: bool = True) -> Tensor:
        """Where the points of a grid in one image end up in the other: A1 (I + d1) A2^-1 (SPEC 3.3 step 4).

        Args:
            grid_to_source: (4, 4) matrix from grid indices to indices of the fixed network image.
            shape: size of the grid.
            steps: scaling and squaring steps.
            forward: False maps from the moving to the fixed image instead.

        Returns:
            (1, 3, *shape) indices in the other network image.
        """
        source, target = (self.to_fixed, self.to_moving) if forward else (self.to_moving, self.to_fixed)
        y = spatial.affine_grid(torch.linalg.inv(source) @ grid_to_source, shape)
        return spatial.transform_points(target, y if self.velocity is None else y + self.bent(y, steps, forward))

    def bent(self, points: Tensor, steps: int, forward: bool = True, exactly: bool = False) -> Tensor:
        """How far the velocity takes points of the mid-space from the fixed to the moving image, or back.

        Args:
            points: (1, 3, *shape) indices of the grid.
            steps: scaling and squaring steps.
            exactly: follow each point instead of sampling what scaling and squaring finds on the grid (SPEC 5);
                detailed fields then differ less from the inverse of their opposite.

        Returns:
            (1, 3, *shape) in voxels of the grid.
        """
        assert self.velocity is not None
        velocity = self.velocity if forward else -self.velocity
        if exactly:
            return spatial.flow(velocity, points, -(-steps // 3))
        return spatial.sample(spatial.integrate(velocity, steps), points)

    def total_field(self, steps: int, forward: bool = True) -> Tensor:
        """Mixed field of SPEC 3.3 step 4, (1, 3, *shape): index in the other network image minus half-grid index."""
        double = torch.diag(self.to_fixed.new_tensor([2.0, 2.0, 2.0, 1.0]))
        reached = self.map_grid(double, self.shape, steps, forward)
        return reached - spatial.identity_grid(self.shape, reached.device)


def half_resolution(image: Tensor) -> Tensor:
    """Every second voxel of (N, C, X, Y, Z), cropped to floor(n / 2) (SPEC 2.1)."""
    x, y, z = (n // 2 for n in image.shape[2:])
    return image[:, :, ::2, ::2, ::2][:, :, :x, :y, :z]


def full_field(total: Tensor, shape: Sequence[int]) -> Tensor:
    """Displacement in voxels of the full grid from the mixed half-grid field (SPEC 3.3 step 5)."""
    grid = spatial.identity_grid(shape, total.device)
    half = grid[None] / 2
    return half + spatial.sample(total, half) - grid


def parameter_count(modules: Iterable[nn.Module]) -> int:
    """Number of parameters of several networks together."""
    return sum(p.numel() for module in modules for p in module.parameters())
