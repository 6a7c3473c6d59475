"""Run one peer on one pair of images: the process that is measured.

    python runners.py METHOD MOVING FIXED OUT [--threads N] [--labels FILE]

It needs only the peer's own packages, so that each peer may live in an environment of its own. Every method writes
``OUT/moved.nii.gz``, the moving image on the fixed grid by the peer's own resampling, and ``OUT/transforms.txt``, which
names the files of its transform in the order in which they act on a point of the fixed image: displacement fields in
LPS millimetres on a grid in the world, and ITK matrices. Settings are those that the peers' manuals recommend for
brains or ship as their defaults; nobody was tuned for this benchmark. With ``--labels``, nothing is registered: the
label map is carried by what an earlier run left in OUT, in the way that the peer's manual recommends for label maps, to
``OUT/labels.nii.gz``; nothing is written for peers whose manuals say no more than "nearest neighbour".
"""
from __future__ import annotations

import argparse
import importlib.metadata
import os
import subprocess
from pathlib import Path
from typing import Any

GREEDY_ITERATIONS = "100x50x10"
GREEDY_NCC, GREEDY_NMI = "NCC 2x2x2", "NMI"


def greedy(moving: Path, fixed: Path, out: Path, threads: int, affine: str = GREEDY_NCC, deformable: str = GREEDY_NCC,
           freedom: int = 12) -> None:
    """Greedy (Yushkevich et al. 2016): affine from the images' centres, then deformable, as in its quick start."""
    from picsl_greedy import Greedy3D

    tool, common = Greedy3D(), f"-threads {threads}"
    matrix, warp = out / "greedy.mat", out / "warp.nii.gz"
    tool.execute(f"-i {fixed} {moving} -a -dof {freedom} -m {affine} -n {GREEDY_ITERATIONS} -ia-image-centers "
                 f"-o {matrix} {common}")
    chain = f"{matrix}"
    if deformable:
        tool.execute(f"-i {fixed} {moving} -it {matrix} -m {deformable} -n {GREEDY_ITERATIONS} -o {warp} {common}")
        chain = f"{warp} {matrix}"
    tool.execute(f"-rf {fixed} -rm {moving} {out / 'moved.nii.gz'} -r {chain} {common}")
    write_matrix(ras_to_lps(read_numbers(matrix)), out / "affine.tfm")
    finish(out, *(["warp.nii.gz"] if deformable else []), "affine.tfm")


def greedy_labels(labels: Path, fixed: Path, out: Path, threads: int) -> None:
    from picsl_greedy import Greedy3D

    chain = f"{out / 'warp.nii.gz'} {out / 'greedy.mat'}"
    Greedy3D().execute(f"-rf {fixed} -ri LABEL 0.2vox -rm {labels} {out / 'labels.nii.gz'} -r {chain} "
                       f"-threads {threads}")


def ants(moving: Path, fixed: Path, out: Path, threads: int, kind: str = "antsRegistrationSyNQuick[s]") -> None:
    """ANTs (Avants et al.): by default the recipe of antsRegistrationSyNQuick.sh, rigid, affine and SyN."""
    import ants as antspy

    options: dict[str, Any] = {"aff_metric": "mattes"} if kind == "Rigid" else {}
    result = antspy.registration(antspy.image_read(str(fixed)), antspy.image_read(str(moving)), kind,
                                 outprefix=str(out / "ants_"), random_seed=1, **options)
    antspy.image_write(result["warpedmovout"], str(out / "moved.nii.gz"))
    finish(out, *[Path(name).name for name in result["fwdtransforms"]])


def ants_labels(labels: Path, fixed: Path, out: Path, threads: int) -> None:
    import ants as antspy

    names = [str(out / name) for name in (out / "transforms.txt").read_text().split()]
    antspy.image_write(antspy.apply_transforms(antspy.image_read(str(fixed)), antspy.image_read(str(labels)), names,
                                               interpolator="genericLabel"), str(out / "labels.nii.gz"))


