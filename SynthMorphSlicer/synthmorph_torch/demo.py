"""A registration whose truth is known: the MNI152 template, and a "patient" made from it.

The patient is the template seen through a random affine transform and a smooth random warp, with inverted contrast,
noise and another grid. Its making is a function S from patient points to template points, so a registration T from
template to patient points is judged by how far S(T(p)) is from p, at every point p of the template's brain.
"""
from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from . import files, images, montage, outputs, transforms
from .errors import SynthMorphError
from .geometry import Matrix, Space
from .registration import Model, Registration

TEMPLATE = "datasets/data/mni_icbm152_t1_tal_nlin_sym_09a_converted.nii.gz"
CONTROL_MM = 20.0  # distance between the control points of the random warp
WARP_MM = 3.0  # standard deviation of the displacement of a control point along an axis
NOISE = 0.02  # of the range of intensities
Progress = Callable[[str, float], None]


@dataclass(frozen=True)
class Patient:
    """A made-up patient: image, and the transform from its world to the template's."""

    image: sitk.Image
    to_template: sitk.Transform


@dataclass(frozen=True)
class Outcome:
    """Errors in millimetres over the template's brain: mean and 95th percentile."""

    before: tuple[float, float]
    affine: tuple[float, float]
    after: tuple[float, float]
    registration: Registration
    written: list[Path]


def template_path() -> Path:
    """The MNI152 T1 template inside the installed nilearn package, found without importing nilearn.

    Raises:
        SynthMorphError: nilearn is not installed, or holds no template.
    """
    found = importlib.util.find_spec("nilearn")
    for folder in (found.submodule_search_locations or ()) if found else ():
        if (path := Path(folder) / TEMPLATE).is_file():
            return path
    raise SynthMorphError("The demo needs the MNI152 template inside the nilearn package: install it with 'pip install "
                          "nilearn', or name an image of a brain with --template.")


def thin_out(image: sitk.Image, spacing: float) -> sitk.Image:
    """The same image on a grid of a coarser spacing (mm), smoothed accordingly."""
    if spacing <= 1.01 * min(image.GetSpacing()):
        return image
    space = Space.of(image)
    factors = spacing / space.spacing
    x, y, z = (int(np.ceil(n / f)) for n, f in zip(space.shape, factors, strict=True))
    coarse = Space((x, y, z), space.matrix @ np.diag([*factors, 1.0]))
    smooth = sitk.SmoothingRecursiveGaussian(sitk.Cast(image, sitk.sitkFloat32), 0.4 * spacing)
    return transforms.apply(sitk.Transform(3, sitk.sitkIdentity), smooth, coarse)


def make_patient(template: sitk.Image, seed: int = 0) -> Patient:
    """Draw a patient: rotation up to 20 degrees and shift up to 15 mm along every axis, size within 8 %, and a warp."""
    random = np.random.default_rng(seed)
    space = Space.of(template)
    mask = sitk.GetArrayFromImage(images.foreground(template)).transpose(2, 1, 0)
    brain = space.to_world(np.argwhere(mask))
    centre = brain.mean(0)
    affine = _random_affine(random, centre)
    warp = _random_warp(random, brain.min(0) - 50, brain.max(0) + 50)
    to_template = sitk.CompositeTransform([warp, transforms.affine_transform(affine)])  # the affine acts first
    spacing = np.array([1.0, 1.0, 1.2]) * np.mean(space.spacing)
    head = (brain - affine[:3, 3]) @ np.linalg.inv(affine[:3, :3]).T  # where the patient's brain lies
    low, high = head.min(0) - 15, head.max(0) + 15
    x, y, z = (int(n) for n in np.ceil((high - low) / spacing))
    grid = Space((x, y, z), np.vstack([np.column_stack([np.diag(spacing), low]), [0, 0, 0, 1]]))
    moved = sitk.GetArrayFromImage(transforms.apply(to_template, template, grid))
    inverted = _invert(moved, float(sitk.GetArrayViewFromImage(template).max()), random)
    return Patient(grid.image(inverted), to_template)


def _random_affine(random: np.random.Generator, centre: Matrix) -> Matrix:
    """(4, 4) from patient to template points, about the template's centre."""
    turn = sitk.Euler3DTransform()
    turn.SetRotation(*np.deg2rad(random.uniform(-20, 20, 3)).tolist())
    linear = np.reshape(turn.GetMatrix(), (3, 3)) @ np.diag(random.uniform(0.92, 1.08, 3))
    linear = linear @ (np.eye(3) + np.triu(random.uniform(-0.05, 0.05, (3, 3)), 1))
    matrix: Matrix = np.eye(4)
    matrix[:3, :3] = linear
    matrix[:3, 3] = centre - linear @ centre + random.uniform(-15, 15, 3)
    return matrix


