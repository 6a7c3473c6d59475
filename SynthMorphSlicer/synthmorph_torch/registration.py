"""The pipeline: two images and options in, a :class:`Registration` out.

Every door - command line, batch, worker, evaluation - calls :meth:`Model.register`. The steps are those of
mri_synthmorph (SPEC 6, 7): resample both images to their network space, find the affine transform and the velocity
field in the mid-space, and express the result between the native spaces.
"""
from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import SimpleITK as sitk
import torch
from torch import Tensor

from . import images, labels, matrices, polish, quality, transforms
from .errors import DeviceError, ImageError, UsageError
from .geometry import Space, index_map, network_space
from .models import Networks
from .networks import MidSpace
from .refinement import Refinement, smoothed_around
from .residual import REFINED_VOXEL, Residual
from .sampling import Sampler
from .stages import Progress, Stages

TRANSFORMS = ("joint", "affine", "rigid", "deform")
EXTENTS = (192, 256)
UNFOLDING = 12  # times that a refined velocity may be smoothed where it folds


@dataclass(frozen=True)
class Options:
    """Settings of one registration; see :meth:`Model.register`."""

    transform: str = "joint"
    regularization: float = 0.5
    steps: int = 7
    extent: int = 256
    refine: int | None = None
    preview: bool = False  # for a quick look: refined by coarse images only, stored on a coarse grid, folds left alone

    def check(self) -> None:
        """Raise UsageError for values that mean nothing."""
        if self.transform not in TRANSFORMS:
            raise UsageError(f"Transform '{self.transform}' is unknown: choose one of {', '.join(TRANSFORMS)}.")
        if not 0 < self.regularization < 1:
            raise UsageError(f"Regularization {self.regularization:g} is out of range: choose a value between 0 and 1, "
                             "both excluded (0.5 is a good start).")
        if self.steps < 5:
            raise UsageError(f"{self.steps} integration steps are too few for a smooth inverse: choose 5 or more.")
        if self.extent not in EXTENTS:
            raise UsageError(f"Extent {self.extent} is not supported: choose 192 or 256 (millimetres).")
        if self.refine is not None and self.refine < 0:
            raise UsageError(f"The number of refinement iterations must not be negative, but is {self.refine}.")


@dataclass
class Inputs:
    """Two images in network space, ready for the networks; kept so that another lambda needs no new resampling."""

    moving: Tensor  # (1, 1, N, N, N) in [0, 1]
    fixed: Tensor
    samplers: tuple[Sampler, Sampler]
    moving_net: Space
    fixed_net: Space
    residual_net: Space  # unsheared network space around the fixed image, on which the residual field is stored
    opposite_net: Space  # the same around the moving image
    initial: np.ndarray | None  # what was asked for
    mid_space: bool