def convexadam(moving: Path, fixed: Path, out: Path, threads: int) -> None:
    """ConvexAdam (Siebert et al. 2021) with its defaults after Greedy's affine transform, which it needs."""
    import numpy as np
    import SimpleITK as sitk
    import torch
    from convexAdam.convex_adam_MIND import convex_adam_pt

    torch.set_num_threads(threads)
    greedy(moving, fixed, out, threads, GREEDY_NMI, "")
    images = [sitk.GetArrayFromImage(sitk.ReadImage(str(path), sitk.sitkFloat32)).T.copy()
              for path in (fixed, out / "moved.nii.gz")]
    voxels = convex_adam_pt(*images, device=torch.device("cpu"), dtype=torch.float32)  # (i, j, k, 3), fixed voxels
    grid = sitk.ReadImage(str(fixed))
    to_world = np.reshape(grid.GetDirection(), (3, 3)) * grid.GetSpacing()
    field = sitk.GetImageFromArray(np.ascontiguousarray((voxels @ to_world.T).transpose(2, 1, 0, 3)), isVector=True)
    field.CopyInformation(grid)
    sitk.WriteImage(sitk.Cast(field, sitk.sitkVectorFloat32), str(out / "warp.nii.gz"))
    affine = sitk.AffineTransform(sitk.ReadTransform(str(out / "affine.tfm")))
    both = sitk.CompositeTransform([affine, sitk.DisplacementFieldTransform(field)])
    sitk.WriteImage(sitk.Resample(sitk.ReadImage(str(moving), sitk.sitkFloat32), grid, both), str(out / "moved.nii.gz"))
    finish(out, "warp.nii.gz", "affine.tfm")


def niftyreg(moving: Path, fixed: Path, out: Path, threads: int) -> None:
    """NiftyReg (Modat et al. 2010): reg_aladin and reg_f3d with their defaults."""
    import niftyreg as package
    import SimpleITK as sitk

    def tool(name: str, *arguments: str | Path) -> None:
        subprocess.run([package.bin_path / name, *map(str, arguments)], check=True)

    images = ("-ref", fixed, "-flo", moving)
    tool("reg_aladin", *images, "-aff", out / "affine.txt", "-res", out / "affine.nii.gz", "-omp", str(threads))
    tool("reg_f3d", *images, "-aff", out / "affine.txt", "-cpp", out / "cpp.nii.gz", "-res", out / "moved.nii.gz",
         "-omp", str(threads))
    tool("reg_transform", "-ref", fixed, "-disp", out / "cpp.nii.gz", out / "disp.nii.gz")
    field = sitk.ReadImage(str(out / "disp.nii.gz"))
    parts = [sitk.VectorIndexSelectionCast(field, n) for n in range(3)]  # RAS; ITK wants LPS
    turned = sitk.Compose(-parts[0], -parts[1], parts[2])
    turned.CopyInformation(sitk.ReadImage(str(fixed)))
    sitk.WriteImage(turned, str(out / "warp.nii.gz"))
    finish(out, "warp.nii.gz")


def elastix(moving: Path, fixed: Path, out: Path, threads: int) -> None:
    """Elastix (Klein et al. 2010) with its default parameter maps: translation, affine, B-spline."""
    import itk

    parameters = itk.ParameterObject.New()
    for stage in ("translation", "affine", "bspline"):
        parameters.AddParameterMap(parameters.GetDefaultParameterMap(stage))
    images = [itk.imread(str(path), itk.F) for path in (fixed, moving)]
    moved, result = itk.elastix_registration_method(*images, parameter_object=parameters, number_of_threads=threads,
                                                    log_to_console=False)
    itk.imwrite(moved, str(out / "moved.nii.gz"))
    field = itk.transformix_deformation_field(images[1], result)
    itk.imwrite(field, str(out / "warp.nii.gz"))
    finish(out, "warp.nii.gz")