def _random_warp(random: np.random.Generator, low: Matrix, high: Matrix) -> sitk.Transform:
    """Cubic B-spline with random control points; smooth, too gentle to fold, and zero at the edge of its domain."""
    mesh = np.ceil((high - low) / CONTROL_MM).astype(int)
    warp = sitk.BSplineTransform(3, 3)
    warp.SetTransformDomainOrigin(low.tolist())
    warp.SetTransformDomainPhysicalDimensions((mesh * CONTROL_MM).tolist())
    warp.SetTransformDomainMeshSize(mesh.tolist())
    x, y, z = (int(n) + 3 for n in mesh)
    points = np.clip(random.normal(0, WARP_MM, (3, z, y, x)), -2 * WARP_MM, 2 * WARP_MM)
    points *= np.pad(np.ones((z - 6, y - 6, x - 6)), 3)  # beyond the domain ITK takes the displacement for zero
    warp.SetParameters(points.ravel().tolist())
    return warp


def _invert(voxels: NDArray[np.float32], top: float, random: np.random.Generator) -> NDArray[np.float32]:
    """Dark becomes bright except the background, as between a T1- and a T2-weighted scan; then noise."""
    inside = voxels > 0.05 * top
    inverted = np.where(inside, 1.25 * top - voxels, 0.4 * voxels)
    noise = random.normal(0, NOISE * top, voxels.shape)
    return np.clip(inverted + noise, 0, None).astype(np.float32)


def error_mm(forward: sitk.Transform, patient: Patient, template: sitk.Image) -> tuple[float, float]:
    """Mean and 95th percentile of the distance |S(T(p)) - p| over the template's brain.

    Args:
        forward: T, from template to patient points.
        patient: with S, from patient to template points.
        template: the template; every fourth voxel along each axis is looked at.
    """
    round_trip = sitk.CompositeTransform([patient.to_template, forward])  # the last one acts first
    space = Space.of(template)
    thin = Space(tuple(-(-n // 4) for n in space.shape), space.matrix @ np.diag([4.0, 4, 4, 1]))  # type: ignore[arg-type]
    displacement = sitk.GetArrayFromImage(transforms.to_displacement_field(round_trip, thin))
    brain = sitk.GetArrayFromImage(images.foreground(template))[::4, ::4, ::4] != 0
    distance = np.linalg.norm(displacement[brain], axis=-1)
    return float(distance.mean()), float(np.percentile(distance, 95))


def run(model: Model, folder: Path, template: Path | None = None, spacing: float = 1.0, seed: int = 0,
        refine: int | None = None, progress: Progress | None = None) -> Outcome:
    """Make a patient, register it to the template, and write everything worth looking at into a folder.

    Args:
        model: the networks.
        folder: made if need be; files in it are replaced.
        template: image to use instead of MNI152.
        spacing: voxel size of both images in mm; coarser is faster.
        seed: of the random patient.
        refine: iterations of instance optimisation; None takes the model's default.
        progress: called with the name of a stage and the fraction of all work done before it.
    """
    tell = progress or (lambda stage, fraction: None)
    outputs.check_folder(folder)
    tell("making a patient", 0.0)
    fixed = thin_out(images.check_image(images.read_image(template or template_path()), "template"), spacing)
    patient = make_patient(fixed, seed)
    result = model.register(patient.image, fixed, refine=refine,
                            progress=lambda stage, done: tell(stage, 0.05 + 0.6 * done))
    folder.mkdir(parents=True, exist_ok=True)
    wanted = outputs.Outputs(
        moved=folder / "moved.nii.gz", transform=folder / "patient_to_template.h5",
        inverse=folder / "template_to_patient.h5", jacobian=folder / "jacobian.nii.gz", report=folder / "report",
        measures=folder / "measures.json")
    wanted.check("joint")
    images.write_image(fixed, folder / "template.nii.gz")
    images.write_image(patient.image, folder / "patient.nii.gz")
    written = wanted.write(result, [], lambda stage, done: tell(stage, 0.65 + 0.3 * done))
    tell("measuring the error", 0.95)
    identity = sitk.Transform(3, sitk.sitkIdentity)
    errors = [error_mm(t, patient, fixed)
              for t in (identity, transforms.affine_transform(result.affine), result.fixed_to_moving)]
    title = f"SynthMorph demo: mean error {errors[0][0]:.1f} mm before, {errors[2][0]:.1f} mm after registration"
    montage.write_montage(folder / "montage.png", fixed, patient.image, result.fixed_to_moving, title)
    names = ("before", "affine_part", "after")
    files.write_text(folder / "error.json", json.dumps(
        {name: {"mean_mm": round(e[0], 3), "p95_mm": round(e[1], 3)} for name, e in zip(names, errors, strict=True)},
        indent=2) + "\n")
    made = [folder / name for name in ("template.nii.gz", "patient.nii.gz")]
    return Outcome(errors[0], errors[1], errors[2], result,
                   [*made, *written, folder / "montage.png", folder / "error.json"])
