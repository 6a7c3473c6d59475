"""The files in which the worker's answers travel: images, and transforms as matrix and field."""
from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from .protocol import Message


def write_file(image: Any, path: Path) -> str:
    """Write an image; gives its path as text."""
    import SimpleITK as sitk
    sitk.WriteImage(image, str(path))
    return str(path)


def describe_transform(transform: Any, path: Path) -> Message:
    """An affine matrix and, if there is one, a residual displacement field applied before it, as file and geometry.

    Returns:
        ``affine`` (4, 4 nested lists, LPS millimetres), ``field`` (a .npy file of float32 (k, j, i, 3), LPS
        millimetres, or None) and ``matrix`` (4, 4: field index (i, j, k) to LPS world, or None).
    """
    import numpy as np
    import SimpleITK as sitk

    from .geometry import Space, sitk_affine_to_matrix
    if transform.IsLinear():
        return {"affine": sitk_affine_to_matrix(transform).tolist(), "field": None, "matrix": None}
    affine, residual = np.eye(4), transform
    if transform.GetName() == "CompositeTransform":
        composite = sitk.CompositeTransform(transform)
        first, residual = (composite.GetNthTransform(n) for n in (0, 1))  # ITK applies the last one first
        affine = sitk_affine_to_matrix(first.Downcast())
    field = sitk.DisplacementFieldTransform(residual).GetDisplacementField()
    np.save(path, sitk.GetArrayFromImage(field).astype(np.float32))
    return {"affine": affine.tolist(), "field": str(path), "matrix": Space.of(field).matrix.tolist()}


def moved_by(transform: Any, request: Message, report: Callable[..., None]) -> Message:
    """What ``outputs`` asks for, of any transform; the same files as for a registration."""
    from . import images, quality, transforms
    from .labels import warp_labels
    outputs, folder = request["outputs"], Path(request["outputs"]["folder"])
    report("writing results", 0.6)
    answer: Message = {"fixed_to_moving": describe_transform(transform, folder / "forward.npy")}
    moving, fixed = (images.read_image(request[key]) for key in ("moving", "fixed"))
    if outputs.get("moved"):
        answer["moved"] = write_file(transforms.apply(transform, moving, fixed), folder / "moved.mha")
    if outputs.get("jacobian"):
        report("Jacobian", 0.8)
        answer["jacobian"] = write_file(quality.jacobian_map(transform, fixed), folder / "jacobian.mha")
    answer["labels"] = [write_file(warp_labels(transform, images.read_labels(path), fixed), folder / f"labels{n}.mha")
                        for n, path in enumerate(outputs.get("labels") or ())]
    return answer
