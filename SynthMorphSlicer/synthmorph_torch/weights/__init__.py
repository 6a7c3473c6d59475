"""Network weights: where they are looked for, how they are fetched, read, checked and prepared.

``store`` knows the official files and the cache folder, ``search`` finds files, ``download`` fetches them,
``arrays`` reads Keras and safetensors files without any pickle, ``loading`` turns them into networks and bakes the
hypernetwork.
"""
from __future__ import annotations

from .arrays import StoredArrays, open_arrays, read_metadata, read_safetensors, write_safetensors
from .download import fetch
from .loading import Deformable, convert, load_deformable, load_detector
from .search import WeightChoice, find_weights
from .store import (
    Entry,
    Status,
    cache_folder,
    catalogue,
    checksum,
    clear,
    list_weights,
    resources_folder,
    verify,
)

__all__ = [
    "Deformable", "Entry", "Status", "StoredArrays", "WeightChoice", "cache_folder", "catalogue", "checksum",
    "clear", "convert", "fetch", "find_weights", "list_weights", "load_deformable", "load_detector",
    "open_arrays", "read_metadata", "read_safetensors", "resources_folder", "verify", "write_safetensors",
]