@dataclass
class Model:
    """Networks on a device, with the name and checksum under which their results are reported."""

    networks: Networks
    name: str
    device: torch.device
    checksum: str = ""
    default_refinement: int = 0
    reason: str = ""
    licence: str = ""
    precision: str = "full"  # of the networks, see :func:`loader.load_model`
    elsewhere: Callable[[torch.device], Model] | None = None  # the same model on another device

    def register(self, moving: sitk.Image, fixed: sitk.Image, transform: str = "joint", regularization: float = 0.5,
                 steps: int = 7, extent: int = 256, initial: np.ndarray | None = None, mid_space: bool = False,
                 refine: int | None = None, progress: Progress | None = None, preview: bool = False) -> Registration:
        """Bring ``moving`` onto ``fixed``.

        Args:
            moving, fixed: scalar 3-D images with any geometry.
            transform: "joint" (affine and deformable), "affine", "rigid", or "deform" (images already aligned).
            regularization: lambda in (0, 1); higher is smoother.
            steps: scaling and squaring steps, at least 5.
            extent: edge of the network's field of view in millimetres, 192 or 256.
            initial: (4, 4) matrix from fixed to moving world points (LPS millimetres), applied before registration.
            mid_space: apply half of ``initial`` to each image, as mri_synthmorph's ``-M``.
            refine: iterations of instance optimisation; None takes the model's default. With 0 the networks' word
                stands; otherwise two scans of one head are first aligned rigidly on the images (:mod:`.polish`).
            progress: called with the name of a stage and the fraction of all work done before it.
            preview: leave out the finest level of the refinement, and what keeps a detailed warp from folding;
                :meth:`Registration.with_regularization` with the same lambda goes on from there.

        Raises:
            ImageError: an image cannot be registered. UsageError: an option makes no sense. DeviceError: the device
            ran out of memory and nothing smaller could be tried.
        """
        options = Options(transform, regularization, steps, extent, refine, preview)
        options.check()
        images.check_image(moving, "moving image")
        images.check_image(fixed, "fixed image")
        if transform == "deform" and initial is None:
            images.check_overlap(moving, fixed)
        return self._with_less_memory(
            lambda model, options: model._anew(moving, fixed, options, initial, mid_space, progress), options)

    def _anew(self, moving: sitk.Image, fixed: sitk.Image, options: Options, initial: np.ndarray | None,
              mid_space: bool, progress: Progress | None) -> Registration:
        stages = Stages(progress)
        stages.start("preparing images", 0.0)
        inputs = self._prepare(moving, fixed, options, initial, mid_space)
        return self._run(Registration(self, moving, fixed, options, inputs), stages)

    def _with_less_memory(self, attempt: Callable[[Model, Options], Registration], options: Options) -> Registration:
        """Run; when memory runs out, run on the CPU, then with the smaller extent, and note it in the result."""
        model, notes = self, list[str]()
        while True:
            try:
                result = attempt(model, options)
                result.notes = notes
                return result
            except (MemoryError, RuntimeError) as error:
                if not out_of_memory(error):
                    raise
            if is_gpu(model.device) and model.elsewhere:
                torch.cuda.empty_cache()
                notes = [f"The GPU ran out of memory, so the registration ran on the CPU instead of {model.device}."]
                model = model.elsewhere(torch.device("cpu"))
            elif options.extent > min(EXTENTS):
                notes = [*notes, f"Memory ran out at extent {options.extent}, so extent {min(EXTENTS)} was used."]
                options = dataclasses.replace(options, extent=min(EXTENTS))
            else:
                raise DeviceError("There is not enough memory for this registration: close other programs, or use "
                                  "the compact model.")

    def _prepare(self, moving: sitk.Image, fixed: sitk.Image, options: Options, initial: np.ndarray | None,
                 mid_space: bool) -> Inputs:
        if mid_space and initial is None:
            raise UsageError("Mid-space initialisation needs an initial transform (-M requires -i).")
        spacing = self.networks.spacing
        fixed_net = residual = network_space(Space.of(fixed).center, options.extent, spacing)
        moving_net = opposite = network_space(Space.of(moving).center, options.extent, spacing)
        if options.transform == "deform":
            moving_net = fixed_net
        if initial is not None:
            fixed_net, moving_net = self._initialise(residual, initial, mid_space)
        samplers = Sampler(moving), Sampler(fixed)
        return Inputs(samplers[0].on(moving_net, self.device), samplers[1].on(fixed_net, self.device), samplers,
                      moving_net, fixed_net, residual, opposite, initial, mid_space)

    @staticmethod
    def _initialise(space: Space, initial: np.ndarray, halfway: bool) -> tuple[Space, Space]:
        """Network spaces of the fixed and the moving image for an initial fixed-to-moving matrix (SPEC 6)."""
        if abs(np.linalg.det(initial[:3, :3])) < 1e-6:
            raise UsageError("The initial transform is singular: give an invertible affine matrix.")
        if not halfway:
            return space, dataclasses.replace(space, matrix=initial @ space.matrix)
        root = square_root(torch.as_tensor(initial)).numpy()
        return (dataclasses.replace(space, matrix=np.linalg.inv(root) @ space.matrix),
                dataclasses.replace(space, matrix=root @ space.matrix))

    @torch.inference_mode()
    def _run(self, result: Registration, stages: Stages) -> Registration:
        options, inputs, iterations = result.options, result.inputs, result.iterations
        if result.start is None:
            stages.start("affine transform", 0.2)
            self._align(result, on_images=bool(iterations))
        assert result.start is not None
        if options.transform in ("affine", "rigid"):
            result.net_affine = result.start.affine
            return result.finish(stages)
        if result.refinement is None:
            stages.start("deformable transform", 0.35)
            if result.one_head and iterations:  # what the networks still see between two such scans is their own error
                velocity = torch.zeros(1, 3, *result.start.shape, device=inputs.fixed.device)
            else:
                velocity = self.networks.velocity(inputs.moving, inputs.fixed, result.start, options.regularization)
            result.mid = dataclasses.replace(result.start, velocity=velocity)
            if iterations:
                result.refinement = Refinement(
                    inputs.moving, inputs.fixed, result.mid, mid_spacing(inputs, result.mid), iterations,
                    options.regularization, result.sample, result.one_head, result.voxels)
        if result.refinement is not None:
            stages.start("refinement", 0.5)
            result.mid = result.refinement.run(stages.inner, options.preview)
            if not options.preview:
                result.refinement = None  # done, and it keeps what it began with
        assert result.mid is not None
        result.net_affine = result.mid.affine
        return result.finish(stages)

    def _align(self, result: Registration, on_images: bool) -> None:
        """Find the mid-space, with a rigid motion found on the images themselves where that is better."""
        inputs, transform = result.inputs, result.options.transform
        try:
            result.start = self.networks.mid_space(inputs.moving, inputs.fixed, transform)
        except ValueError as error:
            raise ImageError(f"The two images could not be aligned: {error} Check that both show a brain, or give "
                             "an initial transform.") from None
        if on_images and transform != "deform" and result.start.features is not None:
            margin = 0.0 if transform == "rigid" else polish.MARGIN
            better = polish.rigid_motion(result.start, mid_spacing(inputs, result.start), result.sample, margin)
            if better is not None:
                result.start, result.one_head = better, transform != "rigid"


