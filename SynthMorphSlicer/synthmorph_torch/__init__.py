"""SynthMorph brain registration in PyTorch: an engine that knows nothing about screens or Slicer.

    import synthmorph_torch as sm
    model = sm.load_model("auto", device="auto")
    result = model.register(moving, fixed, regularization=0.5)
    moved = result.warp()

Names are imported when first used, so that importing the package costs nothing.
"""
from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .errors import SynthMorphError
    from .images import read_image, read_labels, write_image
    from .loader import load_model
    from .registration import Model, Registration
    from .transforms import read_transform, write_transform

__version__ = "0.1.0"
_HOME = {"SynthMorphError": "errors", "read_image": "images", "read_labels": "images", "write_image": "images",
         "load_model": "loader", "Model": "registration", "Registration": "registration",
         "read_transform": "transforms", "write_transform": "transforms"}
__all__ = ["Model", "Registration", "SynthMorphError", "load_model", "read_image", "read_labels", "read_transform",
           "write_image", "write_transform"]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_HOME[name]}", __name__), name)