def classical(moving: Path, fixed: Path, out: Path, threads: int) -> None:
    """An affine transform by SimpleITK: moments, then Mattes mutual information at three resolutions."""
    import SimpleITK as sitk

    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(threads)
    target, source = (sitk.ReadImage(str(path), sitk.sitkFloat32) for path in (fixed, moving))
    start = sitk.CenteredTransformInitializer(target, source, sitk.AffineTransform(3),
                                              sitk.CenteredTransformInitializerFilter.MOMENTS)
    method = sitk.ImageRegistrationMethod()
    method.SetMetricAsMattesMutualInformation(32)
    method.SetMetricSamplingStrategy(method.REGULAR)
    method.SetMetricSamplingPercentage(0.1)
    method.SetInterpolator(sitk.sitkLinear)
    method.SetOptimizerAsRegularStepGradientDescent(1.0, 1e-4, 200, gradientMagnitudeTolerance=1e-6)
    method.SetOptimizerScalesFromPhysicalShift()
    method.SetShrinkFactorsPerLevel([4, 2, 1])
    method.SetSmoothingSigmasPerLevel([4, 2, 1])
    method.SetInitialTransform(sitk.AffineTransform(start), inPlace=False)
    affine = method.Execute(target, source)
    sitk.WriteImage(sitk.Resample(source, target, affine), str(out / "moved.nii.gz"))
    sitk.WriteTransform(sitk.CompositeTransform(affine).GetBackTransform(), str(out / "affine.tfm"))
    finish(out, "affine.tfm")


def read_numbers(path: Path) -> list[list[float]]:
    return [[float(x) for x in line.split()] for line in path.read_text().splitlines() if line.strip()]


def ras_to_lps(matrix: list[list[float]]) -> list[list[float]]:
    sign = (-1, -1, 1, 1)
    return [[sign[r] * value * sign[c] for c, value in enumerate(row)] for r, row in enumerate(matrix)]


def write_matrix(matrix: list[list[float]], path: Path) -> None:
    """A (4, 4) matrix as an ITK transform file."""
    numbers = [matrix[r][c] for r in range(3) for c in range(3)] + [matrix[r][3] for r in range(3)]
    path.write_text("#Insight Transform File V1.0\n#Transform 0\nTransform: AffineTransform_double_3_3\n"
                    f"Parameters: {' '.join(f'{x:.17g}' for x in numbers)}\nFixedParameters: 0 0 0\n")


def finish(out: Path, *names: str) -> None:
    (out / "transforms.txt").write_text("".join(f"{name}\n" for name in names))


RUNS: dict[str, tuple[Any, dict[str, Any], str]] = {  # method: function, settings, the package that it is
    "affine": (classical, {}, "SimpleITK"),
    "greedy-affine": (greedy, {"affine": GREEDY_NMI, "deformable": ""}, "picsl-greedy"),
    "greedy": (greedy, {}, "picsl-greedy"),
    "greedy-nmi": (greedy, {"affine": GREEDY_NMI, "deformable": GREEDY_NMI}, "picsl-greedy"),
    "greedy-rigid": (greedy, {"affine": GREEDY_NMI, "deformable": "", "freedom": 6}, "picsl-greedy"),
    "ants": (ants, {}, "antspyx"),
    "ants-rigid": (ants, {"kind": "Rigid"}, "antspyx"),
    "convexadam": (convexadam, {}, "convexadam"),
    "niftyreg": (niftyreg, {}, "niftyreg"),
    "elastix": (elastix, {}, "itk-elastix"),
}
CARRIES = {"greedy": greedy_labels, "greedy-nmi": greedy_labels, "ants": ants_labels}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("method", choices=RUNS)
    parser.add_argument("paths", type=Path, nargs="*", metavar="MOVING FIXED OUT")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--labels", type=Path, help="label map of the moving image to carry")
    parser.add_argument("--version", action="store_true", help="print the version of the peer, or fail without it")
    options = parser.parse_args()
    run, settings, package = RUNS[options.method]
    if options.version:
        print(importlib.metadata.version(package))
        return
    for name in ("OMP_NUM_THREADS", "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = str(options.threads)
    moving, fixed, out = (path.resolve() for path in options.paths)
    labels = options.labels.resolve() if options.labels else None
    os.chdir(out)  # some peers leave files where they are
    if labels:
        if options.method in CARRIES:
            CARRIES[options.method](labels, fixed, out, options.threads)
        return
    run(moving, fixed, out, options.threads, **settings)


if __name__ == "__main__":
    main()