@dataclass
class Registration:
    """Result of a registration: two opposite transforms and everything that follows from them.

    ``fixed_to_moving`` maps fixed world points to moving world points (LPS millimetres) and is what one samples the
    moving image with; ``moving_to_fixed`` is its opposite. Both are :class:`SimpleITK.Transform`: an affine
    transform, or a composite of a residual displacement field and an affine transform, ``T(p) = A (p + r(p))``.
    """

    model: Model = field(repr=False)
    moving: sitk.Image = field(repr=False)
    fixed: sitk.Image = field(repr=False)
    options: Options
    inputs: Inputs = field(repr=False)
    start: MidSpace | None = field(default=None, repr=False)  # the mid-space before any velocity
    mid: MidSpace | None = field(default=None, repr=False)
    refinement: Refinement | None = field(default=None, repr=False)  # what a preview has left to do
    net_affine: Tensor | None = field(default=None, repr=False)
    fixed_to_moving: sitk.Transform = field(default=None, repr=False)  # type: ignore[assignment]
    moving_to_fixed: sitk.Transform = field(default=None, repr=False)  # type: ignore[assignment]
    seconds: dict[str, float] = field(default_factory=dict)
    one_head: bool = False  # both images show one head, so the affine part is a rigid motion found on the images
    notes: list[str] = field(default_factory=list)  # what had to be done otherwise than asked

    @property
    def iterations(self) -> int:
        """Iterations of instance optimisation: those asked for, or the model's default."""
        return self.model.default_refinement if self.options.refine is None else self.options.refine

    @property
    def exactly(self) -> bool:
        """Whether the transforms show all the detail of a refined field, and none of its folds."""
        return bool(self.iterations) and not self.options.preview

    @property
    def affine(self) -> np.ndarray:
        """(4, 4) affine part, fixed to moving world points, LPS millimetres."""
        assert self.net_affine is not None
        inputs = self.inputs
        return inputs.moving_net.matrix @ self.net_affine.cpu().numpy() @ np.linalg.inv(inputs.fixed_net.matrix)

    def sample(self, which: int, matrix: Tensor, shape: Sequence[int]) -> Tensor:
        """The moving (0) or fixed (1) image on a grid of its own; see :data:`halfway.Sample`."""
        inputs, (x, y, z) = self.inputs, shape
        net = (inputs.moving_net, inputs.fixed_net)[which]
        grid = Space((x, y, z), net.matrix @ matrix.cpu().numpy())
        return inputs.samplers[which].on(grid, inputs.fixed.device, "quick")

    @property
    def voxels(self) -> tuple[Tensor, Tensor]:
        """Edges of what the moving and the fixed image resolve, (3, 3) each: columns, voxels of its network image."""
        nets = self.inputs.moving_net, self.inputs.fixed_net
        moving, fixed = (torch.as_tensor(self._edges(*one), device=self.inputs.fixed.device)
                         for one in zip(self.inputs.samplers, nets, strict=True))
        return moving, fixed

    @staticmethod
    def _edges(sampler: Sampler, net: Space) -> np.ndarray:
        own = Space.of(sampler.image)
        return index_map(own, net)[:3, :3] * (sampler.resolved / own.spacing)

    def finish(self, stages: Stages) -> Registration:
        """Express the networks' result as transforms between the native worlds."""
        for sampler in self.inputs.samplers:
            sampler.smooth.clear()  # a kept result must not keep copies of the images
        stages.start("writing transforms", 0.9)
        affine = self.affine
        if self.mid is None or self.mid.velocity is None:
            self.fixed_to_moving, self.moving_to_fixed = (transforms.affine_transform(m)
                                                          for m in (affine, np.linalg.inv(affine)))
        else:
            self._express(affine)
        stages.start("", 1.0)
        if stages.progress:
            stages.progress("done", 1.0)
        self.seconds = stages.seconds
        return self

    def _express(self, affine: np.ndarray) -> None:
        """Set both transforms; smooth a refined velocity where they would fold."""
        there, back = self._residual(True), self._residual(False)
        if self.exactly:
            for attempt in range(UNFOLDING):
                places = torch.cat([there.folds(), back.folds()])
                if not len(places):
                    break
                assert self.mid is not None
                self.mid, changed = smoothed_around(self.mid, places, 1.0 + 0.2 * attempt)
                there.update(self.mid, changed)
                back.update(self.mid, changed)
        self.fixed_to_moving, self.moving_to_fixed = (
            transforms.residual_transform(one.field()[0].cpu().numpy(), one.grid, matrix)
            for one, matrix in ((there, affine), (back, np.linalg.inv(affine))))

    def _residual(self, forward: bool) -> Residual:
        assert self.mid is not None
        inputs, networks, exactly = self.inputs, self.model.networks, self.exactly
        lattice, source = ((inputs.residual_net, inputs.fixed_net) if forward else
                           (inputs.opposite_net, inputs.moving_net))
        lattice = lattice.scaled(REFINED_VOXEL / networks.spacing if exactly else networks.residual_factor)
        return Residual(self.mid, source, lattice, forward, self.options.steps, exactly, networks.fades)

    def with_regularization(self, regularization: float, progress: Progress | None = None, preview: bool = False
                            ) -> Registration:
        """The same registration with another lambda; reuses the affine part and the images in network space.

        The lambda of a ``preview`` (see :meth:`Model.register`) in full goes on from there.
        """
        options = dataclasses.replace(self.options, regularization=regularization, preview=preview)
        options.check()
        refinement = self.refinement if self.options.regularization == regularization else None

        def attempt(model: Model, options: Options) -> Registration:
            inputs = self.inputs
            if model is not self.model or options.extent != self.options.extent:
                return model._anew(self.moving, self.fixed, options, inputs.initial, inputs.mid_space, progress)
            again = Registration(model, self.moving, self.fixed, options, inputs, self.start, one_head=self.one_head,
                                 refinement=refinement)
            return model._run(again, Stages(progress))

        again = self.model._with_less_memory(attempt, options)
        again.notes = [*self.notes, *again.notes]  # it still runs elsewhere, or smaller
        return again

    def warp(self, moving: sitk.Image | None = None, interpolation: str = "linear", fill: float = 0.0) -> sitk.Image:
        """An image of the moving space (by default the moving image itself) on the grid of the fixed image."""
        return transforms.apply(self.fixed_to_moving, moving or self.moving, self.fixed, interpolation, fill)

    def warp_inverse(self, fixed: sitk.Image | None = None, interpolation: str = "linear", fill: float = 0.0
                     ) -> sitk.Image:
        """An image of the fixed space on the grid of the moving image."""
        return transforms.apply(self.moving_to_fixed, fixed or self.fixed, self.moving, interpolation, fill)

    def warp_labels(self, moving_labels: sitk.Image) -> sitk.Image:
        """A label map of the moving space on the grid of the fixed image; the same integers, nothing new."""
        return labels.warp_labels(self.fixed_to_moving, moving_labels, self.fixed)

    def jacobian(self, log: bool = False) -> sitk.Image:
        """Determinant of the Jacobian of the whole map at every fixed voxel: local volume change."""
        return quality.jacobian_map(self.fixed_to_moving, self.fixed, log=log)

    def provenance(self) -> dict[str, object]:
        """Model, checksum, device, options and seconds per stage, ready for JSON."""
        return {"model": self.model.name, "checksum": self.model.checksum, "device": str(self.model.device),
                "precision": self.model.precision,
                **dataclasses.asdict(self.options), "preview": self.refinement is not None, "one_head": self.one_head,
                "notes": self.notes, "seconds": {k: round(v, 3) for k, v in self.seconds.items()}}

    def measures(self, moving_labels: sitk.Image | None = None, fixed_labels: sitk.Image | None = None
                 ) -> dict[str, object]:
        """All quality measures (see :func:`quality.measures`) together with the provenance."""
        figures = quality.measures(self.fixed_to_moving, self.moving_to_fixed, self.moving, self.fixed,
                                   moving_labels=moving_labels, fixed_labels=fixed_labels)
        return {**self.provenance(), **figures}


def mid_spacing(inputs: Inputs, mid: MidSpace) -> float:
    """Voxel size of the mid-space grid in millimetres, half-way between those that the two images' worlds give it."""
    volumes = [abs(np.linalg.det(net.matrix @ to_image.cpu().numpy()))
               for net, to_image in ((inputs.moving_net, mid.to_moving), (inputs.fixed_net, mid.to_fixed))]
    return round(float(np.prod(volumes)) ** (1 / 6), 6)


def square_root(matrix: Tensor) -> Tensor:
    """Principal square root of an initial transform, or a sentence saying why there is none."""
    try:
        return matrices.sqrtm(matrix)
    except ValueError as error:
        raise UsageError(f"{error} Use it without the mid-space option.") from None


def is_gpu(device: torch.device) -> bool:
    """Whether a device has memory of its own."""
    return device.type != "cpu"


def out_of_memory(error: BaseException) -> bool:
    """Whether an exception means that a device has no memory left; PyTorch has several ways to say so."""
    if isinstance(error, (MemoryError, torch.cuda.OutOfMemoryError)):
        return True
    text = str(error).lower()
    return any(sign in text for sign in ("out of memory", "not enough memory", "can't allocate memory", "bad_alloc"))
